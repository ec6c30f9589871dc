"""Records -> one HTML file that can be sent: tables, curves, definitions and where every number comes from.

The file holds everything it shows and asks no network for anything. Charts are plotly.js's (a single bundle, SVG, MIT,
released monthly), the text is Jinja2's, both an extra: pip install lamm-cl[report]. Every number is computed here, from
counts; the script in the page takes means and deviations over seeds of what it draws, and nothing else.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lamm_cl.errors import UserError
from lamm_cl.files import PACKAGE, write_atomic
from lamm_cl.reports import palette
from lamm_cl.reports.builders import fitting
from lamm_cl.reports.chance import chance_average, chance_on
from lamm_cl.reports.claims import who_ends_best, who_lost_most
from lamm_cl.reports.confusion import counted, first_of
from lamm_cl.reports.measures import effort_of, incremental_in, last_in
from lamm_cl.reports.renderers import RENDERERS, to_html
from lamm_cl.results.record import Record
from lamm_cl.results.runs import Key, Runs, runs_in, told_key

SYMBOLS = {"x": "x", "o": "circle", "^": "triangle-up", "s": "square", "P": "cross", "D": "diamond"}
SYMBOLS |= {"v": "triangle-down", "*": "star", "<": "triangle-left", ">": "triangle-right", "p": "pentagon"}
SYMBOLS |= {"h": "hexagon", "8": "octagon", "d": "diamond-tall"}  # matplotlib's markers in plotly's words
TITLES = {
    "degradation": "Accuracy after the last experience, and degradation",
    "degradation-per-dataset": "Degradation per dataset",
    "incremental": "Class-incremental learning",
    "base-to-new": "Base to new",
    "few-shot": "Few-shot",
    "ablation": "Ablation",
    "domain-generalisation": "Domain generalisation",
    "chain": "Chain of datasets: Transfer, Average, Last",
    "ranks": "Average ranks",
    "cost": "Cost",
}


def write_page(results: Sequence[Path], out: Path) -> Path:
    """Write the page about these results folders. Raises UserError if a folder holds no finished run, or without the
    packages of the extra `report`.
    """
    write_atomic(out, page(results))
    return out


def check_installed() -> None:
    """Raises UserError without the packages of the extra `report`."""
    for name in ("jinja2", "plotly"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"report: needs the package {name}: pip install 'lamm-cl[report]'")


def page(results: Sequence[Path]) -> str:
    """The page as one HTML text; the same records give the same text."""
    check_installed()
    import jinja2
    from plotly.offline import get_plotlyjs

    folders = [runs_in(folder) for folder in results]
    shown = _sections(folders)
    content = {
        "title": ", ".join(dict.fromkeys(folder[0].scenario for folder in folders)),
        "summaries": [summary(folder[-1]) for folder in folders],  # at the most shots
        "sections": [{"id": s["id"], "title": s["title"], "html": s["html"]} for s in shown],
        "provenance": [_provenance(folder) for folder in folders],
        "data": _script_json({"groups": groups(folders, results), "copies": {s["id"]: s["copies"] for s in shown}}),
        "plotly": get_plotlyjs().replace("</script", "<\\/script"),
        **{name.replace(".", "_"): _file(name) for name in ("page.css", "page.js")},
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_file("page.html")).render(content)


def groups(folders: Sequence[Sequence[Runs]], results: Sequence[Path]) -> list[dict[str, Any]]:
    """What the charts draw: one group per results folder and number of shots; accuracies in %, undefined is null."""
    methods = {method for folder in folders for runs in folder for method in runs.methods}
    look = {method: i for i, method in enumerate(palette.ordered(methods))}
    names = [folder[0].scenario for folder in folders]
    found = []
    for i, folder in enumerate(folders):
        name = names[i] if names.count(names[i]) == 1 else f"{names[i]} (folder {i + 1})"
        found += [_group(f"{name}, {_shots(runs)}", i, runs, look, results[i]) for runs in folder]
    return found


def _group(name: str, folder: int, runs: Runs, look: Mapping[str, int], results: Path) -> dict[str, Any]:
    places = [*runs.datasets, *(["average"] if len(runs.datasets) > 1 else [])]
    space = runs.space("joint")
    effort_name, effort = effort_of([runs])
    return {
        "name": name,
        "folder": folder,
        "shots": runs.shots,
        "T": runs.experiences,
        "places": [{"key": p, "average": i == len(runs.datasets)} for i, p in enumerate(places)],
        "spaces": list(runs.spaces),
        "over": "seeds and class orders" if runs.orders else "seeds",
        "methods": [_look(method, runs.name(method), look[method]) for method in runs.methods],
        "accuracy": {s: _by_place(runs, lambda r, s=s: r.accuracy(s)) for s in runs.spaces},
        "learned": {s: _by_place(runs, incremental_in(s)) for s in runs.spaces},
        "chance": {s: [_guessed(runs, p, s) for p in places] for s in runs.spaces},
        "bounds": _bounds(runs),
        "confusion": [_confusion(runs, dataset, results) for dataset in runs.datasets],
        "drops": {s: [_drops(runs, dataset, s) for dataset in runs.datasets] for s in runs.spaces},
        "cost": {
            "space": space,
            "accuracy": _by_place(runs, last_in(space)),
            "parameters": _by_place(runs, lambda r: r.model.trainable[-1]),
            "effort": _by_place(runs, effort),
            "effort_name": effort_name,
        },
    }


def _look(method: str, name: str, place: int) -> dict[str, str]:
    colours = {"colour": palette.colour(place), "dark": palette.dark_colour(place)}
    return {"key": method, "name": name, **colours, "symbol": SYMBOLS[palette.marker(place)]}


def _by_place(runs: Runs, metric: Callable[[Record], Any]) -> list[list[dict[str, Any]]]:
    """[place][method] -> seed -> metric, lists as the group's `places` and `methods`; the average is the last place."""
    each = [[_plain(runs.values(dataset, m, metric)) for m in runs.methods] for dataset in runs.datasets]
    average = [_plain(runs.averages(m, metric)) for m in runs.methods]
    return [*each, average] if len(runs.datasets) > 1 else each


