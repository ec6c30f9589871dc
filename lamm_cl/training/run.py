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
from lamm_cl.config.lengths import Length, lengths
from lamm_cl.config.schema import Backbone, Scenario, Training
from lamm_cl.data import catalogue
from lamm_cl.data.dataset import Dataset
from lamm_cl.data.features import check_backbone
from lamm_cl.data.measured import measured as measured_in
from lamm_cl.errors import UserError
from lamm_cl.files import write_atomic
from lamm_cl.learner.build import build
from lamm_cl.learner.model import Learner
from lamm_cl.learner.pieces import count_learning
from lamm_cl.learner.prompts import each_with
from lamm_cl.results.file import read_record, write_record
from lamm_cl.results.record import ModelFacts, Record, RunFacts
from lamm_cl.seeds import derive
from lamm_cl.sweeping.code import of_card
from lamm_cl.sweeping.plan import Progress, Run
from lamm_cl.towers.backbones import load
from lamm_cl.towers.clip import FrozenCLIP
from lamm_cl.towers.devices import device as resolved
from lamm_cl.towers.devices import one_thread
from lamm_cl.towers.features import FeaturesOnly
from lamm_cl.towers.selfcheck import settled
from lamm_cl.training import predictions, stream
from lamm_cl.training.facts import Stopwatch, deciders, facts_of, facts_of_backbone, measured
from lamm_cl.training.keeper import Keeper
from lamm_cl.training.logs import plugins_for
from lamm_cl.training.loop import Loop
from lamm_cl.training.recorder import Recorder, count_of
from lamm_cl.training.sources import Sources, sources
from lamm_cl.training.state import State, linears_of
from lamm_cl.training.state import read as read_state
from lamm_cl.training.work import work_of

OUT_OF_MEMORY = (
    "out of GPU memory; try --checkpoint-activations, --precision bf16, fewer --jobs, a smaller training.batch in a card of "
    "one's own, or --device cpu"
)


@lru_cache(maxsize=1)
def backbone_on(backbone: Backbone, device: str, linears: str = "plain", cache: Path = Path()) -> FrozenCLIP | FeaturesOnly:
    """The runs of a process share the frozen weights.  linears: plain, packed, or auto: what the self-check found."""
    clip = load(backbone).to(device)
    if isinstance(clip, FrozenCLIP) and linears != "plain":
        with one_thread():
            clip.compute(clip.precision, settled(clip, linears, cache))
    return clip


@lru_cache(maxsize=2)  # what is tested, and what it is learned from
def dataset_in(name: str, data_root: Path | None, cache: Path, split: str | None = None) -> Dataset:
    return catalogue.load(name, data_root, cache, split)


def dataset_of(scenario: Scenario, name: str, data_root: Path | None, cache: Path) -> Dataset:
    """A dataset as a scenario sees it."""
    return measured_in(scenario, name, lambda each, split: dataset_in(each, data_root, cache, split))


def facts_of_features(frozen: FrozenCLIP | FeaturesOnly) -> dict:
    """What decides the frozen features of an image, beside the image."""
    return {"weights": frozen.weights_hash, "activation": frozen.activation, "precision": frozen.precision,
            "stored": frozen.stored, "preprocess": frozen.preprocess_facts, "device": frozen.device.type,
            **({"linears": frozen.linears} if frozen.linears != "plain" else {}), **deciders()}  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """A run with all that it needs: what `complete` carries out, and what benchmarks and tests look into."""

    run: Run
    frozen: FrozenCLIP | FeaturesOnly
    dataset: Dataset
    parts: stream.Stream
    model: Learner  # at its initial values
    sources: Sources

    @property
    def training(self) -> Training | None:
        return self.run.card.training

    @property
    def shots(self) -> float:
        """Training images a class; where all are used, their mean."""
        return shots_of(self.run, self.parts)

    @property
    def lengths(self) -> list[Length]:
        """How long each experience is trained, on its own images."""
        return self.lengths_with([0] * len(self.parts.train))

    def lengths_with(self, replayed: list[int]) -> list[Length]:
        """replayed: how many images of a memory join each."""
        shown = [len(ids) + more for ids, more in zip(self.parts.train, replayed, strict=True)]
        return lengths(self.training, shown, self.shots)


def shots_of(run: Run, parts: stream.Stream) -> float:
    return run.shots if run.shots != "full" else sum(map(len, parts.train)) / len(parts.names)


