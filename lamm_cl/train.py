"""One run: the stream in, counts out.  The only importer of avalanche.training.

Ways round Avalanche 0.6, each with a test: the optimizer is made after the model has grown, over what requires a gradient; the
schedule is set by epoch, since a scheduler plugin loses the warm-up from the second experience on; batches are drawn by a
generator of our own, since every DataLoader iterator draws from the global one and an added evaluation would change the training.
"""

from . import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import hashlib
import math
import platform
import resource
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate
from safetensors.torch import save
from torch import Tensor
from torch.optim import SGD, Optimizer

from . import backbones, data, records, stream
from .clip import FrozenCLIP
from .config import Backbone, Training, content_hash
from .data.dataset import Dataset
from .features import Augmentation, Features, Pixels, derive, onto
from .files import write_atomic
from .logs import plugins_for
from .model import PromptedCLIP, build
from .state import State
from .state import read as read_state
from .state import write as write_state
from .sweep import Run

EVAL_BATCH = 256


# --- optimization ---------------------------------------------------------------------------------------------------------


def optimizer(training: Training, model: torch.nn.Module) -> Optimizer:
    """SGD over what requires a gradient; parameters without a gradient are skipped, those with a zero gradient decay."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return SGD(trainable, lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay)


def learning_rate(training: Training, epoch: int) -> float:
    """The rate of an epoch (from 0), as Dassl: a constant warm-up, then a cosine that counts from the end of the warm-up but
    keeps the full length, so it ends above 0."""
    warm = training.warmup.epochs if training.warmup else 0
    if epoch < warm:
        return training.warmup.lr
    if training.schedule == "constant":
        return training.lr
    return training.lr / 2 * (1 + math.cos(math.pi * (epoch - warm) / training.epochs))


# --- the loop -------------------------------------------------------------------------------------------------------------


@dataclass
class Batches:
    """[x, y] batches of some samples.  order: a generator to shuffle with, or None."""

    source: Pixels | Features
    samples: Tensor
    targets: Tensor
    size: int
    epoch: int = 0
    order: torch.Generator | None = None

    def __iter__(self) -> Iterator[list[Tensor]]:
        n = len(self.samples)
        positions = torch.arange(n) if self.order is None else torch.randperm(n, generator=self.order)
        images = self.source.batches(self.samples[positions].split(self.size), self.epoch)
        targets = onto(self.source.device, self.targets[positions]).split(self.size)
        yield from map(list, zip(images, targets, strict=True))

    def __len__(self) -> int:
        return math.ceil(len(self.samples) / self.size)


class PromptTuning(SupervisedTemplate):
    """Avalanche's own loop with the method's loss, and a fresh optimizer and schedule per experience."""

    def __init__(self, *, model: PromptedCLIP, training: Training | None, sources: dict[str, Pixels | Features], seed: int,
                 progress: Callable[[int, int], None] = lambda experience, epoch: None, **kwargs):  # fmt: skip
        epochs = training.epochs if training else 0
        with warnings.catch_warnings(action="ignore"):  # "no loggers": its metrics know one label space, so none is asked for
            evaluator = EvaluationPlugin()
        super().__init__(model=model, optimizer=None, train_epochs=epochs, eval_mb_size=EVAL_BATCH, evaluator=evaluator, **kwargs)
        self.training, self.sources, self.seed, self.progress = training, sources, seed, progress
        self.resumed: State | None = None  # where the next experience goes on

    @property
    def epoch(self) -> int:
        """Epochs of the current experience that are done."""
        return self.clock.train_exp_epochs + (self.resumed.epochs if self.resumed else 0)

    def model_adaptation(self, model=None) -> PromptedCLIP:
        if self.is_training:
            self.model.adaptation(self.experience)
        return self.model

    def check_model_and_optimizer(self, **_) -> None:
        self.model = self.model_adaptation()
        if self.training:  # zero-shot CLIP has nothing to train
            self.optimizer = optimizer(self.training, self.model)
            self.train_epochs = self.training.epochs
        if self.resumed:
            self.train_epochs -= self.resumed.epochs
            restore(self.model, self.optimizer, self.resumed)

    def make_train_dataloader(self, **_) -> None:
        self.dataloader = []  # made afresh for every epoch

    def make_eval_dataloader(self, **_) -> None:
        self.dataloader = Batches(self.sources["test"], self.experience.samples, self.experience.targets, EVAL_BATCH)

    def _before_training_epoch(self, **kwargs) -> None:
        i, epoch = self.experience.current_experience, self.epoch
        self.progress(i, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.training, epoch)
        order = torch.Generator().manual_seed(derive(self.seed, "shuffle", i, epoch))
        self.dataloader = Batches(
            self.sources["train"], self.experience.samples, self.experience.targets, self.training.batch, epoch, order
        )
        super()._before_training_epoch(**kwargs)

    def _after_training_epoch(self, **kwargs) -> None:
        super()._after_training_epoch(**kwargs)
        if not torch.isfinite(self.loss):
            i = self.experience.current_experience
            raise FloatingPointError(f"the loss is {self.loss.item()} in experience {i + 1}, epoch {self.epoch}")

    def forward(self) -> Tensor:
        if not self.is_training:
            return self.model(self.mb_x)
        output, self.terms = self.model.loss(self.mb_x, self.mb_y)
        return output.logits

    def criterion(self) -> Tensor:
        return sum(self.terms.values()) if self.is_training else self._make_empty_loss()


def restore(model: PromptedCLIP, optimizer: Optimizer | None, state: State) -> None:
    """Put the learned tensors and the momentum of a state in place; the model has grown to that experience already."""
    model.load_learned(state.learned)
    ours = dict(model.named_parameters())
    for name, tensor in state.momentum.items():
        optimizer.state[ours[name]]["momentum_buffer"] = tensor.to(ours[name].device)


class Keeper(SupervisedPlugin):
    """Saves the state of a run after an epoch, at most every `interval` seconds."""

    def __init__(self, folder: Path, identity: dict, state: State, interval: float):
        super().__init__()
        self.folder, self.identity, self.state, self.interval = folder, identity, state, interval
        self.last = time.monotonic()

    def after_training_epoch(self, strategy, **_) -> None:
        if time.monotonic() - self.last < self.interval:
            return
        names = {p: name for name, p in strategy.model.named_parameters()}
        momentum = {
            names[p]: kept["momentum_buffer"]
            for p, kept in strategy.optimizer.state.items()
            if kept.get("momentum_buffer") is not None
        }
        self.state.experience = strategy.experience.current_experience
        self.state.epochs = strategy.epoch + 1  # Avalanche's clock ticks after all plugins
        self.state.learned, self.state.momentum = strategy.model.learned_tensors(), momentum
        write_state(self.folder, self.identity, self.state)
        self.last = time.monotonic()


class Recorder(SupervisedPlugin):
    """Counts per (trained, tested, label space): every metric can be computed from them later.

    own: only the classes of the tested experience compete; joint: all classes learned so far do.
    """

    def __init__(self, label_spaces: tuple[str, ...], counts: list[records.Count] = ()):
        super().__init__()
        self.label_spaces = label_spaces
        self.counts = list(counts)

    def before_eval_exp(self, strategy, **_) -> None:
        model, j = strategy.model, strategy.experience.current_experience
        self.tested, self.trained, self.mine = j + 1, model.learned, model.experiences[j]
        spaces = {"own": self.mine}
        if j < model.learned:
            spaces["joint"] = range(model.experiences[model.learned - 1].stop)
        self.spaces = {name: spaces.get(name) for name in self.label_spaces}
        self.hits = {name: torch.zeros(len(self.mine), dtype=torch.int64) for name in self.label_spaces}

    def after_eval_iteration(self, strategy, **_) -> None:
        y, logits = strategy.mb_y, strategy.mb_output
        for name, classes in self.spaces.items():
            if classes is not None:
                right = logits[:, classes.start : classes.stop].argmax(dim=-1) + classes.start == y
                self.hits[name] += torch.bincount(y[right] - self.mine.start, minlength=len(self.mine)).cpu()

    def after_eval_exp(self, strategy, **_) -> None:
        total = len(strategy.experience.samples)
        for name, classes in self.spaces.items():
            hits = None if classes is None else tuple(self.hits[name].tolist())
            correct = None if hits is None else sum(hits)
            self.counts.append(records.Count(self.trained, self.tested, name, correct, total, hits))


def count_of(facts: dict) -> records.Count:
    """A count as it was saved: JSON knows no tuples."""
    hits = facts["correct_per_class"]
    return records.Count(**facts | {"correct_per_class": None if hits is None else tuple(hits)})


@dataclass
class Stopwatch:
    """Wall seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    def lap(self, stage: str, start: float) -> None:
        self.seconds[stage] = round(self.seconds.get(stage, 0) + time.perf_counter() - start, 3)