def _guessed(runs: Runs, place: str, space: str) -> dict[str, Any]:
    """What guessing scores, as the group's `accuracy` and `learned`; null where datasets have no average of it."""
    guess = chance_average if place == "average" and place not in runs.datasets else lambda r, m: chance_on(r, place, m)
    found = {"accuracy": guess(runs, lambda r: r.accuracy(space)), "learned": guess(runs, incremental_in(space))}
    return {name: _rounded(each) for name, each in found.items()}


def _bounds(runs: Runs) -> list[list[dict[str, Any]]] | None:
    """[place][method] -> seed -> last joint accuracy of the same method on all classes at once; None where none is finished."""
    if runs.bounds is None:
        return None
    beside = replace(runs.bounds, methods=tuple(f"{method}@joint" for method in runs.methods))
    return _by_place(beside, lambda record: incremental_in("joint")(record)[-1])


def _confusion(runs: Runs, dataset: str, results: Path) -> dict[str, Any] | None:
    """{classes, sizes, counts: {space: [method] -> [class, class predicted, images], ...}}; None where no run kept predictions.

    Only cells that are not zero, of all seeds together, after the last experience.
    """
    counts = {space: [_cells(counted(results, runs, dataset, m, space)) for m in runs.methods] for space in runs.spaces}
    if not any(cells for of_space in counts.values() for cells in of_space):
        return None
    data = first_of(runs, dataset).dataset
    return {"classes": data.classes, "sizes": data.experiences, "counts": counts}


def _cells(counts: np.ndarray | None) -> list[list[int]] | None:
    if counts is None:
        return None
    rows, columns = np.nonzero(counts)
    return np.stack([rows, columns, counts[rows, columns]], axis=1).tolist()


def _plain(by_key: Mapping[Key, Any]) -> dict[str, Any]:
    return {told_key(key): _rounded(value) for key, value in by_key.items()}


def _rounded(value: Any) -> Any:
    array = np.round(np.asarray(value, dtype=float), 3)
    return np.where(np.isnan(array), None, array.astype(object)).tolist()


def _drops(runs: Runs, dataset: str, space: str) -> dict[str, Any]:
    """Points lost by each class since it was learned: {classes, experience of each, lost [method] -> seed -> [class]}.

    Only runs with the first run's order of the classes; those of the last experience cannot lose and are left out.
    """
    records = [r for m in runs.methods for r in runs.records.get((dataset, m), {}).values()]
    if not records:
        return {"classes": [], "experiences": [], "lost": []}
    first = records[0].dataset
    number = sum(first.experiences[:-1])
    lost = [
        _plain({
            key: r.class_drops(space)[:number]
            for key, r in runs.records.get((dataset, m), {}).items()
            if r.dataset.order == first.order
        })
        for m in runs.methods
    ]
    experiences = [j for j, size in enumerate(first.experiences[:-1], start=1) for _ in range(size)]
    return {"classes": first.told[:number], "experiences": experiences, "lost": lost}


