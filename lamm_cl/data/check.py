"""What is there, what is missing, and what to do about it."""

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache as remembered
from pathlib import Path
from typing import Literal

from lamm_cl import yaml_facts
from lamm_cl.config.schema import Scenario
from lamm_cl.data.catalogue import DatasetInfo, folder_of, how_to_get, info, load, members
from lamm_cl.data.chains import LEARNED_FROM_TEST, shared_names
from lamm_cl.data.dataset import Dataset, Files, listed
from lamm_cl.data.features import parts_of
from lamm_cl.data.images import defect
from lamm_cl.data.lists import read_split
from lamm_cl.data.measured import measured
from lamm_cl.errors import UserError
from lamm_cl.files import PACKAGE, refusal

SPLITS = PACKAGE / "data" / "splits.yaml"  # which says what is known of the lists that people bring
MOST_NAMED = 20  # unreadable files named one by one
BLOCK = 20_000  # files handed to the processes at a time; a million paths at once would fill the memory


@dataclass(frozen=True)
class Finding:
    """One line of `data check`: "ok" (as published), "note" (usable; know this) or "problem" (a run would fail)."""

    dataset: str
    level: Literal["ok", "note", "problem"]
    text: str
    fix: str = ""


def check(
    names: Iterable[str],
    data_root: Path | None,
    cache: Path,
    *,
    scenario: Scenario | None = None,
    jobs: int = 1,
    progress: Callable[[str, int, int], None] = lambda dataset, done, total: None,
) -> list[Finding]:
    """Findings for each named dataset: whether it loads, its counts beside the published ones, brought splits, unreadable images.

    scenario: who sees them, in its classes and its split.  Of each image file the header and the ending are read, in `jobs`
    processes.
    """

    def loaded(name: str) -> Dataset:
        if scenario is None:
            return load(name, data_root, cache)
        return measured(scenario, name, lambda each, split: load(each, data_root, cache, split))

    findings = []
    for name in names:
        if chain := members(name):
            parts = check(chain, data_root, cache, jobs=jobs, progress=progress)
            whole = not any(finding.level == "problem" for finding in parts)
            findings += [*parts, *(_of_chain(name, data_root, cache) if whole else [])]
            continue
        known = info(name)
        try:
            dataset = loaded(name)
        except (UserError, OSError) as error:
            told = refusal(error) if isinstance(error, OSError) else str(error)
            if told is None or parts_of(name):  # of features, one file and nothing to get: a mistake like any other
                raise
            findings.append(Finding(known.name if known else name, "problem", told, _fix(known, data_root)))
            continue
        findings += _counts(dataset, known) if scenario is None else [_seen(dataset, scenario)]
        findings += _splits(dataset, folder_of(name, data_root))
        findings += [_note(dataset, note, known, data_root) for note in dataset.notes]
        findings += _unreadable(dataset, jobs, progress)
    return findings


def _of_chain(name: str, data_root: Path | None, cache: Path) -> list[Finding]:
    """What is to know about a chain whose datasets are in order."""
    dataset = load(name, data_root, cache)
    counts = f"{len(dataset.classes):,} classes, {len(dataset.train):,} train and {len(dataset.test):,} test {dataset.kind}"
    notes = shared_names(dataset.chain)
    notes += [f"{part.name}: {LEARNED_FROM_TEST}" for part in dataset.chain if LEARNED_FROM_TEST in part.notes]
    return [Finding(dataset.name, "ok", f"a chain of {len(dataset.chain)} datasets: {counts}"),
            *(Finding(dataset.name, "note", note) for note in notes)]  # fmt: skip


def _fix(known: DatasetInfo | None, data_root: Path | None) -> str:
    if known is None or known.embedded:
        return ""
    if data_root is None:
        return "name the folder that holds the datasets with --data-root"
    folder = data_root / known.folder
    if folder.is_dir():
        return f"put that right, or unpack the published files into {folder} again"
    return f"{how_to_get(known)}, into {folder}" + (f"; split file: {known.split}" if known.split else "")


