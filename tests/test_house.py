"""The house's rules: wings import only from those below, nobody in a circle, and what answers at once imports nothing heavy."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lamm_cl"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]

# From the ground up: a file may import from its own wing and from those of the lines above it.
WINGS = {
    "errors": "the one kind of mistake that people make",
    "deferred": "packages that are imported on the way and not used",
    "extras": "packages that only some commands need",
    "files": "files that are whole or absent",
    "leaving": "how a process ends",
    "seeds": "one for each purpose",
    "vision": "what must happen before torchvision is imported",
    "yaml_facts": "YAML without surprises",
    "config": "what a scenario and a card may say",
    "mini": "the embedded worlds and CLIP",
    "data": "names and splits: lists of (image, class)",
    "towers": "the frozen CLIP",
    "learner": "what papers are made of",
    "methods": "papers",
    "results": "what runs leave",
    "reports": "tables, figures, pages",
    "sweeping": "many runs",
    "training": "one run",
    "bench": "speed",
    "cli": "the screen",
    "library": "the public names",
    "__main__": "python -m lamm_cl",
}
NEVER = {  # wing -> what it may not even import on the way
    "mini": {"training", "learner", "towers", "config"},
    "results": {"config", "mini", "data", "towers", "learner", "methods"},
    "reports": {"config", "mini", "data", "towers", "learner", "methods"},
    "sweeping": {"mini", "towers", "learner", "methods", "reports"},
    "learner": {"methods", "mini", "data"},
    "towers": {"data", "mini"},
    "training": {"reports", "methods"},
}
WITHOUT_TORCH = ("errors", "deferred", "extras", "files", "leaving", "seeds", "yaml_facts", "config", "data", "results",
                 "reports", "sweeping", "cli")  # fmt: skip


def imports(path: Path) -> set[str]:
    """Absolute names of what a file imports, wherever in it, for a type checker too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def wing_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def wings_imported(path: Path) -> set[str]:
    """The wings, this file's own left out, that a file imports from."""
    parts = (name.split(".") for name in imports(path) if name.startswith("lamm_cl."))
    return {part[1] for part in parts if part[1] in WINGS} - {wing_of(path)}


def importers(module: str) -> set[str]:
    return {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any(name == module or name.startswith(f"{module}.") for name in imports(path))
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_file_imports_from_wings_below_its_own(name):
    path, order = PACKAGE / name, list(WINGS)
    mine = wing_of(path)
    if name == "__init__.py":
        assert wings_imported(path) == {"library"}  # for a type checker: its __getattr__ imports when a name is asked for
        return
    assert mine in WINGS, f"{name}: a wing that the list does not know"
    for other in wings_imported(path):
        assert order.index(other) < order.index(mine), f"{name} imports {other}, which lies above it"
        assert other not in NEVER.get(mine, ()), f"{name} imports {other}"


def test_no_import_runs_in_a_circle():
    """Imports inside functions and those for a type checker counted."""
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in FILES}
    arrows = {name: {other for other in imports(path) if other in modules and other != name} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in arrows[name]:
                visit(other, (*way, name))
            done.add(name)

    for name in modules:
        visit(name, ())


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("__init__.py") and name != "__init__.py"])
def test_the_init_of_a_wing_stays_empty(name):
    """Importing one room must not wake the others."""
    assert not [node for node in ast.parse((PACKAGE / name).read_text()).body if not isinstance(node, ast.Expr)]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_has_at_most_450_lines(name):
    assert len((PACKAGE / name).read_text().splitlines()) <= 450


@pytest.mark.parametrize("name", NAMES)
def test_no_private_name_is_used_in_another_file(name):
    private = {each for each in imports(PACKAGE / name) if each.startswith("lamm_cl.") and re.search(r"\._[a-z]", each)}
    assert not private


def test_the_command_lines_choices_are_those_there_are():
    """Repeated there, since asking what draws would import it."""
    from lamm_cl.cli import results
    from lamm_cl.reports import builders, figures, renderers

    assert set(results.FIGURES) == set(figures.FIGURES)
    assert set(results.FORMATS) == {"terminal", *renderers.RENDERERS}
    assert set(results.KINDS) == set(builders.KINDS)


def test_open_clip_is_imported_where_the_towers_are_loaded_and_where_they_were_made():
    assert importers("open_clip") <= {"towers/clip.py", "towers/backbones.py", "towers/weights.py", "mini/pretrain.py"}


def test_avalanche_belongs_to_the_training_of_a_run():
    assert importers("avalanche.training") == {"training/loop.py"}
    assert {name.split("/")[0] for name in importers("avalanche")} == {"training"}


def test_rich_belongs_to_the_command_line_and_the_terminals_tables():
    assert importers("rich") <= {"cli/screen.py", "cli/progress.py", "reports/renderers.py"}


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_planning_listing_and_tables_never_import_torch():
    """Every room of their wings at once."""
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in FILES if wing_of(path) in WITHOUT_TORCH]
    loaded = modules_after(f"import {', '.join(sorted(names))}")
    assert not loaded & {"torch", "avalanche", "open_clip"}


def test_torch_begins_at_one_wall():
    """Below it nothing imports torch, lazily neither; the command line reaches over it by importing rooms, not torch itself."""
    for name in importers("torch"):
        assert wing_of(PACKAGE / name) not in WITHOUT_TORCH, name


def test_a_run_never_imports_pandas_or_matplotlib_for_itself():
    """Avalanche itself imports them; ours must not."""
    for name in ("pandas", "matplotlib"):
        assert {each.split("/")[0] for each in importers(name)} <= {"reports", "library"}  # which only names their types


def test_the_command_line_starts_without_anything_heavy():
    loaded = modules_after("import lamm_cl.cli.main")
    assert not loaded & {"torch", "avalanche", "open_clip", "pandas", "matplotlib", "rich", "numpy", "pydantic"}


def test_the_library_is_imported_without_anything_heavy():
    loaded = modules_after("import lamm_cl; dir(lamm_cl)")
    assert not loaded & {"torch", "avalanche", "open_clip", "pandas", "matplotlib", "rich", "numpy", "pydantic"}
    assert not any(name.startswith("lamm_cl.") for name in loaded)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_unpickled(name):
    text = (PACKAGE / name).read_text()
    assert "import pickle" not in text and "allow_pickle=True" not in text
    for call in re.findall(r"torch\.load\([^)]*\)", text):
        assert "weights_only=True" in call, call
    assert not re.search(r"yaml\.(load|unsafe_load|full_load)\(", text.replace("Loader=", "")) or "SafeLoader" in text


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("learner/", "methods/", "towers/"))])
def test_no_widths_are_written_down(name):
    """512 and 768 belong to one architecture: ask the tower."""
    code = "\n".join(line.split("#")[0] for line in (PACKAGE / name).read_text().splitlines())
    assert not re.search(r"\b(512|768)\b", code)