def summary(runs: Runs) -> str:
    """One sentence: who ends best on all classes, and who lost most of what was learned, where that is shown."""
    place = "on average over the datasets" if len(runs.datasets) > 1 else f"on {runs.datasets[0]}"
    sizes = [(len(runs.datasets), "dataset"), (runs.experiences, "experience"), (len(runs.seeds), "seed")]
    sizes += [(len(runs.orders), "class order")] if runs.orders else []
    counted = ", ".join(f"{n} {word}{'s' * (n != 1)}" for n, word in sizes)
    start = f"{runs.scenario} ({counted}, {_shots(runs)}, {len(runs.methods)} method{'s' * (len(runs.methods) != 1)}): "
    if not (best := who_ends_best(runs)):
        return start + "no method has finished a seed on every dataset yet."
    return start + "; ".join(filter(None, (f"{place}, {best}", who_lost_most(runs)))) + "."


def _shots(runs: Runs) -> str:
    return "all training images" if runs.shots == "full" else f"{runs.shots} shot{'s' * (runs.shots != 1)}"


def _sections(folders: Sequence[Sequence[Runs]]) -> list[dict[str, Any]]:
    """The tables of every kind that fits, each on its own: {id, title, html, copies: {format: text}}."""
    found = [fitting(folder) for folder in folders]
    shown = []
    for kind in (kind for kind in TITLES if any(kind in each for each in found)):
        for table in (table for each in found for table in each.get(kind, ())):
            copies = {form: RENDERERS[form]([table]) for form in ("csv", "md", "tex")}
            shown.append({"id": f"{kind}-{len(shown)}", "title": TITLES[kind], "copies": copies})
            shown[-1]["html"] = to_html([table])
    return shown


def _provenance(folder: Sequence[Runs]) -> dict[str, Any]:
    """Scenario, cards, versions and runs of a results folder, as the template shows them."""
    records = [record for runs in folder for method in runs.methods for record in runs.of(method)]
    first = records[0]
    cards = {r.run.method: r.card for r in records}
    facts = ("scenario", "published", "provenance", "departures", "name", "paper", "repository")
    return {
        "scenario": _lines(first.scenario),
        "backbone": vars(first.backbone),
        "cards": [
            {
                "name": card.get("name", method),
                "paper": card.get("paper", ""),
                "repository": card.get("repository") or "",
                "settings": _lines({k: v for k, v in card.items() if k not in facts}),
                "sources": _lines(card.get("provenance", {})),
                "departures": [each if isinstance(each, str) else _text(each) for each in card.get("departures", ())],
            }
            for method, card in cards.items()
        ],
        "versions": sorted({_text(r.measured.versions) for r in records}),
        "notes": sorted({f"{r.run.dataset}: {note}" for r in records for note in r.dataset.notes}),
        "runs": [_run_facts(record) for record in records],
    }


def _run_facts(record: Record) -> dict[str, str]:
    run, measured, data = record.run, record.measured, record.dataset
    return {
        "dataset": run.dataset,
        "method": str(record.card.get("name", run.method)),
        "shots": str(run.shots),
        "seed": str(run.seed),
        **({"class order": run.order} if run.order else {}),
        "training images": f"{sum(data.train_images):,}",
        "test images": f"{sum(data.test_images):,}",
        "seconds": f"{sum(measured.seconds.values()):,.1f}",
        "device": measured.device,
        "host": measured.host,
        "commit": measured.commit or "unknown",
        "finished": measured.finished,
        "scenario hash": str(record.scenario.get("hash", ""))[:12],
        "card hash": str(record.card.get("hash", ""))[:12],
        "data fingerprint": data.fingerprint[:12],
    }


def _lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(key), _text(value)) for key, value in facts.items()]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value is None else str(value)


def _script_json(data: Any) -> str:
    """JSON that cannot end the <script> it stands in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _file(name: str) -> str:
    return (PACKAGE / "reports" / "page" / name).read_text(encoding="utf-8")