def _counts(dataset: Dataset, known: DatasetInfo | None) -> list[Finding]:
    here = (len(dataset.classes), len(dataset.train), len(dataset.test))
    text = "{:,} classes, {:,} train and {:,} test images".format(*here)
    if dataset.features:
        val = f", {len(dataset.val):,} validation" if dataset.val else ""
        numbers = f"{here[0]:,} classes, {here[1]:,} training{val} and {here[2]:,} test"
        texts = f"texts {dataset.features.text}" if dataset.features.text else "no texts"
        return [Finding(dataset.name, "ok", f"{numbers} {dataset.kind}; {texts}; classes {listed(dataset.classes)}")]
    said = f"; prompts say {listed(dataset.classes)}"
    if known is None:
        return [Finding(dataset.name, "ok", text + said)]
    published = (known.classes, known.train, known.test)
    if here == published:
        return [Finding(dataset.name, "ok", f"{text}, as published{said}")]
    differs = "{:,} classes, {:,} train and {:,} test".format(*published)
    fix = "unpack the archives again if images should be there; results on this are not comparable with published ones"
    return [Finding(dataset.name, "note", f"{text}; published: {differs}{said}", fix)]


def _seen(dataset: Dataset, scenario: Scenario) -> Finding:
    """What a scenario sees of a dataset."""
    text = f"{len(dataset.classes):,} classes, {len(dataset.train):,} train and {len(dataset.test):,} test images"
    split = f"split {dataset.split}" if dataset.split else "the data set's own split"
    prompts = listed([dataset.template.replace("{}", name) for name in dataset.classes])
    more = f", {len(dataset.spoken)} templates in the test" if len(dataset.spoken) > 1 else ""
    return Finding(dataset.name, "ok", f"as {scenario.name} sees it: {text}, {split}{more}; prompts: {prompts}")


def _splits(dataset: Dataset, folder: Path | None) -> list[Finding]:
    """Which lists of train and test images lie in the folder, and whether their sizes are those that their sources tell."""
    findings = []
    for path in sorted(folder.glob("split_*.json")) if folder else ():
        name = path.stem.removeprefix("split_")
        if (facts := _known_splits().get(dataset.name, {}).get(name)) is None:
            continue  # the layout's own, or one that nothing is known of
        here = dict(zip(("train", "test"), map(len, read_split(path)), strict=True))
        text = f"split {name} is there: {here['train']:,} train and {here['test']:,} test images"
        told = {part: facts[part] for part in here if part in facts}
        if any(here[part] != number for part, number in told.items()):
            expected = " and ".join(f"{number:,} {part}" for part, number in told.items())
            findings.append(Finding(dataset.name, "note", f"{text}; its source has {expected} ({facts['source']})"))
        else:
            seems = f"; its source seems to test on about {facts['about']:,}"
            about = seems if "about" in facts else ", as its source has them"
            findings.append(Finding(dataset.name, "ok", text + about))
    return findings


@remembered
def _known_splits() -> dict[str, dict[str, dict]]:
    return yaml_facts.parse(SPLITS.read_bytes(), SPLITS.name)


def _note(dataset: Dataset, note: str, known: DatasetInfo | None, data_root: Path | None) -> Finding:
    fix = ""
    if brought := re.match(r"no split_([^/]+)\.json.*: train and test are the data set's own", note):
        known_of = _known_splits().get(dataset.name, {}).get(brought[1], {})
        fix = f"put it there to measure as others did; theirs: {known_of['source']}" if known_of else ""
    elif known and known.split and note.startswith("no split_"):
        fix = f"download it from {known.split} into {data_root / known.folder}"
    return Finding(dataset.name, "note", note, fix)


def _unreadable(dataset: Dataset, jobs: int, progress: Callable[[str, int, int], None]) -> list[Finding]:
    splits = [split.images for split in (dataset.train, dataset.test) if isinstance(split.images, Files)]
    total = sum(map(len, splits))
    done, bad = 0, []
    with ProcessPoolExecutor(jobs) if jobs > 1 and total else nullcontext() as pool:
        for images in (split[start : start + BLOCK] for split in splits for start in range(0, len(split), BLOCK)):
            found = pool.map(defect, images, chunksize=256) if pool else map(defect, images)
            for path, reason in zip(images, found, strict=True):
                done += 1
                progress(dataset.name, done, total)
                if reason:
                    bad.append((path, reason))
    findings = [
        Finding(dataset.name, "problem", f"{path}: unreadable ({reason})", "put the original file in its place")
        for path, reason in bad[:MOST_NAMED]
    ]
    if len(bad) > MOST_NAMED:
        more = f"{len(bad) - MOST_NAMED} more unreadable images"
        findings.append(Finding(dataset.name, "problem", more, "unpack the archive again"))
    return findings
