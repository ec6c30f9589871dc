"""How fast it is, as ratios measured in one process, one thread, interleaved: machines differ and are shared, ratios stay.

"As released" is the same mathematics with the amount of work of the authors' code (yardstick.py).
"""

import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lamm_cl.bench.counts import counts
from lamm_cl.bench.folders import folders
from lamm_cl.bench.heads import closed_forms
from lamm_cl.bench.instruments import Measure, at_least, at_most, in_a_process_of_its_own, interleaved, peak_of, timed
from lamm_cl.bench.limit import counted, share_of_limit
from lamm_cl.bench.processes import commands, start
from lamm_cl.bench.yardstick import as_released, plain_text
from lamm_cl.config.cards import load_card, load_scenario, resolve
from lamm_cl.config.schema import Card
from lamm_cl.data import catalogue
from lamm_cl.data.dataset import Dataset, Split
from lamm_cl.learner.build import build
from lamm_cl.learner.model import Learner
from lamm_cl.learner.shown import Images
from lamm_cl.results.record import Count
from lamm_cl.sweeping.plan import Run, plan
from lamm_cl.towers.backbones import load, with_random_weights
from lamm_cl.towers.clip import AT_ONCE, LOWER, FrozenCLIP
from lamm_cl.towers.devices import machine
from lamm_cl.towers.selfcheck import is_candidate
from lamm_cl.training import stream
from lamm_cl.training.facts import Stopwatch
from lamm_cl.training.features import BATCH, Features, Pixels
from lamm_cl.training.loop import Loop
from lamm_cl.training.optimizing import optimizer
from lamm_cl.training.recorder import Recorder
from lamm_cl.training.run import learn, prepare, sources_of
from lamm_cl.training.state import State

WORDS = "cat dog fox owl bee ant elk cod hen jay".split()
ADJECTIVES = "red striped golden small grey northern spotted tree water mountain".split()
PLURALS = ["", "house", "fish", "leaf", "stone", "bird", "cloud", "river", "lamp", "chair"]
COUNTS = (10, 50, 100, 500, 1000)  # classes at which the growth of a step is shown
MOST = {"comma": 100}  # classes: its score keeps all 77 positions of every class for the backward pass
IMAGES = 48  # JPEG files encoded
EXPERIENCES = 50  # of the stream whose last experience must cost no more than its second
METHODS = ("zero-shot", "coop", "cocoop", "maple", "comma", "lamm", "coop+lamm", "maple+lamm")
LIMITS = {"lamm": 0.78, "coop": 0.75, "maple": 0.85, "encoding": 0.92}  # share of the limit that is to be reached in fp32


@dataclass(frozen=True)
class Amount:
    """How much of it: what takes minutes may be left out or be made smaller."""

    precisions: tuple[str, ...] = ("fp32", "bf16")  # of steps and encoding, beside their limits
    plain: bool = True  # beside packed linear layers
    commands: tuple[str, ...] = ("zero-shot", "coop", "maple", "comma")  # whole processes


FULL = Amount()
QUICK = Amount(("fp32",), False, ("zero-shot", "maple"))


