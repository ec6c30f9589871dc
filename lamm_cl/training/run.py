"""One run: the stream in, counts out."""

import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save

from lamm_cl.config.identity import content_hash
from lamm_cl.config.schema import Backbone, Training
from lamm_cl.data import catalogue
from lamm_cl.data.dataset import Dataset, learned_from
from lamm_cl.files import write_atomic
from lamm_cl.learner.build import build
from lamm_cl.learner.model import PromptedCLIP
from lamm_cl.results.file import write_record
from lamm_cl.results.record import ModelFacts, Record, RunFacts
from lamm_cl.sweeping.plan import Run
from lamm_cl.towers.backbones import load
from lamm_cl.towers.clip import FrozenCLIP
from lamm_cl.training import stream
from lamm_cl.training.facts import Stopwatch, facts_of, facts_of_backbone, measured
from lamm_cl.training.features import Augmentation, Features, Pixels, derive
from lamm_cl.training.keeper import Keeper
from lamm_cl.training.logs import plugins_for
from lamm_cl.training.loop import PromptTuning
from lamm_cl.training.recorder import Recorder, count_of
from lamm_cl.training.state import State
from lamm_cl.training.state import read as read_state


@dataclass(frozen=True)
class Progress:
    """Where a run is: learning `experience` (from 1) of `experiences`, in `epoch` (from 1) of `epochs`."""

    experience: int
    experiences: int
    epoch: int
    epochs: int
    stage: str  # train, test


@lru_cache(maxsize=1)
def backbone_on(backbone: Backbone, device: str) -> FrozenCLIP:
    """The runs of a process share the frozen weights."""
    return load(backbone).to(device)


@lru_cache(maxsize=2)  # what is tested, and what it is learned from
def dataset_in(name: str, data_root: Path | None, cache: Path) -> Dataset:
    return catalogue.load(name, data_root, cache)


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
        save_every: float = 30, checkpoint: bool = False, logs: tuple[str, ...] = ()) -> Record:  # fmt: skip
    """Train and test one method on one data set with one seed; the record and the learned tensors go to run.folder.

    A run that was cut off goes on from its last saved epoch, and gives the same bytes as one that was not.
    """
    watch, start = Stopwatch(), time.perf_counter()
    frozen = backbone_on(run.scenario.backbone, device)
    frozen.checkpoint = checkpoint
    dataset = dataset_in(run.dataset, data_root, cache)
    if run.scenario.train_on:
        dataset = learned_from(dataset, dataset_in(run.scenario.train_on, data_root, cache))
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
    name = catalogue.canonical(run.dataset)  # not the path of one's own data
    record = Record(
        run=RunFacts(run.scenario.name, run.scenario.version, name, run.method, run.shots, run.seed),
        scenario=run.scenario.model_dump(mode="json") | {"hash": content_hash(run.scenario)},
        card=run.card.model_dump(mode="json") | {"hash": content_hash(run.card)},
        backbone=facts_of_backbone(run.scenario.backbone, frozen),
        dataset=facts_of(dataset, parts),
        counts=tuple(recorder.counts),
        model=ModelFacts(tuple(state.trainable), model.labels.k or None),
        measured=measured(watch, device, epochs * sum(map(len, parts.train)) + (T + 1) * len(dataset.test)),
        files={"learned.safetensors": hashlib.sha256(learned).hexdigest()},
    )
    write_record(record, run.folder)
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
