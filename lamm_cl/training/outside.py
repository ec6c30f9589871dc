"""Anybody's Avalanche strategy and model on one of our streams, counted as our own runs are, with a record of the same form."""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import hashlib
import inspect
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lamm_cl.config.explained import validated
from lamm_cl.config.identity import content_hash
from lamm_cl.config.schema import Card
from lamm_cl.data import catalogue
from lamm_cl.errors import UserError
from lamm_cl.learner.pieces import count_learning
from lamm_cl.results.record import BackboneFacts, ModelFacts, Record, RunFacts, run_place
from lamm_cl.seeds import derive
from lamm_cl.towers.clip import hash_of
from lamm_cl.training.benchmarks import Benchmark, frozen_of
from lamm_cl.training.facts import Stopwatch, facts_of, facts_of_backbone, measured
from lamm_cl.training.modules import Module
from lamm_cl.training.recorder import Recorder

LOW = torch.finfo(torch.float32).min
PLAIN = (bool, int, float, str)


class OutsideRecorder(Recorder):
    """Counts a model that knows nothing of us: how much it has learned is what was trained here, and a head that is not grown
    yet has no logits for what is missing."""

    def __init__(self, benchmark: Benchmark, scores_unseen: bool):
        super().__init__(benchmark.origin.scenario.label_spaces, same=benchmark.origin.parts.same)
        self.classes, self.mine_of = benchmark.n_classes, benchmark.experiences
        self.scores_unseen, self.learned = scores_unseen, 0

    def before_eval_exp(self, strategy, **_) -> None:
        seen = SimpleNamespace(learned=self.learned, experiences=self.mine_of, scores_unseen=self.scores_unseen)
        super().before_eval_exp(SimpleNamespace(model=seen, experience=strategy.experience))

    def after_eval_iteration(self, strategy, **_) -> None:
        logits = strategy.mb_output
        if logits.ndim != 2 or logits.shape[1] > self.classes:
            raise UserError(f"record: expected logits (B, {self.classes}) of the stream's classes, got {tuple(logits.shape)}")
        logits = F.pad(logits, (0, self.classes - logits.shape[1]), value=LOW)
        super().after_eval_iteration(SimpleNamespace(mb_y=strategy.mb_y, mb_output=logits))


def card_of(strategy, key: str, name: str, paper: str) -> Card:
    """What ran, as a card: the numbers that a strategy, its plugins and its optimizer hold in plain sight."""
    model, optimizer = strategy.model, strategy.optimizer
    plugins = [plugin for plugin in strategy.plugins if type(plugin).__module__.startswith("avalanche.") or _own(plugin)]
    provenance = {
        "strategy": _told(type(strategy), {k: getattr(strategy, k, None) for k in ("train_epochs", "train_mb_size")}),
        "plugins": "; ".join(_told(type(p), vars(p)) for p in plugins if type(p).__name__ not in ("Clock", "EvaluationPlugin")),
        "model": _told(type(model), {}),
        "optimizer": _told(type(optimizer), optimizer.defaults) if optimizer is not None else "none",
    }
    facts = {"key": key, "name": name, "paper": paper, "trainable": f"{count_learning(model):,} at the start",
             "provenance": {field: text for field, text in provenance.items() if text}}  # fmt: skip
    return validated(Card, facts, "record")


def _own(plugin: object) -> bool:
    return not type(plugin).__module__.startswith("lamm_cl.")


def _told(kind: type, numbers: Mapping[str, Any]) -> str:
    """module.Class(name=value, ...) of the plain values."""
    shown = [f"{name}={value}" for name, value in sorted(numbers.items()) if type(value) in PLAIN and not name.startswith("_")]
    return f"{kind.__module__}.{kind.__qualname__}" + (f"({', '.join(shown)})" if shown else "")


def code_of(strategy) -> dict[str, str]:
    """What decides the numbers: files of one's own by the hash of their text, packages by their versions."""
    found = {}
    kinds = {"strategy": type(strategy), "model": type(strategy.model)}
    kinds |= {f"plugin {type(p).__name__}": type(p) for p in strategy.plugins if _own(p)}
    for what, kind in kinds.items():
        package = kind.__module__.partition(".")[0]
        try:
            found[what] = f"{package} {version({'avalanche': 'avalanche-lib', 'lamm_cl': 'lamm-cl'}.get(package, package))}"
        except PackageNotFoundError:
            found[what] = _hash(kind)
    return found


def _hash(kind: type) -> str:
    """16 hexadecimal digits for the source of a class of one's own; of one typed at a prompt, for its name."""
    try:
        text = inspect.getsource(inspect.getmodule(kind) or kind)
    except (OSError, TypeError):
        text = kind.__qualname__
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def backbone_of(model: nn.Module, benchmark: Benchmark) -> BackboneFacts:
    """Of features, or of one of our methods: the CLIP. Of images: the user's own model, which shares no weights with others."""
    if isinstance(model, Module) or benchmark.origin.backbone is not None:
        origin = benchmark.origin
        frozen = model.learner.clip if isinstance(model, Module) else frozen_of(origin)
        return facts_of_backbone(origin.backbone or origin.scenario.backbone, frozen)
    body = f"{type(model).__module__}.{type(model).__qualname__}"
    return BackboneFacts(body, f"its own, {hash_of(model.state_dict())[:16]} at the start", "", "fp32")


def carry_out(strategy, benchmark: Benchmark, card: Card) -> Record:
    """Test, then train and test experience by experience -> the record; torch is seeded afresh before each experience."""
    origin, model = benchmark.origin, strategy.model
    code, backbone = {"outside": "avalanche", **code_of(strategy)}, backbone_of(model, benchmark)
    recorder = OutsideRecorder(benchmark, bool(getattr(model, "scores_unseen", False)))
    strategy.plugins.append(recorder)
    watch, trainable, images = Stopwatch(), [], 0
    try:
        tested(strategy, benchmark, watch)
        for i, experience in enumerate(benchmark.train_stream):
            start = time.perf_counter()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(origin.seed, "avalanche", i))
                strategy.train(experience, num_workers=0)
            watch.lap("train", start)
            recorder.learned = i + 1
            trainable.append(count_learning(strategy.model))
            images += strategy.train_epochs * len(experience.samples)
            tested(strategy, benchmark, watch)
    finally:
        strategy.plugins.remove(recorder)
    T, scenario = len(trainable), origin.scenario
    tests = (T + 1) * len(origin.dataset.test)
    return Record(
        run=RunFacts(scenario.name, scenario.version, catalogue.canonical(origin.named), card.key, origin.shots, origin.seed,
                     origin.order),  # fmt: skip
        scenario=scenario.model_dump(mode="json") | {"hash": content_hash(scenario)},
        card=card.model_dump(mode="json") | {"hash": content_hash(card)},
        backbone=backbone,
        dataset=facts_of(origin.dataset, origin.parts, origin.named),
        counts=tuple(recorder.counts),
        model=ModelFacts(tuple(trainable), None, scores_unseen=recorder.scores_unseen),
        measured=measured(watch, torch.device(strategy.device), images + tests, None),
        files={},
        code=code,
    )


def tested(strategy, benchmark: Benchmark, watch: Stopwatch) -> None:
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        strategy.eval(benchmark.test_stream, num_workers=0)
    watch.lap("test", start)


def folder_of(results: Path, benchmark: Benchmark, key: str) -> Path:
    origin = benchmark.origin
    dataset = catalogue.canonical(origin.named)
    return results / origin.scenario.name / "runs" / run_place(dataset, key, origin.shots, origin.seed, origin.order)