def prepare(run: Run, frozen: FrozenCLIP | FeaturesOnly, dataset: Dataset, cache: Path) -> Prepared:
    """The door of one run: stream, model and sources of images."""
    parts = stream.split(run.stream, dataset, run.shots, run.seed)
    frozen = without_images(frozen, run, dataset, parts)
    each = [part.template for part in dataset.parts for _ in part.classes]
    spoken = dataset.templates or (each_with([each[c] for c in parts.order]),)
    model = build(run.card, frozen, parts.names, parts.experiences, template=spoken[0], spoken=spoken, dataset=dataset.name,
                  shots=shots_of(run, parts), train_label_space=run.scenario.train_label_space,
                  seed=derive(run.seed, "initial values"))  # fmt: skip
    return Prepared(run, frozen, dataset, parts, model, sources_of(run, model, dataset, parts, cache))


def without_images(frozen: FrozenCLIP | FeaturesOnly, run: Run, dataset: Dataset, parts: stream.Stream
                   ) -> FrozenCLIP | FeaturesOnly:  # fmt: skip
    """What stands in for a CLIP on a data set of features knows its file, width and texts; a CLIP stays as it is."""
    check_backbone(dataset, run.scenario.backbone.architecture)
    if dataset.features is None:
        return frozen
    texts = None if dataset.text is None else torch.from_numpy(dataset.text)[parts.order]
    return frozen.of(run.method, dataset.name, dataset.train.images.shape[1], texts)


def sources_of(run: Run, model: Learner, dataset: Dataset, parts: stream.Stream, cache: Path) -> Sources:
    augmentation = run.card.training.augmentation if run.card.training else "none"
    return sources(model, dataset, parts, augmentation, run.seed, facts_of_features(model.clip), cache)


def do(run: Run, *, data_root: Path | None, cache: Path, device: str, progress: Callable[[Progress], None],
       save_every: float = 30, checkpoint: bool = False, logs: tuple[str, ...] = (), keep_predictions: bool = False,
       linears: str = "plain") -> Record:  # fmt: skip
    """Train and test one method on one data set with one seed; the record and the learned tensors go to run.folder.

    linears: plain, packed or auto; what was begun goes on as it was, where it is left to us.
    """
    start = time.perf_counter()
    with one_thread():
        linears = (linears_of(run.folder) or linears) if linears == "auto" else linears
        frozen = backbone_on(run.scenario.backbone, resolved(device), linears, cache)
        frozen.checkpoint = checkpoint
        dataset = dataset_of(run.scenario, run.dataset, data_root, cache)
        try:
            return complete(prepare(run, frozen, dataset, cache), progress, save_every=save_every, logs=logs,
                            keep_predictions=keep_predictions, start=start)  # fmt: skip
        except torch.cuda.OutOfMemoryError as error:
            error.add_note(OUT_OF_MEMORY)
            raise
        finally:
            if frozen.device.type == "cuda":
                torch.cuda.empty_cache()  # the next run of this process, or another process, needs it


