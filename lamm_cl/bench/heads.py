"""Heads in closed form: what observing, solving and scoring cost, against bare matrix products of the same size."""

import itertools
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from lamm_cl.bench.instruments import Measure, at_least, at_most, interleaved, peak_of, timed
from lamm_cl.config.cards import load_card, resolve
from lamm_cl.learner.build import piece
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import Head
from lamm_cl.learner.shown import Experience, Images
from lamm_cl.towers.clip import FrozenCLIP, Prompts

CLASSES = 1000
IMAGES = 2048  # observed; four times as many are scored
EXPERIENCES = 20
M = 10_000  # random features, the paper's
STREAMED = 1000  # random features where a whole stream is measured
CLOSED = ("simplecil", "fecam", "fecam-common", "ranpac", "acil")


class Shown:
    """Images of an experience through a frozen tower: random."""

    def __init__(self, raw: Tensor, y: Tensor, ids: Tensor):
        self.raw, self.unit, self.y, self.ids, self.val = raw, torch.nn.functional.normalize(raw, dim=-1), y, ids, None

    def view(self, k: int, scale: tuple[float, float] = (0.08, 1.0)) -> "Shown":
        return self

    def of(self, classes: range) -> "Shown":
        mine = (self.y >= classes.start) & (self.y < classes.stop)
        return Shown(self.raw[mine], self.y[mine], self.ids[mine])


def shown(frozen: FrozenCLIP, classes: int) -> Shown:
    draw = torch.Generator().manual_seed(1)
    raw = torch.randn(IMAGES, frozen.D, generator=draw).to(frozen.device)
    return Shown(raw, (torch.arange(IMAGES) % classes).to(frozen.device), torch.arange(IMAGES))


def head(method: str, frozen: FrozenCLIP, **options) -> Head:
    card = resolve(load_card(method), {"head": options})
    given = dict(clip=frozen, names=[str(c) for c in range(CLASSES)], template="", dataset="", shots=1, experiences=[])
    return piece(card, "head", given).to(frozen.device)


@torch.no_grad()
def closed_forms(frozen: FrozenCLIP, repeats: int) -> Iterator[Measure]:
    images = shown(frozen, CLASSES)
    e = Experience(0, range(CLASSES))
    ranpac = head("ranpac", frozen, M=M, ridges=[1e4])
    h = ranpac.widen(images.raw)

    def observe() -> None:
        ranpac.seen = None
        ranpac.observe(e, images)

    ours, product = interleaved([observe, partial(torch.mm, h.T, h)], repeats)
    note = f"M {M:,}, {CLASSES:,} classes, {IMAGES:,} images; a bare product H^T H {product:.2f} s"
    yield at_least("ranpac_observe", ours, "s", product / ours, 0.7, note)
    del h
    seconds, _ = timed(partial(ranpac.finish, None, e))
    yield Measure("ranpac_solve", seconds, "s", note=f"one Cholesky decomposition of {M:,} x {M:,}, {CLASSES:,} classes")
    raw = images.raw.repeat(4, 1)
    out = Output(Images(raw=raw), None, None, Prompts(), e.classes, frozen.scale, raw=raw)
    whole = len(raw) * M * 4
    peak = peak_of(partial(ranpac.forward, out), frozen.device.type)
    note = f"peak for {len(raw):,} images; H as a whole {whole / 2**20:.0f} MiB"
    yield at_most("ranpac_scores", peak / 2**20, "MiB", peak / whole, 0.5, note)
    yield from streams(frozen, repeats)
    yield replayed(frozen)


def streams(frozen: FrozenCLIP, repeats: int) -> Iterator[Measure]:
    """Observing a stream in many experiences, against one with all classes: no pass over old data."""
    images = shown(frozen, CLASSES // 2)
    ends = [i * (CLASSES // 2) // EXPERIENCES for i in range(EXPERIENCES + 1)]
    cut = [range(a, b) for a, b in itertools.pairwise(ends)]
    few = {"ranpac": {"M": STREAMED, "ridges": [1e4]}, "acil": {"buffer": STREAMED}}

    def observe(method: str, experiences: list[range], parts: list[Shown]) -> None:
        one = head(method, frozen, **few.get(method, {}))
        for i, (classes, part) in enumerate(zip(experiences, parts)):
            one.begin(Experience(i, classes))
            one.observe(Experience(i, classes), part)

    for method in CLOSED:
        many = partial(observe, method, cut, [images.of(classes) for classes in cut])
        once = partial(observe, method, [range(CLASSES // 2)], [images])
        stream, joint = interleaved([many, once], repeats)
        note = f"{EXPERIENCES} experiences, {IMAGES:,} images of {CLASSES // 2} classes; in one {joint:.2f} s"
        yield Measure(f"{method}_stream", stream, "s", stream / joint, note=note)


def replayed(frozen: FrozenCLIP) -> Measure:
    """What a run that was cut off in its last experience repeats: the sums of RanPAC at its paper's width are in no file."""
    images = shown(frozen, CLASSES)
    cut = [range(a, a + CLASSES // EXPERIENCES) for a in range(0, CLASSES, CLASSES // EXPERIENCES)]
    parts = [images.of(classes) for classes in cut]
    one = head("ranpac", frozen, M=M, ridges=[1e4])

    def replay() -> None:
        for i, classes in enumerate(cut[:-1]):
            one.begin(Experience(i, classes))
            one.observe(Experience(i, classes), parts[i])

    seconds, _ = timed(replay)
    one.begin(Experience(EXPERIENCES - 1, cut[-1]))
    one.observe(Experience(EXPERIENCES - 1, cut[-1]), parts[-1])
    solve, _ = timed(partial(one.finish, None, Experience(EXPERIENCES - 1, cut[-1])))
    note = f"M {M:,}, {EXPERIENCES - 1} of {EXPERIENCES}, {IMAGES:,} images; one solution (not repeated) {solve:.1f} s"
    return Measure("ranpac_replay", seconds, "s", seconds / (EXPERIENCES * solve), note=note)
