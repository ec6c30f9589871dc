"""How fast it is, as ratios measured in one process, one thread, interleaved: machines differ and are shared, ratios stay.

"As released" is the same mathematics with the amount of work of the authors' code: every image through the frozen tower in every
step, all 77 text positions of every class through open_clip's own blocks, LAMM's reference features again in every step.
"""

import ctypes
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from . import backbones, transformer
from .clip import FrozenCLIP, Prompts
from .config import Card, load_card, resolve
from .data.dataset import Split
from .features import BATCH, Features, Pixels
from .model import Output, PromptedCLIP, build
from .prompts import Frame
from .train import optimizer

WORDS = "cat dog fox owl bee ant elk cod hen jay".split()
ADJECTIVES = "red striped golden small grey northern spotted tree water mountain".split()
PLURALS = ["", "house", "fish", "leaf", "stone", "bird", "cloud", "river", "lamp", "chair"]


@dataclass(frozen=True)
class Measure:
    """value in `unit`; ratio: how many times faster (or what share), against `target`; None where nothing is promised."""

    name: str
    value: float
    unit: str
    ratio: float | None = None
    target: str | None = None
    met: bool | None = None
    note: str = ""


def names_of(classes: int) -> list[str]:
    """Class names of one to three words."""
    names = [f"{a} {w} {p}".strip() for p in PLURALS for a in ADJECTIVES for w in WORDS]
    return names[:: max(1, len(names) // classes)][:classes]


def interleaved(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Least seconds of each, measured in turns so that what else the machine does hits all alike."""
    best = [float("inf")] * len(functions)
    for _ in range(repeats):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            function()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def at_least(name: str, value: float, unit: str, ratio: float, target: float, note: str = "") -> Measure:
    return Measure(name, value, unit, ratio, f">= {target:g}", ratio >= target, note)


def at_most(name: str, value: float, unit: str, ratio: float, target: float, note: str = "") -> Measure:
    return Measure(name, value, unit, ratio, f"<= {target:g}", ratio <= target, note)


# --- as released ----------------------------------------------------------------------------------------------------------


def plain_blocks(blocks: nn.ModuleList, x: Tensor, deep: list[Tensor], start: int, mask: Tensor | None) -> Tensor:
    """open_clip's own blocks, one after another."""
    for i, block in enumerate(blocks):
        x = block(transformer.enter(i, x, deep, start), attn_mask=mask)
    return x


def plain_text(frame: Frame, prompts: Prompts, labels: Tensor | None, classes: range) -> Tensor:
    model = frame.clip.model
    x = frame.whole(prompts.first, labels, classes) + model.positional_embedding
    return frame.read(plain_blocks(model.transformer.resblocks, x, prompts.deep, 1, model.attn_mask), classes)


def plain_image(frozen: FrozenCLIP, images: Tensor, prompts: Prompts) -> Tensor:
    v = frozen.model.visual
    x = v.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], dim=1) + v.positional_embedding
    end = x.shape[1]
    if prompts.first is not None:
        x = torch.cat([x, prompts.first.expand(len(x), -1, -1)], dim=1)
    x = plain_blocks(v.transformer.resblocks, v.ln_pre(x), prompts.deep, end, None)
    return F.normalize(v.ln_post(x[:, 0]) @ v.proj, dim=-1)


class Live:
    """Reference features computed again, with a graph, whenever they are asked for."""

    def __init__(self, frame: Frame):
        self.frame = frame

    def features(self, prompts: Prompts, classes: range) -> Tensor:
        return plain_text(self.frame, prompts, None, classes)


def released_step(model: PromptedCLIP, images: Tensor, targets: Tensor) -> None:
    """One training step's forward and backward pass with the released amount of work."""
    classes, kept = model.in_play, model.reference
    image = plain_image(model.clip, images, model.context.image())
    prompts, labels = model.context.text(image, classes), model.labels(classes)
    (frame,) = model.classifier.frames
    if model.context.reads_images:
        rows = [plain_text(frame, Prompts(first), labels, classes) for first in prompts.first]
        logits = torch.stack([model.clip.scale * x @ t.T for x, t in zip(image, rows, strict=True)])
        text = torch.stack(rows)
    else:
        text = plain_text(frame, prompts, labels, classes)
        logits = model.clip.scale * image @ text.T
    out = Output(logits, image, text, prompts, classes)
    loss = F.cross_entropy(logits, targets)
    if model.extra_loss is not None:
        model.reference = None if kept is None else _live(kept.frames[0])
        terms = model.extra_loss(model, out, targets)
        loss = loss + sum(model.extra_loss.weights[name] * term for name, term in terms.items())
        model.reference = kept
    loss.backward()


def _live(frame: Frame) -> nn.Module:
    module = nn.Module()
    module.features = Live(frame).features
    return module


def our_step(model: PromptedCLIP, x: Tensor, targets: Tensor) -> None:
    _, terms = model.loss(x, targets)
    sum(terms.values()).backward()


# --- the measurements -----------------------------------------------------------------------------------------------------


def random_clip(architecture: str) -> FrozenCLIP:
    """An architecture of open_clip's registry with random weights: speed does not depend on them."""
    torch.manual_seed(0)
    return backbones.with_random_weights(architecture)


def card(method: str) -> Card:
    return resolve(load_card(method), {"training": {"augmentation": "none"}})


def learner(method: str, frozen: FrozenCLIP, classes: int, experiences: list[range] | None = None) -> PromptedCLIP:
    names = names_of(classes)
    model = build(card(method), frozen, names, experiences or [range(classes)], shots=16)
    model.train()
    begin(model, 0)
    return model


def begin(model: PromptedCLIP, i: int) -> None:
    """Start learning experience i, as Avalanche's adaptation does."""
    model.adaptation(type("Experience", (), {"current_experience": i}))


def inputs(model: PromptedCLIP, batch: int, classes: range) -> tuple[Tensor, Tensor, Tensor]:
    """Images, the features of as many, and targets."""
    draw = torch.Generator().manual_seed(1)
    size = model.clip.image_size
    images = torch.randn(batch, 3, size, size, generator=draw)
    features = F.normalize(torch.randn(batch, model.clip.D, generator=draw), dim=-1)
    return images, features, torch.randint(classes.start, classes.stop, (batch,), generator=draw)


def text_tower(frozen: FrozenCLIP, classes: int, repeats: int) -> Iterator[Measure]:
    """Forward and backward pass of the text tower under a learned context: plain, truncated, shared prefix."""
    model = learner("coop", frozen, classes)
    (frame,) = model.classifier.frames
    weights = torch.randn(frozen.D, generator=torch.Generator().manual_seed(2))
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
    exact = off <= 1e-6 and off_gradient <= 1e-5
    yield Measure(measure.name, measure.value, measure.unit, measure.ratio, measure.target, measure.met and exact, note)


def steps(frozen: FrozenCLIP, classes: int, repeats: int) -> Iterator[Measure]:
    """Training steps against the same steps as released."""
    for method, batch, target in (("lamm", 32, 30), ("coop", 32, 25), ("maple", 4, 2.2), ("cocoop", 1, 8)):
        model = learner(method, frozen, classes)
        images, features, targets = inputs(model, batch, range(classes))
        x = images if model.context.prompts_images else features
        functions = [partial(our_step, model, x, targets), partial(released_step, model, images, targets)]
        if method == "maple":
            functions += [partial(bare_image, frozen, images), partial(text_step, model)]
        fast, slow, *parts = interleaved(functions, repeats)
        note = f"as released {slow:.2f} s; batch {batch}, {classes} classes"
        if parts:
            share = fast / sum(parts)
            note += (
                f"; {share:.2f} times the bare image pass ({parts[0]:.2f} s) and the text step ({parts[1]:.2f} s), target <= 1.2"
            )
        yield at_least(f"{method}_step", fast, "s", slow / fast, target, note)
        del model, functions
        gc.collect()


def bare_image(frozen: FrozenCLIP, images: Tensor) -> None:
    """open_clip's image tower forward and backward to its input."""
    frozen.model.encode_image(images.requires_grad_()).sum().backward()
    images.requires_grad_(False)


def text_step(model: PromptedCLIP) -> None:
    model.classifier.encode(model.context.text(None, model.classes), model.classes).sum().backward()


def growth_with_classes(frozen: FrozenCLIP, counts: tuple[int, ...], repeats: int) -> Iterator[Measure]:
    """Step time of LAMM and CoOp at several numbers of classes."""
    for method in ("lamm", "coop"):
        for classes in counts:
            model = learner(method, frozen, classes)
            _, features, targets = inputs(model, 32, range(classes))
            (seconds,) = interleaved([partial(our_step, model, features, targets)], repeats)
            yield Measure(f"{method}_step_{classes}", seconds, "s", note=f"{classes} classes, batch 32")


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


def experience_growth(frozen: FrozenCLIP, repeats: int, T: int = 50, each: int = 10) -> Iterator[Measure]:
    """Ten training steps of experience T against those of experience 2 of one LAMM stream."""
    experiences = [range(i * each, (i + 1) * each) for i in range(T)]
    model = learner("lamm", frozen, T * each, experiences)
    seconds = {}
    for i in range(1, T):
        begin(model, i)
        if i in (1, T - 1):
            _, features, targets = inputs(model, 32, experiences[i])
            ten = partial(ten_steps, model, features, targets)
            (seconds[i],) = interleaved([ten], repeats)
    last, first = seconds[T - 1], seconds[1]
    yield at_most(
        "experience_growth", last, "s", last / first, 1.1, f"10 steps of experience {T}, against experience 2 ({first:.2f} s)"
    )


def ten_steps(model: PromptedCLIP, features: Tensor, targets: Tensor) -> None:
    sgd = optimizer(card("lamm").training, model)
    for _ in range(10):
        sgd.zero_grad()
        our_step(model, features, targets)
        sgd.step()


def peak_of(step: str, architecture: str, classes: int, pipe) -> None:
    """In a process of its own: bytes above the loaded model that one LAMM step takes (Linux)."""
    torch.set_num_threads(1)
    model = learner("lamm", random_clip(architecture), classes)
    images, features, targets = inputs(model, 32, range(classes))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what loading left free would hide what the step takes
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    base = memory("VmRSS")
    if step == "ours":
        our_step(model, features, targets)
    else:
        released_step(model, images, targets)
    pipe.send(memory("VmHWM") - base)


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its peak."""
    return 1024 * int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0])


def lamm_memory(architecture: str, classes: int) -> Iterator[Measure]:
    peak = {}
    for step in ("ours", "released"):
        context = get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=peak_of, args=(step, architecture, classes, there))
        process.start()
        there.close()
        peak[step] = here.recv()
        process.join()
    note = f"as released {peak['released'] / 2**20:.0f} MiB; one step, {classes} classes, above the loaded model"
    share = peak["ours"] / peak["released"]
    yield at_most("lamm_memory", peak["ours"] / 2**20, "MiB", share, 1 / 6, note)


COUNTS = (10, 50, 100, 500, 1000)  # classes at which the growth of a step is shown
IMAGES = 48  # JPEG files encoded


GROUPS = ("text", "steps", "growth", "images", "experiences", "memory")


def measure(architecture: str, classes: int, repeats: int, groups: Sequence[str] = GROUPS) -> Iterator[Measure]:
    """The groups asked for, one measure after another."""
    torch.set_num_threads(1)
    frozen = random_clip(architecture)
    with tempfile.TemporaryDirectory() as folder:
        made = {
            "text": lambda: text_tower(frozen, classes, repeats),
            "steps": lambda: steps(frozen, classes, repeats),
            "growth": lambda: growth_with_classes(frozen, COUNTS, repeats),
            "images": lambda: image_encoding(frozen, IMAGES, Path(folder)),
            "experiences": lambda: experience_growth(frozen, repeats + 1),
            "memory": lambda: lamm_memory(architecture, 2 * classes) if sys.platform == "linux" else (),
        }
        for group in groups:
            yield from made[group]()