def complete(prepared: Prepared, progress: Callable[[Progress], None], *, save_every: float = 30, logs: tuple[str, ...] = (),
             keep_predictions: bool = False, start: float | None = None) -> Record:  # fmt: skip
    """Train, test and write; start: since when its preparation counts (time.perf_counter).

    A run that was cut off goes on from its last saved epoch, and gives the same bytes as one that was not; from its beginning
    where predictions are to be kept that were not. One that is finished without them is done again for them alone.
    """
    start = start or time.perf_counter()
    run, frozen, dataset, parts, model = prepared.run, prepared.frozen, prepared.dataset, prepared.parts, prepared.model
    T, epochs = len(parts.experiences), [length.epochs for length in prepared.lengths]
    code = of_card(run.card)  # now, since the files may be edited meanwhile

    at = Progress(experience=0, experiences=T, epoch=1, epochs=epochs[0], stage="test")

    def tell(experience: int, epoch: int, stage: str = "train") -> None:
        nonlocal at
        mine = epochs[max(experience, 0)]
        at = Progress(experience=experience + 1, experiences=T, epoch=epoch + 1, epochs=mine, stage=stage)
        progress(at)

    def check() -> None:
        """Before a write: whoever listens stops a run that is another process's by now."""
        progress(at)

    for piece in model.pieces:
        if note := piece.note(model):
            progress(replace(at, note=f"{run.method}: {note}"))
    prepared.sources.bank.tell = lambda text: progress(replace(at, waits=text))
    identity = run.identity | {
        "scenario hash": content_hash(run.scenario), "card hash": content_hash(run.card), "weights hash": frozen.weights_hash,
        "dataset": dataset.fingerprint, "device": frozen.device.type, "torch": torch.__version__,
        "linears": frozen.linears,
    }  # fmt: skip
    resumed = read_state(run.folder, identity)
    if resumed and keep_predictions and not predictions.are_kept(run.folder, resumed.experience):
        resumed = None
    state = replace(resumed) if resumed else State()
    watch = Stopwatch(state.seconds)
    recorder = Recorder(run.scenario.label_spaces, [count_of(facts) for facts in state.counts], parts.same)
    with plugins_for(logs, run, identity, epochs=epochs, recorder=recorder, resumed=resumed) as curves:
        keeper = Keeper(run.folder, identity, state, save_every, check)
        watching = [predictions.Predictions(run.folder, dataset, recorder, check)] if keep_predictions else []
        strategy = Loop(model=model, training=prepared.training, sources=prepared.sources, seed=run.seed, shots=prepared.shots,
                        progress=tell, device=frozen.device, plugins=[recorder, *watching, *curves, keeper])  # fmt: skip
        watch.lap("prepare", start)
        learn(strategy, stream.benchmark(parts), recorder, state, resumed, watch, tell, keeper)
    learned = save({name: t.contiguous().cpu() for name, t in model.learned_tensors().items()})
    how_long = prepared.lengths_with([strategy.replayed[i] for i in range(T)])
    trained_on = round(sum(length.images for length in how_long))
    name = catalogue.canonical(run.dataset)  # not the path of one's own data
    record = Record(
        run=RunFacts(run.scenario.name, run.scenario.version, name, run.method, run.shots, run.seed, run.order),
        scenario=run.scenario.model_dump(mode="json") | {"hash": content_hash(run.scenario)},
        card=run.card.model_dump(mode="json") | {"hash": content_hash(run.card)},
        backbone=facts_of_backbone(run.scenario.backbone, frozen),
        dataset=facts_of(dataset, parts, run.dataset),
        counts=tuple(recorder.counts),
        model=ModelFacts(tuple(state.trainable), model.labels.k or None, model.kept_bytes(), model.scores_unseen),
        measured=measured(watch, frozen.device, trained_on + (T + 1) * len(dataset.test), work_of_run(prepared, how_long)),
        files={"learned.safetensors": hashlib.sha256(learned).hexdigest()},
        code=code,
    )
    check()
    if keep_predictions and (run.folder / "record.json").exists():
        record = the_same(read_record(run.folder / "record.json"), record)
        predictions.write(run.folder, T)
    else:
        write_atomic(run.folder / "learned.safetensors", learned)
        if keep_predictions:
            predictions.write(run.folder, T)
        check()
        write_record(record, run.folder)
    shutil.rmtree(run.folder / "state", ignore_errors=True)
    return record


def the_same(old: Record, new: Record) -> Record:
    """The old record, where a run that was done again counted and learned what it says. UserError where it did not."""
    if (old.counts, old.files) != (new.counts, new.files):
        raise UserError(f"{old}: done again for its predictions, it gave other counts or tensors: they would not belong to "
                        "its record; do it anew in another --results folder")  # fmt: skip
    return old


def work_of_run(prepared: Prepared, how_long: list[Length]) -> dict[str, int] | None:
    augmented = prepared.training is not None and prepared.training.augmentation != "none"
    return work_of(prepared.model, prepared.sources, how_long, augmented)


def learn(strategy: Loop, benchmark, recorder: Recorder, state: State, resumed: State | None, watch: Stopwatch,
          tell: Callable, keeper: Keeper | None = None) -> None:  # fmt: skip
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
            strategy.take_up(experience.current_experience)
        if not resumed.epochs:  # saved between two experiences
            strategy.model.load_learned(resumed.learned)
            resumed = None
    else:
        evaluate(0)
    for experience in benchmark.train_stream[state.experience :]:
        start = time.perf_counter()
        strategy.resumed, resumed = resumed, None
        strategy.train(experience)
        watch.lap("train", start)
        state.trainable.append(count_learning(strategy.model))
        evaluate(experience.current_experience + 1)
        if keeper:
            keeper.keep_between(strategy.model, experience.current_experience)
