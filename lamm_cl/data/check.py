"""What is there, what is missing, and what to do about it."""

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lamm_cl.data.catalogue import DatasetInfo, how_to_get, info, load, members
from lamm_cl.data.chains import LEARNED_FROM_TEST, shared_names
from lamm_cl.data.dataset import Dataset, Files, listed
from lamm_cl.data.features import parts_of
from lamm_cl.data.images import defect
from lamm_cl.errors import UserError
from lamm_cl.files import refusal

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
    jobs: int = 1,
    progress: Callable[[str, int, int], None] = lambda dataset, done, total: None,
) -> list[Finding]:
    """Findings for each named dataset: whether it loads, its counts beside the published ones, unreadable images.

    Of each image file the header and the ending are read, in `jobs` processes.
    """
    findings = []
    for name in names:
        if chain := members(name):
            parts = check(chain, data_root, cache, jobs=jobs, progress=progress)
            whole = not any(finding.level == "problem" for finding in parts)
            findings += [*parts, *(_of_chain(name, data_root, cache) if whole else [])]
            continue
        known = info(name)
        try:
            dataset = load(name, data_root, cache)
        except (UserError, OSError) as error:
            told = refusal(error) if isinstance(error, OSError) else str(error)
            if told is None or parts_of(name):  # of features, one file and nothing to get: a mistake like any other
                raise
            findings.append(Finding(known.name if known else name, "problem", told, _fix(known, data_root)))
            continue
        findings += _counts(dataset, known)
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


def _note(dataset: Dataset, note: str, known: DatasetInfo | None, data_root: Path | None) -> Finding:
    fix = ""
    if known and known.split and note.startswith("no split_"):
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