@dataclass(frozen=True)
class Progress:
    """Where a run is: learning `experience` (from 1) of `experiences`, in `epoch` (from 1) of `epochs`."""

    experience: int
    experiences: int
    epoch: int
    epochs: int
    stage: str  # train, test


# --- one run --------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def backbone_on(backbone: Backbone, device: str) -> FrozenCLIP:
    """The runs of a process share the frozen weights."""
    return backbones.load(backbone).to(device)


@lru_cache(maxsize=2)  # what is tested, and what it is learned from
def dataset_in(name: str, data_root: Path | None, cache: Path) -> Dataset:
    return data.load(name, data_root, cache)


def sources(model: PromptedCLIP, dataset: Dataset, parts: stream.Stream, training: Training | None, seed: int,
            cache: Path) -> dict[str, Pixels | Features]:  # fmt: skip
    """Where the images of both splits come from: features from the bank, unless the method prompts the image tower."""
    augmented = training is not None and training.augmentation != "none"
    augmentation = Augmentation(seed) if augmented else None
    pixels = {"train": Pixels(dataset.train, model.clip, augmentation), "test": Pixels(dataset.test, model.clip)}
    if model.needs_pixels:
        return pixels
    frozen = model.clip
    facts = {"weights": frozen.weights_hash, "activation": frozen.activation, "precision": frozen.precision,
             "stored": frozen.stored, "preprocess": frozen.preprocess_facts, "device": frozen.device.type,
             "torch": torch.__version__}  # fmt: skip
    origin = {"train": dataset.train_fingerprint or dataset.fingerprint, "test": dataset.fingerprint}
    ids = {"train": torch.cat(parts.train), "test": torch.arange(len(dataset.test))}
    return {
        part: Features(pixels[part], ids[part], facts | {"dataset": origin[part], "split": part}, cache / "features")
        for part in pixels
    }


