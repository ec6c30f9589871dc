"""The house's rules: imports point one way, and what answers at once imports nothing heavy."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lamm_cl"
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Absolute names of what a file imports, wherever in it."""
    found = set()
    here = path.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = ".".join([*here[: len(here) - node.level], *filter(None, [node.module])]) if node.level else node.module
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def importers(module: str) -> set[str]:
    return {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any(name == module or name.startswith(f"{module}.") for name in imports(path))
    }


def test_the_command_lines_choices_are_those_there_are():
    """Repeated there, since asking what draws would import it."""
    from lamm_cl import plots, report, tables
    from lamm_cl.cli import results

    assert set(results.FIGURES) == set(plots.FIGURES)
    assert set(results.FORMATS) == {"terminal", *report.RENDERERS}
    assert set(results.KINDS) == set(tables.KINDS)


def test_open_clip_is_imported_where_the_towers_are_loaded_and_where_they_were_made():
    assert importers("open_clip") <= {"clip.py", "backbones.py", "mini/pretrain.py"}


def test_avalanches_training_is_imported_by_the_loop_alone():
    assert importers("avalanche.training") == {"train.py"}


def test_rich_belongs_to_the_command_line_and_the_terminals_tables():
    assert importers("rich") <= {"cli/screen.py", "cli/progress.py", "report.py", "tables.py"}


LAYERS = ["errors", "files", "yaml_facts", "config", "vision", "transformer", "clip", "backbones", "prompts", "methods", "model",
          "records", "state", "data", "stream", "features", "sweep", "train", "bench"]  # fmt: skip


@pytest.mark.parametrize("layer", ["vision", "transformer", "clip", "prompts", "methods", "model", "stream", "features", "train"])
def test_imports_point_one_way(layer):
    place = PACKAGE / f"{layer}.py"
    for path in [place] if place.exists() else sorted((PACKAGE / layer).glob("*.py")):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "lamm_cl" and len(parts) > 1 and parts[1] in LAYERS and parts[1] != layer:
                assert LAYERS.index(parts[1]) < LAYERS.index(layer), f"{path.name} imports {name}"


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_what_makes_tables_and_figures_never_imports_torch():
    loaded = modules_after(
        "import lamm_cl.cli, lamm_cl.report, lamm_cl.plots, lamm_cl.metrics, lamm_cl.records, lamm_cl.data, lamm_cl.config"
    )
    assert not loaded & {"torch", "avalanche", "open_clip"}


def test_a_run_never_imports_pandas_or_matplotlib_for_itself():
    """Avalanche itself imports them; ours must not."""
    for name in ("pandas", "matplotlib"):
        assert not importers(name) & {"train.py", "sweep.py", "model.py", "stream.py", "features.py", "clip.py", "bench.py"}


def test_the_command_line_starts_without_anything_heavy():
    assert not modules_after("import lamm_cl.cli") & {"torch", "avalanche", "open_clip", "pandas", "matplotlib", "rich", "numpy"}


def test_nothing_is_unpickled():
    for path in FILES:
        text = path.read_text()
        assert "import pickle" not in text and "allow_pickle=True" not in text, path
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, f"{path}: {call}"
        assert not re.search(r"yaml\.(load|unsafe_load|full_load)\(", text.replace("Loader=", "")) or "SafeLoader" in text, path


def test_no_widths_are_written_down():
    """512 and 768 belong to one architecture: ask the tower."""
    for name in ("prompts.py", "model.py", "transformer.py", *[f"methods/{p.name}" for p in (PACKAGE / "methods").glob("*.py")]):
        code = "\n".join(line.split("#")[0] for line in (PACKAGE / name).read_text().splitlines())
        assert not re.search(r"\b(512|768)\b", code), name
