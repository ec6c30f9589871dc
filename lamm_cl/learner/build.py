"""A method card -> the model that it describes."""

import inspect
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from lamm_cl.config import schema, uses
from lamm_cl.config.explained import expected
from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.learner.model import Learner
from lamm_cl.learner.pieces import ContextLearner, Head, Labels, Loss, Losses, Memory, Piece, Tower, Words
from lamm_cl.learner.table import TextTable, table_for
from lamm_cl.learner.text import EachText, Frame, RawTexts, TextFeatures
from lamm_cl.towers.clip import FrozenCLIP
from lamm_cl.towers.features import FeaturesOnly

FIELDS = ("context", "labels", "loss", "head", "tower", "memory")  # of a card, in the order in which first values are drawn
Kind = TypeVar("Kind", bound=Piece)


def build(card: schema.Card, clip: FrozenCLIP | FeaturesOnly, names: list[str], experiences: list[range], *,
          template: str = "a photo of a {}.", spoken: Sequence[str] = (), dataset: str = "", shots: float = 1,
          train_label_space: str = "experience", seed: int = 0) -> Learner:  # fmt: skip
    """The model that a method card describes; its pieces are named "file.Class" in lamm_cl.methods.

    names: by order of arrival, as prompts say them.  template: for training;  spoken: those of the test, that one first
    (default: it alone).  Initial values are drawn from `seed` alone.
    """
    label_space = card.label_space or train_label_space
    if card.memory is not None and label_space != "seen":
        raise UserError(f"{card.key}: memory: images of old classes need old classes in the loss: expected label_space: seen")
    given = dict(clip=clip, names=names, template=template, spoken=tuple(spoken) or (template,), dataset=dataset, shots=shots,
                 experiences=experiences)  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        context = made(card, "context", given, ContextLearner) or Words()  # drawn in this order
        labels = made(card, "labels", given, Labels) or Labels()
        loss, head = losses(card, given), made(card, "head", given, Head) or Head()
        tower, memory = made(card, "tower", given, Tower), made(card, "memory", given, Memory)
        texts: TextFeatures | TextTable | None = None
        reference: TextFeatures | None = None
        first: TextFeatures | None = None
        if isinstance(clip, FeaturesOnly):
            others: list[Piece] = [one for one in (loss, tower, memory) if one is not None]
            texts = table_for(clip, experiences, context, labels, head, others, templates_decide=card.head is None)
        elif head.reads_text:
            beside = tower if tower is not None and tower.moves_text else None
            through = (tower and tower.own) or clip
            frames = [Frame(through, names, t, context, labels, beside) for t in context.templates]
            kind = RawTexts if "text_raw" in head.needs else EachText if "text_each" in head.needs else TextFeatures
            texts = kind(frames, labels, experiences)
            if context.first_trains and len(frames) > 1:
                first = kind(frames[:1], labels, experiences)
            if loss is not None and "reference" in loss.needs:
                frames = [Frame(through, names, t, context, Labels(), beside) for t in context.templates]
                reference = TextFeatures(frames, Labels(), experiences)
    model = Learner(clip, experiences, context=context, labels=labels, head=head, tower=tower, extra_loss=loss,
                    memory=memory, texts=texts, reference=reference, first=first, seed=seed,
                    train_label_space=label_space).to(clip.device)  # fmt: skip
    try:
        for each in model.pieces:
            each.join(model)
    except UserError as error:
        raise UserError(f"{card.key}: {error}") from None
    return model


def losses(card: schema.Card, given: dict) -> Loss | None:
    """The piece of a card's loss; of a list, all as one."""
    entries = [entry for field, entry in card.pieces() if field == "loss"]
    found = [one for entry in entries if (one := made(card, "loss", given, Loss, entry)) is not None]
    if len(found) < 2:
        return found[0] if found else None
    try:
        return Losses(found)
    except UserError as error:
        raise UserError(f"{card.key}: loss: {error}") from None


def made(card: schema.Card, field: str, given: dict, kind: type[Kind], entry: schema.Piece | None = None) -> Kind | None:
    """The piece of a field, or of one of its entries; UserError for a class that is a piece of another kind."""
    found = piece(card, field, given, entry)
    if found is not None and not isinstance(found, kind):
        raise UserError(f"{card.key}: {field}: use: {type(found).__name__} is no {field}; expected a {kind.__name__}")
    return found


def piece(card: schema.Card, field: str, given: dict, entry: schema.Piece | None = None) -> Piece | None:
    """{use: coop.CoOp, n: 4} -> lamm_cl.methods.coop.CoOp(n=4, and those of `given` that it asks for by name)."""
    entry = entry or getattr(card, field)
    if entry is None:
        return None
    where = f"{card.key}: {field}"
    cls = find(entry.use, where)
    # A page may postpone its annotations.
    parameters = inspect.signature(cls.__init__, eval_str=True).parameters  # type: ignore[misc]
    mine = {name: p for name, p in parameters.items() if name != "self" and name not in given}
    options = {}
    for name, value in entry.options.items():
        if name not in mine:
            raise UserError(f"{where}: {entry.use} has no option {name!r}{did_you_mean(name, mine)}")
        try:
            options[name] = TypeAdapter(mine[name].annotation).validate_python(value, strict=True)
        except ValidationError as error:
            raise UserError(f"{where}: {name}: {expected(error.errors()[0])}") from None
    for name, p in mine.items():
        if p.default is p.empty and name not in entry.options and p.kind is p.KEYWORD_ONLY:
            raise UserError(f"{where}: {entry.use} needs {name!r}")
    return cls(**{name: value for name, value in given.items() if name in parameters}, **options)


def find(use: str, where: str) -> type:
    """ "coop.CoOp" -> the class lamm_cl.methods.coop.CoOp; a file's or a module's as config/uses.py says."""
    found = uses.of(use)
    if found.file is None:
        raise UserError(f"{where}: use: {found.shown}")
    module = imported(found.file) if use.rpartition(":")[0].endswith(".py") else import_module(found.module)
    public = [n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, nn.Module)]
    if found.name not in public:
        raise UserError(f"{where}: use: {use!r} does not exist{did_you_mean(found.name, public)}")
    return getattr(module, found.name)


@cache
def imported(file: Path) -> ModuleType:
    """The module of a file of one's own, run once; files beside it can be imported by it."""
    spec = spec_from_file_location(uses.of(f"{file}:_").module, file)
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
    return module