def model_of(run: Run, frozen: FrozenCLIP, dataset: Dataset, parts: stream.Stream) -> PromptedCLIP:
    """The model that a run trains, at its initial values."""
    shots = run.shots if run.shots != "full" else sum(map(len, parts.train)) / len(parts.names)
    return build(run.card, frozen, parts.names, parts.experiences, template=dataset.template, dataset=dataset.name, shots=shots,
                 train_label_space=run.scenario.train_label_space, seed=derive(run.seed, "initial values"))  # fmt: skip


def run(run: Run, *, data_root: Path | None, cache: Path, device: str, progress: Callable[[Progress], None],
        save_every: float = 30, checkpoint: bool = False, logs: tuple[str, ...] = ()) -> records.Record:  # fmt: skip
    """Train and test one method on one data set with one seed; the record and the learned tensors go to run.folder.

    A run that was cut off goes on from its last saved epoch, and gives the same bytes as one that was not.
    """
    watch, start = Stopwatch(), time.perf_counter()
    frozen = backbone_on(run.scenario.backbone, device)
    frozen.checkpoint = checkpoint
    dataset = dataset_in(run.dataset, data_root, cache)
    if run.scenario.train_on:
        dataset = data.learned_from(dataset, dataset_in(run.scenario.train_on, data_root, cache))
    parts = stream.split(run.scenario, dataset, run.shots, run.seed)
    model = model_of(run, frozen, dataset, parts)
    training = run.card.training
    T, epochs = len(parts.experiences), training.epochs if training else 0

    def tell(experience: int, epoch: int, stage: str = "train") -> None:
        progress(Progress(experience=experience + 1, experiences=T, epoch=epoch + 1, epochs=epochs, stage=stage))

    identity = run.identity | {
        "scenario hash": content_hash(run.scenario), "card hash": content_hash(run.card), "weights hash": frozen.weights_hash,
        "dataset": dataset.fingerprint, "device": torch.device(device).type, "torch": torch.__version__,
    }  # fmt: skip
    resumed = read_state(run.folder, identity)
    state = replace(resumed) if resumed else State()
    watch.seconds = state.seconds
    recorder = Recorder(run.scenario.label_spaces, [count_of(facts) for facts in state.counts])
    images = sources(model, dataset, parts, training, run.seed, cache)
    with plugins_for(logs, run, identity, epochs=epochs, recorder=recorder, resumed=resumed) as curves:
        strategy = PromptTuning(model=model, training=training, sources=images, seed=run.seed, progress=tell, device=device,
                                plugins=[recorder, *curves, Keeper(run.folder, identity, state, save_every)])  # fmt: skip
        watch.lap("prepare", start)
        learn(strategy, stream.benchmark(parts), recorder, state, resumed, watch, tell)
    learned = save({name: t.contiguous().cpu() for name, t in model.learned_tensors().items()})
    write_atomic(run.folder / "learned.safetensors", learned)
    name = data.canonical(run.dataset)  # not the path of one's own data
    record = records.Record(
        run=records.RunFacts(run.scenario.name, run.scenario.version, name, run.method, run.shots, run.seed),
        scenario=run.scenario.model_dump(mode="json") | {"hash": content_hash(run.scenario)},
        card=run.card.model_dump(mode="json") | {"hash": content_hash(run.card)},
        backbone=facts_of_backbone(run.scenario.backbone, frozen),
        dataset=facts_of(dataset, parts),
        counts=tuple(recorder.counts),
        model=records.ModelFacts(tuple(state.trainable), model.labels.k or None),
        measured=measured(watch, device, epochs * sum(map(len, parts.train)) + (T + 1) * len(dataset.test)),
        files={"learned.safetensors": hashlib.sha256(learned).hexdigest()},
    )
    records.write_record(record, run.folder)
    shutil.rmtree(run.folder / "state", ignore_errors=True)
    return record


