"""What papers published, in rows or columns beside what was measured, never in a mean."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from lamm_cl.errors import UserError
from lamm_cl.reports.table import DIFFERENCE, MEASURED, PUBLISHED, Label, Line, Number, Table
from lamm_cl.results.runs import Runs

PAPERS_BACKBONE = (("ViT-B-16", "openai"), ("ViT-B-16-quickgelu", "openai"))  # one model under two names
ELEVEN = "ImageNet Caltech101 DTD FGVCAircraft StanfordCars Flowers102 OxfordPets Food101 EuroSAT UCF101 SUN397".split()


def cite(
    table: Table,
    runs: Runs,
    key: str,
    numbers: Callable[[Mapping, Line], Mapping[str, float]],
    same: Callable[[str], bool],
) -> Table:
    """The table, below it what its methods' papers published, and our difference to that where the setting is the same.

    `numbers(facts, line)` reads the row that belongs beside a measured one from card.published[key]: column -> number.
    Raises UserError where a card's facts have another form.
    """
    at, added, sources = table.heads.index("method"), [], []
    for line in table.lines:
        method = line.labels[at]
        values, source = _published(table, line, runs, key, numbers)
        if np.isnan(values).all():
            continue
        added.append(_row(line, at, f"{method.shown} (published)", values, PUBLISHED))
        if same(method.key):
            ours = np.array([number.mean for number in line.numbers])
            added.append(_row(line, at, f"{method.shown}, ours minus published", ours - values, DIFFERENCE))
        sources.append(f"{method.shown} (published): {source}")
    return replace(table, lines=(*table.lines, *added), notes=(*table.notes, *dict.fromkeys(sources)))


def cite_beside(table: Table, runs: Runs, key: str, numbers: Callable[[Mapping, Line], Mapping[str, float]]) -> Table:
    """The table with what its methods' papers published in columns of its own, one for each column that has any."""
    read = [_published(table, line, runs, key, numbers) for line in table.lines]
    values = np.array([row for row, _ in read])
    having = [c for c in range(len(table.columns)) if not np.isnan(values[:, c]).all()]
    columns = tuple(replace(table.columns[c], key=f"{table.columns[c].key} (published)", better=0) for c in having)
    lines = tuple(
        replace(line, numbers=(*line.numbers, *(Number(float(row[c]), np.nan, 0, 0) for c in having)))
        for line, row in zip(table.lines, values, strict=True)
    )
    sources = dict.fromkeys(f"published: {source}" for _, source in read if source)
    return replace(table, columns=(*table.columns, *columns), lines=lines, notes=(*table.notes, *sources))


def _published(table: Table, line: Line, runs: Runs, key: str, numbers: Callable) -> tuple[np.ndarray, str]:
    """What the paper of a row's method published in each of the table's columns (NaN: nothing), and where."""
    method = line.labels[table.heads.index("method")]
    card = runs.of(method.key)[0].card if method.key in runs.methods else {}
    try:
        facts = card.get("published", {}).get(key)
        if facts is None or line.origin != MEASURED:
            return np.full(len(table.columns), np.nan), ""
        found = {folded(name): float(number) for name, number in numbers(facts, line).items()}
        source = str(facts["source"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{method.key}: published.{key}: not in the form of the shipped cards ({error})") from None
    values = np.array([found.get(folded(column.key), np.nan) for column in table.columns])
    return values, "" if np.isnan(values).all() else source


def _row(line: Line, at: int, name: str, values: np.ndarray, origin: str) -> Line:
    labels = (*line.labels[:at], Label(name, name), *line.labels[at + 1 :])
    return Line(labels, tuple(Number(float(value), np.nan, 0, 0) for value in values), origin=origin)


def as_in_paper(runs: Runs, method: str, experiences: int, shots: int | str = 16) -> bool:
    """Whether the runs of a method have the LAMM paper's setting: backbone, shots, and a stream of the classes as given
    (in halves, or all at once)."""
    records = runs.of(method)
    return runs.shots == shots and all(
        (r.backbone.architecture, r.backbone.weights) in PAPERS_BACKBONE
        and len(r.dataset.experiences) == experiences
        and r.dataset.order == tuple(range(len(r.dataset.classes)))
        and r.scenario.get("train_label_space", "experience") == "experience"
        for r in records
    )


def on_eleven(runs: Runs) -> bool:
    return {*map(folded, runs.datasets)} == {*map(folded, ELEVEN)}


def folded(dataset: str) -> str:
    """Papers write OxfordPets for oxford_pets."""
    return "".join(c for c in dataset.casefold() if c.isalnum())
