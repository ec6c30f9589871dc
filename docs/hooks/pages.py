"""What the site has beside the pages of docs/: pages made from cards, scenarios, the command line and the notebook, and the
files outside docs/ that pages link to.  A hook of mkdocs; nothing of it is committed."""

import argparse
import csv
import inspect
import json
import logging
import posixpath
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from lamm_cl.cli.listing import short_paper, text_of
from lamm_cl.cli.main import parser
from lamm_cl.config import uses
from lamm_cl.config.cards import card_names, load_card, load_scenario, scenario_names
from lamm_cl.config.schema import Card

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference"
PIECES = ("context", "labels", "loss", "head", "tower", "memory")
PLAIN = ("coop.Words", "lamm.Names", "zeroshot.Template")  # words and names: whose paper they come from explains nothing
DEMOS = ("demo-methods", "demo-prompts", "demo")  # results on the four embedded worlds in halves, the first that has a method
STREAMS = {  # where methods and their variants were measured: scenarios of both -> what a card calls them
    ("field-demo", "field-demo-variants"): "field-demo's four worlds",
    ("features-imagenet-10", "features-imagenet-10-variants"): "ImageNet's features in ten experiences (features-imagenet-10)",
    ("features-pets25", "features-pets25-variants"): "the features of 25 pets in five (features-pets25)",
    ("demo-plugins",): "demo-plugins' four worlds in halves",
}
LINK = re.compile(r"(?<=\]\()(?!https?:|data:|#)([^)#\s]+)")
MOVED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}  # pages from above docs/

log = logging.getLogger("mkdocs.hooks.pages")


# --- hooks --------------------------------------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """In the navigation a page for each card that extends no other, and at the end the pages of docs/ that nobody listed."""
    nav = config.nav
    assert nav is not None
    at = next(i for i, entry in enumerate(nav) if "Methods" in entry)
    cards = [key for key in card_names() if not _base(key)]
    nav[at] = {"Methods": ["methods/index.md", *({load_card(key).name: f"methods/{key}.md"} for key in cards)]}
    listed = re.findall(r"[\w/-]+\.md", json.dumps(nav))
    nav += [path.name for path in sorted(Path(config.docs_dir).glob("*.md")) if path.name not in listed]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {
        "methods/index.md": _index(),
        "scenarios.md": _scenarios(),
        "commands.md": _commands(),
        "api.md": _names(),
        "notebook.md": notebook(ROOT / "docs" / "notebook.ipynb"),
    } | {f"methods/{key}.md": _method(load_card(key)) for key in card_names()}
    for above, uri in MOVED.items():
        pages[uri] = LINK.sub(lambda link: posixpath.relpath(link[0], "docs"), (ROOT / above).read_text())
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    for page in list(files.documentation_pages()):
        for link in LINK.findall(page.content_string):
            outside = _outside(page.src_uri, link)
            if not outside or files.get_file_from_path(_in_site(outside)):
                continue
            if (ROOT / outside).is_file():
                files.append(File.generated(config, outside, abs_src_path=str(ROOT / outside)))
            else:
                log.warning("%s links to %s, which is no file", page.src_uri, outside)
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Links to what lies outside docs/ go to where the site has it: the same path, below its top."""
    uri = page.file.src_uri

    def moved(link: re.Match[str]) -> str:
        outside = _outside(uri, link[0])
        return posixpath.relpath(_in_site(outside), posixpath.dirname(uri) or ".") if outside else link[0]

    return LINK.sub(moved, markdown)


def _outside(uri: str, link: str) -> str:
    """What a link of a page means, from the top of the repository; "" if that lies in docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(uri), link))
    return "" if path.startswith("docs/") else path


def _in_site(outside: str) -> str:
    return MOVED.get(outside, outside)


# --- methods ------------------------------------------------------------------------------------------------------------


def _index() -> str:
    rows = []
    for key in card_names():
        card = load_card(key)
        where, degradation, kept = measured(key)
        link = f"[{where}](../../results/reference/{where}/tables/degradation.md)" if where else ""
        who = f"[{card.name}]({key}.md)", f"`{key}`", short_paper(card.paper)
        rows.append((*who, re.split(r" \(|: ", card.trainable)[0], kept, degradation, link))
    head = "method", "card", "paper", "trainable at ViT-B/16", "kept (KiB)", "degradation (points)", "measured in"
    return f"""# Methods

Each page is made from a method's card (`lamm-cl show KEY` prints it) and from the head of its file: equations, every number with
its source, what departs from the authors' code or paper, and what was published. Where a release departs from its paper, both are
cards: the default follows the paper.

Trainable parameters, with how they come about, are on each page. *Kept* is what a method carries from one experience to the
next; it and the degradation are those of shipped results on the four embedded worlds in halves, mean over data sets and seeds:
they show what a method forgets there, and say nothing about how methods rank on photographs. Empty: not among the shipped
results yet.

{_table(head, rows)}
"""