def names_of(classes: int) -> list[str]:
    """Class names of one to three words."""
    names = [f"{a} {w} {p}".strip() for p in PLURALS for a in ADJECTIVES for w in WORDS]
    return names[:: max(1, len(names) // classes)][:classes]


def step(model: Learner, x: Images, targets: Tensor) -> None:
    """One training step's forward and backward pass."""
    _, terms = model.loss(x, targets)
    model.backward(terms, sum(terms.values()))


def random_clip(architecture: str, device: str, precision: str = "fp32") -> FrozenCLIP:
    """An architecture of open_clip's registry with random weights: speed does not depend on them.  Packed where that may be."""
    torch.manual_seed(0)
    clip = with_random_weights(architecture).to(device).compute(precision)
    return clip.compute(precision, "packed" if is_candidate(clip) else "plain")


def card(method: str, frozen: FrozenCLIP) -> Card:
    """A method's card; deep prompts no deeper than the towers."""
    shipped = load_card(method)
    deepest = {"depth": frozen.depth, "depth_image": frozen.depth, "block": frozen.depth - 1}
    given = shipped.context.options
    return resolve(shipped, {"context": {name: min(given[name], most) for name, most in deepest.items() if name in given}})


def batch_of(method: str) -> int:
    """The paper's."""
    return load_card(method).training.batch


def learner(method: str, frozen: FrozenCLIP, classes: int, experiences: list[range] | None = None,
            released: bool = False) -> Learner:  # fmt: skip
    experiences, names = experiences or [range(classes)], names_of(classes)
    names = [name for i in range(len(experiences)) for name in names[i :: len(experiences)]]  # of all lengths in each
    model = build(card(method, frozen), frozen, names, experiences, shots=16)
    model = as_released(model) if released else model
    model.train()
    model.begin(0)
    return model


def inputs(model: Learner, batch: int, classes: range) -> tuple[Images, Images, Tensor]:
    """Pixels, what a step of the method brings (features, or the pixels), and targets."""
    draw = torch.Generator().manual_seed(1)
    size = model.clip.image_size
    images = torch.randn(batch, 3, size, size, generator=draw)
    features = F.normalize(torch.randn(batch, model.clip.D, generator=draw), dim=-1)
    targets = torch.randint(classes.start, classes.stop, (batch,), generator=draw)
    pixels, frozen = Images(pixels=images).to(model.clip.device), Images(frozen=features).to(model.clip.device)
    brought = replace(pixels, frozen=frozen.frozen if "frozen" in model.needs else None) if model.needs_pixels else frozen
    return pixels, brought, targets.to(model.clip.device)


def text_tower(frozen: FrozenCLIP, classes: int, repeats: int) -> Iterator[Measure]:
    """Forward and backward pass of the text tower under a learned context: plain, truncated, shared prefix."""
    model = learner("coop", frozen, classes)
    (frame,) = model.texts.frames
    weights = torch.randn(frozen.D, generator=torch.Generator().manual_seed(2)).to(frozen.device)
    whole = range(classes)

    def gradient(features: Tensor) -> tuple[Tensor, Tensor]:
        model.zero_grad()
        (features @ weights).sum().backward()
        return features.detach(), model.context.v.grad.clone()

    def plain():
        return gradient(plain_text(frame, model.context.text(None, whole), None, whole))

    def truncated():
        prompts = frame.assemble(model.context.text(None, whole).first, None, whole, 0, frame.fixed.shape[1])
        return gradient(frame.read(frozen.tokens(prompts), whole))

    def shared():
        return gradient(frame.encode(model.context.text(None, whole), None, whole))

    (a, ga), (b, gb) = plain(), shared()
    off, off_gradient = (a - b).abs().max().item(), ((ga - gb).abs().max() / ga.abs().max()).item()
    slow, cut, fast = interleaved([plain, truncated, shared], repeats)
    note = f"plain {slow:.2f} s, truncated {cut:.2f} s; outputs differ by {off:.1e}, gradients by {off_gradient:.1e} relative"
    measure = at_least("text_tower", fast, "s", slow / fast, 12, note)
    yield replace(measure, met=measure.met and off <= 1e-6 and off_gradient <= 1e-5)


def steps(frozen: FrozenCLIP, classes: int, repeats: int) -> Iterator[Measure]:
    """Training steps against the same steps as released."""
    for method, target in (("lamm", 30), ("coop", 25), ("maple", 2.2), ("cocoop", 8)):
        batch = batch_of(method)
        model, released = learner(method, frozen, classes), learner(method, frozen, classes, released=True)
        images, x, targets = inputs(model, batch, range(classes))
        functions = [partial(step, model, x, targets), partial(step, released, images, targets)]
        if method == "maple":
            functions += [partial(bare_image, frozen, images.pixels), partial(text_step, model)]
        fast, slow, *parts = interleaved(functions, repeats)
        note = f"as released {slow:.2f} s; batch {batch}, {classes} classes"
        share = 0.0
        if parts:
            share = fast / sum(parts)
            note += f"; {share:.2f} (target <= 1.2) of a bare image pass ({parts[0]:.2f} s) and a text step ({parts[1]:.2f} s)"
        measure = at_least(f"{method}_step", fast, "s", slow / fast, target, note)
        yield replace(measure, met=measure.met and share <= 1.2)
        del model, released, functions
        gc.collect()


def limits(architecture: str, device: str, classes: int, turns: int, amount: Amount) -> Iterator[Measure]:
    """Training steps and the encoding of images against the best matrix products of this machine."""
    in_fp32: dict[tuple[str, str], float] = {}
    for precision in amount.precisions:
        clip, dtype = random_clip(architecture, device, precision), LOWER.get(precision, torch.float32)
        best = clip.linears
        for how in (best, "plain")[: 1 + (amount.plain and best != "plain")]:
            clip.compute(precision, how)
            for name, one, what in computations(clip, classes):
                target = LIMITS[name] if (precision, how) == ("fp32", best) else None
                entry, told = f"{name}_limit_{precision}" + f"_{how}" * (how != best), f"{how}, {what}"
                m = share_of_limit(entry, one, counted(one), told, dtype, clip.device, turns, target)
                faster = [f"; {m.value / rate:.2f} times fp32, {way}" for (of, way), rate in in_fp32.items() if of == name]
                yield replace(m, note=m.note + "".join(faster))
                if precision == "fp32":
                    in_fp32[name, how] = m.value


def computations(clip: FrozenCLIP, classes: int) -> Iterator[tuple[str, Callable[[], object], str]]:
    """Name, a step, and of what: one after another, since each keeps what it has."""
    for method in LIMITS:
        if method == "encoding":
            encoded = AT_ONCE[clip.linears]
            images = torch.randn(encoded, 3, clip.image_size, clip.image_size, generator=torch.Generator().manual_seed(1))
            yield method, torch.no_grad()(partial(clip.image, images.to(clip.device))), f"batch {encoded}"
        else:
            model, batch = learner(method, clip, classes), batch_of(method)
            _, x, targets = inputs(model, batch, range(classes))
            step(model, next(x.split(1)), targets[:1])  # in which references are made
            yield method, partial(step, model, x, targets), f"batch {batch}, {classes} classes"
            del model
        gc.collect()


def prompt_steps(frozen: FrozenCLIP, classes: int) -> Iterator[Measure]:
    """As `steps`, once each: a step as released of a batch of 128 takes a minute."""
    for method in ("kgcoop", "prograd", "tcp", "vpt", "ivlp", "promptsrc"):
        batch = batch_of(method)
        model, released = learner(method, frozen, classes), learner(method, frozen, classes, released=True)
        images, x, targets = inputs(model, batch, range(classes))
        for made, shown in ((model, x), (released, images)):  # a step of one image, in which references are made
            step(made, next(shown.split(1)), targets[:1])
        fast, slow = interleaved([partial(step, model, x, targets), partial(step, released, images, targets)], 1)
        note = f"as released {slow:.2f} s; batch {batch}, {classes} classes"
        yield Measure(f"{method}_step", fast, "s", slow / fast, note=note)
        del model, released
        gc.collect()


def bare_image(frozen: FrozenCLIP, images: Tensor) -> None:
    """open_clip's image tower forward and backward to its input."""
    frozen.model.encode_image(images.requires_grad_()).sum().backward()
    images.requires_grad_(False)


def text_step(model: Learner) -> None:
    model.texts.encode(model.context.text(None, model.classes), model.classes).sum().backward()


def growth_with_classes(architecture: str, device: str) -> Iterator[Measure]:
    """Time and peak memory of a step of each method at several numbers of classes."""
    for method in (method for method in METHODS if method != "zero-shot"):
        counts = [classes for classes in COUNTS if classes <= MOST.get(method, classes)]
        found = in_a_process_of_its_own(steps_at, method, architecture, device, counts)
        for classes, (seconds, peak) in zip(counts, found, strict=True):
            yield Measure(f"{method}_step_{classes}", seconds, "s", note=f"{classes} classes, batch {batch_of(method)}")
            yield Measure(f"{method}_memory_{classes}", peak / 2**20, "MiB", note="a step's peak above the loaded model")


def steps_at(method: str, architecture: str, device: str, counts: Sequence[int], released: bool = False
             ) -> Iterator[tuple[float, int]]:  # fmt: skip
    """A step's seconds, and its peak memory in bytes above the loaded model, at each number of classes."""
    frozen = random_clip(architecture, device)
    for i, classes in enumerate((2, *counts)):
        model = learner(method, frozen, classes, released=released)
        _, x, targets = inputs(model, batch_of(method), range(classes))
        one = partial(step, model, x, targets)
        peak = peak_of(one, device)
        if i:  # the first warms up: what a process does once is not counted
            yield timed(one)[0], peak
        del model, one


def image_encoding(frozen: FrozenCLIP, count: int, folder: Path) -> Iterator[Measure]:
    """From JPEG files into the bank, against open_clip's encode_image on tensors that are there already."""
    draw = np.random.RandomState(0)
    paths = []
    for i in range(count):
        paths.append(folder / f"{i}.jpg")
        small = Image.fromarray(draw.randint(0, 255, (24, 32, 3)).astype(np.uint8))
        small.resize((320, 240), Image.BICUBIC).save(paths[-1], quality=90)
    split = Split(paths, np.zeros(count, np.int64))
    ids = torch.arange(count)
    ready = torch.stack([frozen.preprocess(Image.open(path).convert("RGB")) for path in paths])

    @torch.no_grad()
    def bare() -> None:
        for part in ready.split(BATCH):
            frozen.model.encode_image(part)

    def end_to_end() -> None:
        Features(Pixels(split, frozen), ids, {"bench": time.time_ns()}, folder / "bank").matrix(0)

    ours, theirs = interleaved([end_to_end, bare], 2)
    yield at_least(
        "image_encoding", count / ours, "images/s", theirs / ours, 0.9, f"bare encode_image {count / theirs:.1f} images/s"
    )
    kept = Features(Pixels(split, frozen), ids, {"bench": "kept"}, folder / "bank")
    kept.matrix(0)
    (again,) = interleaved([lambda: Features(Pixels(split, frozen), ids, {"bench": "kept"}, folder / "bank").batch(ids, 0)], 3)
    note = f"{count} images, first method {ours:.2f} s"
    yield at_most("shared_features", again, "s", again / ours, 0.02, note)
    yield Measure("bank_read", count * frozen.D * 4 / again / 1e6, "MB/s", note="checksum verified, memory-mapped")


def experience_growth(frozen: FrozenCLIP, repeats: int, each: int = 10) -> Iterator[Measure]:
    """Ten training steps of experience T against those of experience 2 of one LAMM stream."""
    T = EXPERIENCES
    experiences = [range(i * each, (i + 1) * each) for i in range(T)]
    model = learner("lamm", frozen, T * each, experiences)
    seconds = {}
    for i in range(1, T):
        model.begin(i)
        if i in (1, T - 1):
            _, features, targets = inputs(model, batch_of("lamm"), experiences[i])
            ten = partial(ten_steps, model, features, targets)
            (seconds[i],) = interleaved([ten], repeats)
    last, first = seconds[T - 1], seconds[1]
    yield at_most(
        "experience_growth", last, "s", last / first, 1.1, f"10 steps of experience {T}, against experience 2 ({first:.2f} s)"
    )


def ten_steps(model: Learner, features: Images, targets: Tensor) -> None:
    sgd = optimizer(load_card("lamm").training, model)
    for _ in range(10):
        sgd.zero_grad()
        step(model, features, targets)
        sgd.step()


def lamm_memory(architecture: str, device: str, classes: int) -> Iterator[Measure]:
    (_, ours), (_, released) = (
        *in_a_process_of_its_own(steps_at, "lamm", architecture, device, [classes]),
        *in_a_process_of_its_own(steps_at, "lamm", architecture, device, [classes], True),
    )
    note = f"as released {released / 2**20:.0f} MiB; one step, {classes} classes, above the loaded model"
    yield at_most("lamm_memory", ours / 2**20, "MiB", ours / released, 1 / 6, note)


def whole_runs(device: str, folder: Path) -> Iterator[Measure]:
    """A whole run of each method, images read and tests included: the demo's digits in two halves on the embedded CLIP."""
    scenario = load_scenario("demo")
    frozen = load(scenario.backbone).to(device)
    dataset = catalogue.load("digits", None, folder)
    totals = [0.0, 0.0]
    for run in plan(scenario, folder, datasets=["digits"], methods=METHODS, seeds=[1]):
        given = run, dataset, frozen, folder
        fast, ours = timed(partial(whole_run, *given))
        slow, theirs = timed(partial(whole_run, *given, released=True))
        apart = max(abs(a.correct - b.correct) for a, b in zip(ours, theirs, strict=True) if a.correct is not None)
        note = f"as released {slow:.2f} s; counts differ by at most {apart} of {ours[0].total} images"
        yield Measure(f"{run.method}_run", fast, "s", slow / fast, note=note)
        if run.method in scenario.methods:
            totals = [totals[0] + fast, totals[1] + slow]
    note = f"{', '.join(scenario.methods)} on digits; as released {totals[1]:.1f} s"
    yield at_most("demo", totals[0], "s", totals[0] / totals[1], 0.5, note)


def whole_run(run: Run, dataset: Dataset, frozen: FrozenCLIP, cache: Path, released: bool = False) -> list[Count]:
    """As `complete` of training/run.py, without files of results."""
    prepared = prepare(run, frozen, dataset, cache)
    model = as_released(prepared.model) if released else prepared.model
    recorder = Recorder(run.scenario.label_spaces)
    images = sources_of(run, model, dataset, prepared.parts, cache)
    strategy = Loop(model=model, training=prepared.training, sources=images, seed=run.seed,
                    shots=prepared.shots, device=frozen.device, plugins=[recorder])  # fmt: skip
    learn(strategy, stream.benchmark(prepared.parts), recorder, State(), None, Stopwatch(), lambda *_: None)
    return recorder.counts


def measure(architecture: str, classes: int, repeats: int, device: str, groups: Sequence[str], amount: Amount
            ) -> Iterator[Measure]:  # fmt: skip
    """The groups asked for, one measure after another; at last how long it took, where and when."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    frozen = random_clip(architecture, device)
    memory = device.startswith("cuda") or sys.platform == "linux"
    with tempfile.TemporaryDirectory() as folder:
        made = {
            "limit": lambda: limits(architecture, device, classes, repeats + 1, amount),
            "text": lambda: text_tower(frozen, classes, repeats),
            "steps": lambda: steps(frozen, classes, repeats),
            "growth": lambda: growth_with_classes(architecture, device) if memory else (),
            "images": lambda: image_encoding(frozen, IMAGES, Path(folder)),
            "experiences": lambda: experience_growth(frozen, repeats + 1),
            "memory": lambda: lamm_memory(architecture, device, 2 * classes) if memory else (),
            "runs": lambda: whole_runs(device, Path(folder)),
            "start": lambda: start(Path(folder) / "start", device, repeats + 1),
            "commands": lambda: commands(Path(folder) / "commands", device, amount.commands, repeats),
            "heads": lambda: closed_forms(frozen, repeats) if memory else (),
            "prompts": lambda: prompt_steps(frozen, classes),
            "folders": lambda: folders(Path(folder) / "folders"),
            "counts": counts,
        }
        for group in groups:
            for each in made[group]():
                yield replace(each, group=group)
    where = f"{architecture} with random weights, {classes} classes, {repeats} turns; {' x '.join(reversed(machine(device)))}, " \
            f"torch {torch.__version__}, one thread; {datetime.now(UTC).date()}"  # fmt: skip
    yield Measure("bench", (time.perf_counter() - begin) / 60, "minutes", note=where, group="bench")
