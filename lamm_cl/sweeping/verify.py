"""Whether results are what they say: every file whole, tables that follow from the records, runs that can be repeated."""

import hashlib
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lamm_cl.config.identity import content_hash, difference, from_record
from lamm_cl.config.schema import Card, Scenario
from lamm_cl.data import catalogue
from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.results.file import is_sealed, read_record
from lamm_cl.results.record import Record
from lamm_cl.sweeping.execute import Event, Settings, Train, execute
from lamm_cl.sweeping.plan import plan
from lamm_cl.sweeping.publish import Derived


def problems(results: Path, derived: Derived) -> list[str]:
    """What is wrong with the files of a results folder, one line each; [] if nothing is.

    Raises UserError for a folder without finished runs: its tables then follow from nothing.
    """
    finished = runs(results)
    found = [problem for path in finished.values() for problem in _of_run(path)]
    return found or list(_derived(results, derived))  # with a broken record nothing can be said about tables


def runs(results: Path) -> dict[str, Path]:
    """DATASET/METHOD/shotsK-seedS -> record.json, of all finished runs."""
    found = sorted(results.glob("runs/*/*/*/record.json"))
    if not found:
        raise UserError(f"{results}: no finished run (no runs/<dataset>/<method>/shots<k>-seed<s>/record.json)")
    return {str(path.parent.relative_to(results / "runs")): path for path in found}


def choose(results: Path, named: Sequence[str], number: int) -> list[str]:
    """The runs to recompute: those named, else `number` random ones. Raises UserError for a name that is no run."""
    known = runs(results)
    for name in named:
        if name not in known:
            raise UserError(f"--run: {results} has no finished run {name!r}{did_you_mean(name, known)}")
    return list(named) or random.sample(list(known), min(number, len(known)))


def recompute(path: Path, settings: Settings, tell: Callable[[Event], None], train: Train) -> str:
    """Do the run of a record.json again, elsewhere -> the first fact that differs, "" if none does; a damaged record is not
    done again, and what is wrong with it comes back.

    Raises UserError if the run cannot be done here.
    """
    try:
        old = read_record(path)
    except UserError as error:
        return str(error)
    scenario = from_record(Scenario, old.scenario, f"{path}: scenario")
    card = from_record(Card, old.card, f"{path}: card")
    with tempfile.TemporaryDirectory() as folder:
        [run] = plan(
            scenario,
            Path(folder),
            datasets=[old.run.dataset],
            methods=[old.run.method],
            shots=[old.run.shots],
            seeds=[old.run.seed],
        )
        failures = execute([replace(run, card=card)], replace(settings, jobs=1), tell, train=train, publish=lambda run: None)
        if failures:
            raise UserError(f"{old}: cannot be recomputed: {failures[0].text.strip().splitlines()[-1]}")
        new = read_record(run.folder / "record.json")
    found = difference(_facts(old), _facts(new))
    elsewhere = difference(_circumstances(old), _circumstances(new))
    return f"{found} ({elsewhere})" if found and elsewhere else found


def _of_run(path: Path) -> Iterator[str]:
    try:
        record = read_record(path)
        models = (from_record(Scenario, record.scenario, f"{path}: scenario"), from_record(Card, record.card, f"{path}: card"))
    except UserError as error:
        yield str(error)
        return
    if not is_sealed(path):
        yield f"{path}: has no sha256, so a change would not be noticed"
    run = record.run
    place = (catalogue.canonical(run.dataset), run.method, f"shots{run.shots}-seed{run.seed}")
    if path.parent.parts[-3:] != place:
        yield f"{path}: is the run {'/'.join(place)}, and lies elsewhere"
    for model, facts, kind in zip(models, (record.scenario, record.card), ("scenario", "card"), strict=True):
        if facts.get("hash") != content_hash(model):
            yield f"{path}: {kind}: its hash does not follow from it"
    for name, digest in record.files.items():
        yield from _of_file(path.with_name(name), digest)


def _of_file(path: Path, digest: object) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                yield f"{path}: its bytes are not those that record.json was written with"
    except OSError as error:
        yield f"{path}: {error.strerror}"


def _derived(results: Path, derived: Derived) -> Iterator[str]:
    """records.csv and the tables, against what the records give now."""
    for name, content in derived(results).items():
        path = results / name
        if not path.exists():
            yield f"{path}: is missing; 'lamm-cl table --write' and 'lamm-cl run' write it"
        elif path.read_bytes() != content.encode():
            yield f"{path}: does not follow from the records"


def _facts(record: Record) -> dict:
    """What must be the same, with names for the counts."""
    facts = record.facts()
    names = [f"{count.label_space}, trained {count.trained}, tested {count.tested}" for count in record.counts]
    return facts | {"counts": dict(zip(names, facts["counts"], strict=True))}


def _circumstances(record: Record) -> dict:
    return {"device": record.measured.device, "host": record.measured.host, "versions": record.measured.versions}
