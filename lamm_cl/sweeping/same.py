"""Whether finished runs would come out the same now: data, weights and code compared by content, before anything is trained."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lamm_cl.config.schema import Backbone
from lamm_cl.data import hashes
from lamm_cl.data.catalogue import is_path
from lamm_cl.data.dataset import Dataset
from lamm_cl.errors import UserError
from lamm_cl.files import PACKAGE, open_regular
from lamm_cl.results.record import Record
from lamm_cl.results.remembered import remembered
from lamm_cl.sweeping import code
from lamm_cl.sweeping.plan import Run

EMBEDDED = PACKAGE / "mini" / "model" / "lamm-cl-mini.safetensors"
STATE = Path("state") / "state.safetensors"
MOST_BYTES = 10**8  # of the description in a state: counts of every class
Made = dict[Path, Record]  # the folder of a finished run -> its record


def check(runs: Sequence[Run], made: Made, load: Callable[[str], Dataset | None], cache: Path, *,
          other_code: bool = False) -> list[str]:  # fmt: skip
    """What is worth knowing about the finished runs of a results folder, a line each.

    made: of the runs that are finished.  load: a dataset of the runs, None if it is not here.  other_code: finished runs are
    kept though the files of their methods changed since.

    Raises UserError, in one line, where finished and new runs would not be comparable: other images, classes or weights, or
    another version of a method. The other finished runs of the folder are asked too, since they share its tables.
    """
    root = runs[0].folder.parents[3]
    everything = made | _others(root, made)
    _check_weights(root, everything, runs[0].scenario.backbone, cache)
    notes = []
    for name, folder in {run.dataset: run.folder.parents[1] for run in runs}.items():
        mine = {at: record for at, record in everything.items() if at.parents[1] == folder}
        begun = [run.folder for run in runs if run.dataset == name and run.folder not in made and (run.folder / STATE).exists()]
        if not mine and not begun:
            continue
        if (dataset := load(name)) is None:
            notes.append(f"{name}: is not here, so its {_runs(mine)} could not be compared with it")
            continue
        _check_data(name, folder, mine, begun, dataset)
    if not other_code:
        _check_methods(root, everything, {run.method: run for run in runs})
    return notes + _other_house(made, runs)


def _others(root: Path, made: Made) -> Made:
    """The whole records of a results folder beside those; damaged ones are told by who needs them."""
    found = {}
    for path in sorted(root.glob("runs/*/*/*/record.json")):
        if path.parent not in made:
            try:
                found[path.parent] = remembered(path)
            except UserError:
                continue
    return found


def _refused(where: str, told: str, wrong: Iterable[Path], all_of: Iterable[Path], place: Path, keep: str = "") -> UserError:
    """One line: what differs, for how many runs, and what helps. `place` holds all of them, right ones perhaps too."""
    wrong = sorted(wrong)
    remove = str(place) if len(wrong) == len(list(all_of)) else f"{wrong[0]}{f' and {len(wrong) - 1} more' if wrong[1:] else ''}"
    helps = f"remove {remove} to repeat them{keep}, or choose another --results folder"
    return UserError(f"{where}: {told} ({_runs(wrong)}); {helps}")


def _runs(some: Iterable) -> str:
    number = len(list(some))
    return f"{number} finished run{'s' if number > 1 else ''}"


# Weights


def weights_hash(backbone: Backbone, cache: Path | None) -> str:
    """sha256 of the weights' file, if it is known without a registry: embedded, or named by its path. Else "": a tag says
    which published weights are meant."""
    file = Path(backbone.weights).expanduser()
    if backbone.weights == "embedded":
        file = EMBEDDED
    return hashes.of_file(file, cache) if file.is_file() else ""


def _check_weights(root: Path, made: Made, backbone: Backbone, cache: Path) -> None:
    told = {folder: record for folder, record in made.items() if record.backbone.file}
    now = weights_hash(backbone, cache) if told else ""
    if wrong := [folder for folder, record in told.items() if now and record.backbone.file != now]:
        raise _refused(str(root), f"weights: {backbone.weights} changed", wrong, made, root / "runs")


# Data


def _check_data(name: str, folder: Path, made: Made, begun: Sequence[Path], dataset: Dataset) -> None:
    wrong = [at for at, record in made.items() if not dataset.recognises(record.dataset.fingerprint)]
    if wrong:
        raise _refused(name, _of_data(name, made[min(wrong)], dataset), wrong, made, folder)
    for at in begun:
        told = _identity(at / STATE).get("dataset", dataset.fingerprint)
        if told != dataset.fingerprint:
            why = "an earlier version began" if dataset.recognises(str(told)) else "other images were there when"
            what = "the unfinished run" if dataset.recognises(str(told)) else "the unfinished run was begun:"
            raise UserError(f"{name}: {why} {what} {at}; remove its folder to begin it anew")


def _of_data(name: str, record: Record, dataset: Dataset) -> str:
    """The first thing in which the data of a record and that of today differ, in words."""
    old = dict(zip(record.dataset.order, record.dataset.classes, strict=True))
    one, two = [old[i] for i in sorted(old)], list(dataset.classes)
    named = record.dataset.named
    if (len(one) != len(two) and not set(one) & set(two)) or (named and is_path(named) != is_path(name)):
        return f"images: another dataset called {record.run.dataset} lay here"
    if one != two:
        at = next((i for i, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]), min(len(one), len(two)))
        before, now = (repr(names[at]) if at < len(names) else "absent" for names in (one, two))
        return f"class names: {before} now {now}"
    here = (len(dataset.train), len(dataset.test))
    if record.dataset.images and record.dataset.images != here:
        return f"images: {sum(record.dataset.images):,} now {sum(here):,}"
    if not record.dataset.images and sum(record.dataset.test_images) != here[1]:
        return f"test images: {sum(record.dataset.test_images):,} now {here[1]:,}"
    return "images: as many as before, but others"


def _identity(state: Path) -> dict:
    """What a saved state says it belongs to; {} if it cannot be read, and is then begun anew anyway.

    Its file is of safetensors: 8 bytes with the length of a JSON text, the text, the tensors.
    """
    try:
        with open_regular(state) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(MOST_BYTES, os.fstat(file.fileno()).st_size):
                return {}
            identity = json.loads(json.loads(file.read(length))["__metadata__"]["state"])["identity"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
    return identity if isinstance(identity, dict) else {}


# Code


def _check_methods(root: Path, made: Made, runs: dict[str, Run]) -> None:
    """The methods that are asked for: finished runs of one version and new ones of another must not be averaged."""
    for method, run in runs.items():
        mine = {folder: record for folder, record in made.items() if record.run.method == method and record.code}
        now = code.of_methods(run.card) if mine else {}
        changed: dict[Path, list[str]] = {}
        for folder, record in mine.items():
            if files := [name for name in now if record.code.get(name) != now[name]]:
                changed[folder] = files
        if changed:
            files = ", ".join(sorted({Path(name).name for names in changed.values() for name in names}))
            keep = ", --other-code to keep them"
            raise _refused(method, f"method code: {files} changed", changed, mine, root / "runs" / "*" / method, keep)


def _other_house(made: Made, runs: Sequence[Run]) -> list[str]:
    """One line for the finished runs that are skipped though other code of the house made them."""
    if not made:
        return []
    other, files = 0, set()
    now = {name: hash_ for name, hash_ in code.of_card(runs[0].card).items() if not name.startswith(code.METHODS)}
    for record in made.values():
        old = {name: hash_ for name, hash_ in record.code.items() if not name.startswith(code.METHODS)}
        differs = {name for name in old.keys() | now.keys() if old.get(name) != now.get(name)} if old else set()
        other, files = other + bool(differs), files | differs
    if not other:
        return []
    shown = ", ".join(sorted(files)[:3]) + (", ..." if len(files) > 3 else "")
    return [f"{other} finished run{'s were' if other > 1 else ' was'} made with other code of lamm-cl: {len(files)} "
            f"file{'s differ' if len(files) > 1 else ' differs'} ({shown}); another --results folder repeats them"]  # fmt: skip