def _method(card: Card) -> str:
    parts = [f"# {card.name}", f"{card.paper}.", f"Card `{card.key}`. {_repository(card)}"]
    if base := _base(card.key):
        parts.append(f"It extends [{load_card(base).name}]({base}.md): what is not said here is said there.")
    if variants := [key for key in card_names() if card.key in _line(key)]:
        parts.append("Variants: " + ", ".join(f"[{load_card(key).name}]({key}.md)" for key in variants) + ".")
    parts += [f"```sh\nlamm-cl show {card.key}\nlamm-cl run demo --method {card.key} --dry-run\n```", "## Equations"]
    parts += [f"`lamm_cl/methods/{path.name}`:\n\n```text\n{doc}\n```" for path, doc in _equations(card)]
    parts += ["## Numbers", f"Trainable at ViT-B/16: {card.trainable}.", _table(("number", "value", "source"), _numbers(card))]
    if general := [(name, text) for name, text in card.provenance.items() if name not in _used(card)]:
        parts.append(_table(("also", "source"), general))
    if card.departures:
        parts += ["## Departures", "\n".join(f"- {text_of(each)}" for each in card.departures)]
    if shipped := list(_shipped(card.key)):
        parts += ["## Shipped results", _table(("scenario", "degradation (points)"), shipped)]
    if card.published:
        parts.append("## Published")
        parts += [part for name, facts in card.published.items() for part in _published(name, facts)]
    return "\n\n".join(parts) + "\n"


def _base(key: str) -> str:
    """The card that a card says it extends."""
    found = re.search(r"^extends: *(\S+)", (ROOT / "baselines" / f"{key}.yaml").read_text(), re.MULTILINE)
    return found[1] if found else ""


def _repository(card: Card) -> str:
    if not card.repository:
        return "No released code is named."
    address, comma, rest = card.repository.partition(",")
    return f"Released code: <{address}>{comma}{rest}."


def _equations(card: Card) -> Iterator[tuple[Path, str]]:
    """The files of a card's pieces with their docstrings; words and names only where there is nothing else."""
    import ast

    named = [piece.use for _, piece in reversed(card.pieces())]
    for use in dict.fromkeys(use.partition(".")[0] for use in [use for use in named if use not in PLAIN] or named[-1:]):
        path = uses.of(f"{use}.X").file
        assert path is not None
        yield path, ast.get_docstring(ast.parse(path.read_text())) or ""


def _numbers(card: Card) -> Iterator[tuple[str, ...]]:
    """(number, value, source) of all options and settings that a card names."""
    facts = card.model_dump(mode="json", exclude_defaults=True)
    for part in (*PIECES, "label_space", "training"):
        rows = facts.get(part, [])
        for found in rows if isinstance(rows, list) else [rows]:
            if not isinstance(found, dict):
                yield part, f"`{found}`", _source(card, part)
                continue
            for name, value in found.items():
                yield f"{part}.{name}", f"`{text_of(value)}`", _source(card, f"{part}.{name}")


def _sources(card: Card) -> dict[str, str]:
    """Number -> the key of its source: "training.epochs, batch" names two of the training's."""
    found = {}
    for key in card.provenance:
        first, *others = key.split(", ")
        part = first.partition(".")[0]
        found |= dict.fromkeys([first, *(each if "." in each else f"{part}.{each}" for each in others)], key)
    return found


def _source(card: Card, number: str) -> str:
    """Of a number, or of the part that it stands in."""
    sources = _sources(card)
    key = sources.get(number) or sources.get(number.partition(".")[0])
    return card.provenance[key] if key else ""


def _used(card: Card) -> set[str]:
    """The keys of sources that the table of numbers shows."""
    sources = _sources(card)
    return {sources.get(number) or sources.get(number.partition(".")[0], "") for number, *_ in _numbers(card)}


