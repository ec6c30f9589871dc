"""Runs divided among machines that do not talk: by a hash of what a run is called, so that all agree and none is left out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.sweeping.plan import Run


@dataclass(frozen=True)
class Shard:
    """Number `index` (from 1 on) of `count`."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, runs: Sequence[Run]) -> list[Run]:
        return [run for run in runs if number_of(run, self.count) == self.index]


def number_of(run: Run, count: int) -> int:
    """In which shard a run is, whatever else is planned: runs that are added later move no other."""
    digits = hashlib.sha256(place_of(run).encode()).hexdigest()
    return 1 + int(digits[:16], 16) % count


def place_of(run: Run) -> str:
    """DATASET/METHOD/shotsK-seedS"""
    return "/".join(run.folder.parts[-3:])


def named(runs: Sequence[Run], places: Sequence[str]) -> list[Run]:
    """The runs of these places, in the plan's order. Raises UserError for a place that is not planned."""
    known = {place_of(run): run for run in runs}
    for place in places:
        if place not in known:
            raise UserError(f"--run: no run {place!r} in this plan{did_you_mean(place, known)}")
    return [run for place, run in known.items() if place in places]