def learn(strategy: PromptTuning, benchmark, recorder: "Recorder", state: State, resumed: State | None, watch: Stopwatch,
          tell: Callable) -> None:  # fmt: skip
    """The stream, evaluated before the first and after every experience; `state` is kept up to date for who saves it."""

    def evaluate(i: int) -> None:
        start = time.perf_counter()
        tell(i - 1, 0, "test")
        strategy.eval(benchmark.test_stream)
        state.counts = [asdict(count) for count in recorder.counts]
        watch.lap("test", start)

    if resumed:
        strategy.model.train()
        for experience in benchmark.train_stream[: resumed.experience]:
            strategy.model.adaptation(experience)
    else:
        evaluate(0)
    for experience in benchmark.train_stream[state.experience :]:
        start = time.perf_counter()
        strategy.resumed, resumed = resumed, None
        strategy.train(experience)
        watch.lap("train", start)
        state.trainable.append(sum(p.numel() for p in strategy.model.parameters() if p.requires_grad))
        evaluate(experience.current_experience + 1)


def facts_of_backbone(backbone: Backbone, frozen: FrozenCLIP) -> records.BackboneFacts:
    return records.BackboneFacts(
        backbone.architecture, backbone.weights, frozen.weights_hash, frozen.precision, frozen.activation
    )


def facts_of(dataset: Dataset, parts: stream.Stream) -> records.DatasetFacts:
    C = len(parts.names)
    return records.DatasetFacts(
        fingerprint=dataset.fingerprint,
        classes=tuple(parts.names),
        order=tuple(parts.order),
        experiences=tuple(map(len, parts.experiences)),
        train_images=tuple(map(len, parts.train)),
        test_images=tuple(map(len, parts.test)),
        test_per_class=tuple(torch.bincount(parts.test_targets, minlength=C).tolist()),
        chosen=tuple(tuple(ids.tolist()) for ids in parts.train),
        notes=dataset.notes + parts.notes,
    )


def measured(watch: Stopwatch, device: str, images: int) -> records.Measured:
    packages = ("torch", "torchvision", "open_clip_torch", "avalanche-lib", "numpy")
    cuda = device.startswith("cuda")
    return records.Measured(
        seconds=watch.seconds,
        images_per_second=round(images / max(watch.seconds.get("train", 0) + watch.seconds.get("test", 0), 1e-3), 1),
        peak_memory_bytes=torch.cuda.max_memory_allocated()
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        device=torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} thread(s)",
        host=platform.platform(),
        versions={"python": platform.python_version(), **{name: version(name) for name in packages}},
        commit=commit(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit of a source checkout, with "+changes" if files differ from it; None for an installed package."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changed.strip() else "")