def _published(name: str, facts: Any) -> Iterator[str]:
    yield f"### {name.replace('_', ' ')}"
    if not isinstance(facts, dict):
        yield text_of(facts)
        return
    if "source" in facts:
        yield f"{facts['source']}."
    columns = facts.get("columns")
    rest = {key: value for key, value in facts.items() if key not in ("source", "columns")}
    wide = {key: value for key, value in rest.items() if columns and isinstance(value, list) and len(value) == len(columns)}
    if wide:
        yield _table(("", *map(text_of, columns)), [(key, *map(text_of, value)) for key, value in wide.items()])
    if narrow := [(key, text_of(value)) for key, value in rest.items() if key not in wide]:
        yield _table(("", "value"), narrow)


# --- shipped results ----------------------------------------------------------------------------------------------------


@cache
def _rows(name: str, table: str) -> list[dict[str, str]]:
    path = REFERENCE / name / "tables" / f"{table}.csv"
    return list(csv.DictReader(path.open())) if path.is_file() else []


def _degradation(name: str, key: str) -> str:
    """Mean ± standard deviation over seeds of the average over datasets; "" where the method is not there."""
    column = list(_rows(name, "degradation_per_dataset")[0])[-1] if _rows(name, "degradation_per_dataset") else ""
    mean, std = (next((row[column] for row in _rows(name, table) if row["method"] == key), "")
                 for table in ("degradation_per_dataset", "degradation_per_dataset_std"))  # fmt: skip
    return f"{float(mean):.2f}" + (f" ± {float(std):.2f}" if std else "") if mean else ""


@cache
def _kept(name: str) -> dict[str, float]:
    """Method -> KiB that it keeps, mean over datasets, of results that are packed with their records."""
    if not (REFERENCE / name / "records.pack").is_file():
        return {}
    import lamm_cl

    frame = lamm_cl.table(REFERENCE / name, "cost")["kept (KiB)"]
    return frame.drop("average", level="dataset", errors="ignore").groupby("method").mean().to_dict()


def measured(key: str) -> tuple[str, str, str]:
    """(shipped results, degradation, KiB kept) of a method on the demo; empty texts where there are none."""
    where = next((name for name in DEMOS if _degradation(name, key)), "")
    kept = next((f"{found[key]:,.1f}" for name in DEMOS if key in (found := _kept(name))), "")
    return where, _degradation(where, key) if where else "", kept


def class_incremental() -> str:
    """The README's main comparison: a row for each method of field-demo, means over its worlds where all classes compete."""
    means = (row for row in _rows("field-demo", "incremental") if row["dataset"] == "average")
    found = {(row["label space"], row["method"]): row for row in means}
    rows = []
    for key in load_scenario("field-demo").methods:
        joint, own, at_once = (found.get(where, {}) for where in (("joint", key), ("own", key), ("joint", f"{key}@joint")))
        numbers = [joint["average incremental"], joint["last"], joint["forgetting"], at_once.get("last", "–"), own["last"]]
        rows.append((load_card(key).name, *numbers, f"{_kept('field-demo')[key]:,.1f}"))
    return _table(("method", "average incremental", "last", "forgetting", "all at once", "last, own", "kept (KiB)"), rows)


def prompt_learners() -> str:
    """The README's table: a row for each prompt learner of demo-prompts."""
    rows = []
    for key in load_scenario("demo-prompts").methods:
        card = load_card(key)
        source = " ".join(re.sub(r"^https://github.com/|,? commit|\(.*\)$", "", card.repository or "").split())
        numbers = f"{_kept('demo-prompts')[key]:.1f}", _degradation("demo-prompts", key).replace("-", "−")
        rows.append((card.name, re.split(r" \(|: ", card.trainable)[0], *numbers, f"{short_paper(card.paper)}; {source}"))
    return _table(("method", "trainable at ViT-B/16", "kept (KiB)", "degradation", "source"), rows)


def measured_variants(key: str) -> str:
    """What a card's departures say of how much its variants, or it as a variant, change; "" where nothing is shipped."""
    root, told = _root(key), []
    for scenarios, where in STREAMS.items():
        found = _averages(scenarios)
        variants = [each for each in found if each != root and _root(each) == root and "+" not in each]
        if key != root and {key, root} <= found.keys():
            told.append(f"{found[key]} instead of {found[root]} on {where}")
        elif key == root and key in found and variants:
            told.append(", ".join(f"{each} {found[each]}" for each in (key, *variants)) + f" on {where}")
    head = "By how much (average / last accuracy in % over all classes learned, means of 3 seeds)"
    return f"{head}: {'; '.join(told)}." if told else ""


def variants() -> str:
    """The table of docs/results.md: each variant beside its default, average / last accuracy over all classes learned."""
    streams = {scenarios: _averages(scenarios) for scenarios in STREAMS if len(scenarios) == 2}
    rows = []
    for key in dict.fromkeys(_root(each) for found in streams.values() for each in found):
        mine = [key, *dict.fromkeys(each for found in streams.values() for each in found if _root(each) == key and each != key)]
        if len(mine) > 1:
            rows += [(load_card(each).name, f"`{each}`", *(found.get(each, "") for found in streams.values())) for each in mine]
    return _table(("method", "card", *(STREAMS[each] for each in streams)), rows)


def _averages(scenarios: tuple[str, ...]) -> dict[str, str]:
    """Method -> its average and last accuracy where all classes compete, mean over data sets."""
    rows = [row for name in scenarios for row in _rows(name, "incremental") if row["label space"] == "joint"]
    means, cards = [row for row in rows if row["dataset"] == "average"] or rows, card_names()
    return {row["method"]: f"{row['average incremental']} / {row['last']}" for row in means if row["method"] in cards}


def _line(key: str) -> list[str]:
    """The cards that it extends, one after another."""
    base = _base(key)
    return [base, *_line(base)] if base else []


def _root(key: str) -> str:
    """The last of them, or itself."""
    return [key, *_line(key)][-1]


def _shipped(key: str) -> Iterator[tuple[str, str]]:
    for folder in sorted(path for path in REFERENCE.iterdir() if path.is_dir()):
        if found := _degradation(folder.name, key):
            yield f"[{folder.name}](../../results/reference/{folder.name}/tables/degradation.md)", found


# --- scenarios, commands, the notebook ------------------------------------------------------------------------------------


def _scenarios() -> str:
    rows = []
    for name in scenario_names():
        s = load_scenario(name)
        experiences = s.experiences if isinstance(s.experiences, int | str) else " + ".join(map(str, s.experiences))
        shipped = (REFERENCE / name / "tables" / "degradation.md").is_file()
        link = f"[{name}](../results/reference/{name}/tables/degradation.md)" if shipped else name
        rows.append((link, s.description, ", ".join(s.names), str(experiences), ", ".join(map(str, s.shots)),
                     str(len(s.seeds)), ", ".join(s.methods)))  # fmt: skip
    table = _table(("scenario", "what", "datasets", "experiences", "shots", "seeds", "methods"), rows)
    return f"""# Scenarios

What is shipped in `scenarios/`, as `lamm-cl list scenarios` prints it; a link leads to shipped results. `lamm-cl run SCENARIO`
does its runs, and [a scenario of one's own](own-method.md#your-own-scenario) is a file like these.

{table}
"""


def _commands() -> str:
    top = parser()
    parts = ["# Commands", "What `lamm-cl COMMAND --help` prints.", f"```text\n{top.format_help()}```"]
    for name, command in _commands_of(top):
        parts += [f"## {name}", f"```text\n{command.format_help()}```"]
    return "\n\n".join(parts) + "\n"


def _names() -> str:
    import lamm_cl

    parts = ["# Public names", "What `help(lamm_cl.NAME)` prints. Everything else is the house's own."]
    for name in sorted(set(lamm_cl.__all__) - {"UserError", "__version__"}):
        found = getattr(lamm_cl, name)
        signature = re.sub(r", (?=\w+: )", ",\n    ", str(inspect.signature(found)))
        parts += [f"## {name}", f"```text\n{name}{signature}\n\n{inspect.getdoc(found)}\n```"]
    return "\n\n".join(parts) + "\n"


def _commands_of(above: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command with its parser, those within commands (data list) in place of the command."""
    for action in above._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                within = list(_commands_of(command))
                yield from within or [(command.prog.removeprefix("lamm-cl "), command)]


def notebook(path: Path) -> str:
    """A notebook as a page: its cells, and what they printed."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [_output(output) for output in cell.get("outputs", [])]
    return "\n\n".join(parts) + "\n\n[The notebook](notebook.ipynb)\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f'![figure](data:image/png;base64,{"".join(data["image/png"]).strip()})'
    text = "".join(output.get("text") or data["text/plain"])
    return f"```text\n{text.rstrip()}\n```"


# --- texts --------------------------------------------------------------------------------------------------------------


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)
