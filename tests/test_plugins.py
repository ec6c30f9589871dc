"""EWC, LwF, replay and DER as pieces of any card: Avalanche's own numbers, inside our loop; what could not act is told."""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import re
import warnings
from types import SimpleNamespace

import pytest
import torch
import toy
from avalanche.training.plugins import EvaluationPlugin, EWCPlugin
from avalanche.training.regularization import LearningWithoutForgetting
from avalanche.training.storage_policy import ClassBalancedBuffer
from avalanche.training.supervised import DER
from avalanche.training.utils import copy_params_dict

from lamm_cl.cli.progress import Lines
from lamm_cl.config.cards import load_card, resolve
from lamm_cl.config.identity import content_hash
from lamm_cl.config.schema import Card
from lamm_cl.errors import UserError
from lamm_cl.learner.shown import Images
from lamm_cl.sweeping.execute import Event
from lamm_cl.training.modules import Module
from lamm_cl.training.run import complete

TOLERANCE = {"rtol": 1e-4, "atol": 1e-7}


def prepared(tmp_path, method: str, **changes):
    """The toy in experiences of 3, 2 and 2 classes, 4 images a class; all seen classes compete."""
    card = toy.PLUGINS.get(method, {"training": toy.SMALL} | toy.shallow(method)) | changes
    return toy.prepared(toy.planned(tmp_path / method, method, experiences=3, train_label_space="seen", overrides={method: card}),
                        tmp_path / "cache")  # fmt: skip


def arrive(one, i: int) -> None:
    one.model.train()
    one.model.take_up(i, one.sources.observed)


def moved(model, seed: int) -> None:
    """As if something had been learned."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.02 * torch.randn(p.shape, generator=draw)


def batch(one, *experiences: int) -> tuple[Images, torch.Tensor]:
    ids = torch.cat([one.parts.train[i][:5] for i in experiences])
    return next(one.sources.train.batches([ids], 0)), one.parts.train_targets[ids]


class Theirs(torch.nn.Module):
    """A learner as Avalanche's plugins take a model: features in, logits of the classes in play out."""

    def __init__(self, learner):
        super().__init__()
        self.learner = learner

    def forward(self, x):
        return self.learner.output(Images(frozen=x), self.learner.in_play).logits


def items(one, i: int) -> list[tuple]:
    frozen = one.sources.observed(i)
    return [(x, int(y), 0) for x, y in zip(frozen.unit, frozen.y)]


def test_ewc_holds_what_avalanches_plugin_holds_over_several_experiences(tmp_path):
    one = prepared(tmp_path, "coop+ewc", loss={"weight": 3.0, "batch": 5})
    model, theirs, plugin = one.model, Theirs(one.model), EWCPlugin(3.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for i in range(2):
        arrive(one, i)
        moved(model, i)
        importances = plugin.compute_importances(theirs, torch.nn.CrossEntropyLoss(), optimizer, items(one, i), "cpu", 5)
        plugin.update_importances(importances, i)
        plugin.saved_params[i] = copy_params_dict(theirs)
        model.finish(i)
    both = plugin.importances[0]["learner.context.v"].data + plugin.importances[1]["learner.context.v"].data
    torch.testing.assert_close(model.extra_loss.F, both.flatten(), **TOLERANCE)
    assert both.max() > 0

    arrive(one, 2)
    moved(model, 2)
    v = model.context.v
    strategy = SimpleNamespace(model=theirs, clock=SimpleNamespace(train_exp_counter=2), device="cpu", loss=torch.zeros(()))
    plugin.before_backward(strategy)
    ours = model.loss(*batch(one, 2))[1]["ewc"]
    assert ours > 0
    torch.testing.assert_close(ours, strategy.loss, **TOLERANCE)
    torch.testing.assert_close(*(torch.autograd.grad(each, v)[0] for each in (ours, strategy.loss)), **TOLERANCE)


def test_lwf_is_avalanches_distillation_from_the_model_as_it_was(tmp_path):
    one = prepared(tmp_path, "coop+lwf", loss={"weight": 0.7, "temperature": 3.0})
    model = one.model
    arrive(one, 0)
    moved(model, 0)
    model.finish(0)
    x, y = batch(one, 1)
    with torch.no_grad():
        before = torch.nn.functional.pad(model.output(x, range(3)).logits, (0, 2))
    arrive(one, 1)
    moved(model, 1)
    theirs = LearningWithoutForgetting(alpha=0.7, temperature=3.0)
    theirs.prev_model, theirs.prev_classes_by_task = lambda x: before, {0: {0, 1, 2}}

    out, terms = model.loss(x, y)

    torch.testing.assert_close(terms["lwf"], theirs(x, out.logits, model), **TOLERANCE)
    assert terms["lwf"] > 0 and set(terms) == {"cross_entropy", "lwf"}


def test_lwf_holds_a_model_whose_image_tower_is_prompted_too(tmp_path):
    one = prepared(tmp_path, "maple", loss={"use": "lwf.LwF", "weight": 1.0, "temperature": 2.0})
    for i in range(2):
        arrive(one, i)
        x, y = batch(one, 1)
        if i:  # nothing has moved yet
            torch.testing.assert_close(one.model.loss(x, y)[1]["lwf"], torch.zeros(()), rtol=0, atol=1e-6)
        moved(one.model, i)
        if not i:
            one.model.finish(0)
    assert one.model.loss(x, y)[1]["lwf"] > 1e-6


def test_der_is_avalanches_loss_of_the_same_images_and_stored_logits(tmp_path):
    """Theirs is a mean over a head's full width, ours over the classes that there were: 3 of 5."""
    one = prepared(tmp_path, "coop+der", memory={"per_class": 2, "total": None, "alpha": 0.3, "beta": 0.7})
    model = one.model
    arrive(one, 0)
    moved(model, 0)
    model.finish(0)
    old = model.memory.samples(model.experience(1))
    x_old = next(one.sources.train.batches([old], 0))
    with torch.no_grad():
        stored = model.eval().output(x_old, range(3)).logits
    arrive(one, 1)
    moved(model, 1)
    x, y = batch(one, 1)
    y_old = one.parts.train_targets[old]
    together = torch.tensor([0, 9, 2, 7, 1, 3, 4, 5, 6, 8, 10])
    both = Images(frozen=torch.cat([x_old.frozen, x.frozen])[together], ids=torch.cat([x_old.ids, x.ids])[together])
    terms = model.loss(both, torch.cat([y_old, y])[together])[1]

    with torch.no_grad():
        now = model.output(x_old, model.in_play).logits
    with warnings.catch_warnings(action="ignore"):
        theirs = DER(model=Theirs(model), optimizer=torch.optim.SGD(model.parameters(), lr=0.0), alpha=0.3 * 5 / 3, beta=0.7,
                     mem_size=6, batch_size_mem=6, evaluator=EvaluationPlugin())  # fmt: skip
    wide = torch.cat([stored, now[:, 3:]], dim=1)  # what is not stored makes no difference
    theirs.replay_loader = iter([(x_old.frozen, y_old, torch.zeros(6), wide)])
    theirs.dataloader = [[x.frozen, y, torch.zeros(5)]]
    theirs.is_training = True
    theirs.training_epoch()

    assert set(terms) == {"cross_entropy", "dark", "replay"} and terms["dark"] > 0
    torch.testing.assert_close(sum(terms.values()), theirs.loss.squeeze(), **TOLERANCE)


def test_a_batch_of_old_images_alone_has_their_terms_alone(tmp_path):
    one = prepared(tmp_path, "coop+der")
    arrive(one, 0)
    one.model.finish(0)
    arrive(one, 1)
    old = one.model.memory.samples(one.model.experience(1))
    terms = one.model.loss(next(one.sources.train.batches([old], 0)), one.parts.train_targets[old])[1]
    assert set(terms) == {"dark", "replay"} and all(torch.isfinite(term) for term in terms.values())


def test_replay_keeps_as_many_of_a_class_as_avalanches_balanced_buffer(tmp_path):
    """Where the memory divides evenly; what is left over goes to its first classes there, and stays free here."""
    one = prepared(tmp_path, "coop+replay", memory={"total": 15})
    theirs = ClassBalancedBuffer(15)
    for i, classes in enumerate((0, 3, 5)):
        arrive(one, i)
        old = one.parts.train_targets[one.model.memory.samples(one.model.experience(i))].bincount().tolist()
        assert old == [min(4, length) for length in theirs.get_group_lengths(classes or 1)[:classes]]  # 4 images a class


# --- in any row of pieces ------------------------------------------------------------------------------------------------


EWC = {"use": "ewc.EWC", "weight": 1.0, "batch": 4}
LWF = {"use": "lwf.LwF", "weight": 1.0, "temperature": 2.0}
PROGRAD = {"use": "prograd.Projected", "strength": 1.0, "temperature": 1.0}


def test_a_card_that_has_a_loss_takes_another_beside_it(tmp_path):
    score = {"use": "comma.Score", "weight": 1.0}
    one = prepared(tmp_path, "comma", loss=[score, EWC, {"use": "lwf.LwF", "weight": 1.0, "temperature": 2.0}])
    arrive(one, 0)
    moved(one.model, 0)
    one.model.finish(0)
    arrive(one, 1)
    moved(one.model, 1)
    terms = one.model.loss(*batch(one, 1))[1]
    assert set(terms) == {"cross_entropy", "score", "ewc", "lwf"} and all(term > 0 for term in terms.values())
    assert one.model.extra_loss.parts[1].F.max() > 0


def test_what_one_of_several_losses_needs_is_there(tmp_path):
    alignment = load_card("coop+lamm").loss.model_dump()
    one = prepared(tmp_path, "coop+lamm", loss=[alignment, EWC])
    arrive(one, 0)
    assert set(one.model.loss(*batch(one, 0))[1]) == {"cross_entropy", "parameter", "feature", "logit"}
    assert one.model.shared == ["context.v"]  # the vectors of labels belong to their classes


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([EWC, EWC], "coop: loss: two losses have a term of one name: ewc"),
        ([PROGRAD] * 2, "coop: loss: two losses have a term of one name"),
        ([EWC, {"use": "ewc.EWC", "weight": 1.0}], "coop: loss: ewc.EWC needs 'batch'"),
    ],
)
def test_losses_that_do_not_go_together_are_refused(tmp_path, losses, said):
    with pytest.raises(UserError, match=re.escape(said)):
        prepared(tmp_path, "coop", loss=losses)


def test_a_list_of_losses_is_part_of_the_hash_and_a_single_loss_is_as_it_was():
    card = load_card("coop+ewc")
    one, two = (resolve(card, {"loss": loss}) for loss in ([EWC], [EWC, EWC]))
    assert len({content_hash(each) for each in (card, one, two)}) == 3
    assert Card.model_validate(one.model_dump(mode="json")) == one


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("lamm", {"loss": EWC}, "lamm: loss: ewc.EWC: nothing that learns is shared by old and new classes"),
        ("lamm", {"loss": LWF}, "lamm: loss: lwf.LwF: nothing that learns is shared"),
        ("coop-16-csc", {"loss": EWC}, "nothing that learns is shared"),
        ("coop+lwf", {"label_space": "experience"}, "old classes must be in the loss to be held: expected label_space: seen"),
        ("coop+der", {"label_space": "experience"}, "images of old classes need old classes in the loss: expected"),
    ],
)  # fmt: skip
def test_what_could_not_act_is_refused(tmp_path, method, changes, said):
    with pytest.raises(UserError, match=re.escape(said)):
        prepared(tmp_path, method, **changes)


@pytest.mark.parametrize("field", ["loss", "memory"])
def test_a_piece_that_nobody_would_ask_is_refused(field):
    piece = {"loss": EWC, "memory": {"use": "exemplars.Exemplars", "total": 9}}[field]
    with pytest.raises(UserError, match=f"{field}: nothing is trained, so it would do nothing"):
        resolve(load_card("zero-shot"), {field: piece})


def test_a_memory_where_nothing_is_shared_is_told_once_and_one_that_acts_is_not(tmp_path, capsys):
    said = "nothing that learns is shared by old and new classes: what was learned for old ones is frozen"
    for method, told in (("lamm+replay", True), ("coop+replay", False)):
        notes = []
        complete(prepared(tmp_path, method), lambda at, notes=notes: notes.append(at.note))
        (note,) = [note for note in notes if note] or [""]
        assert note.startswith(f"{method}: memory: {said}") == told
    lines = Lines([None] * 2, 2)
    for _ in range(2):
        lines.report(Event(None, "note", text="lamm+replay: memory: so it is"))
    assert capsys.readouterr().out.count("note: lamm+replay: memory: so it is") == 1


def test_under_their_strategies_a_memory_of_ours_is_refused_and_a_loss_of_ours_acts(tmp_path):
    one = prepared(tmp_path, "coop+replay")
    with pytest.raises(UserError, match="a memory of its own, which a strategy of Avalanche would not ask"):
        Module(one.model, one.sources)
    one = prepared(tmp_path, "coop+ewc")
    module = Module(one.model, one.sources).train()
    moved(one.model, 0)
    module.take_up(1)
    moved(one.model, 1)
    x, y = batch(one, 1)
    with_penalty, without = module.criterion(module(x.frozen), y), torch.nn.functional.cross_entropy(module.last.logits, y)
    assert with_penalty > without


def test_show_names_memory_and_every_loss(capsys):
    from lamm_cl.cli import main

    assert main.main(["show", "coop+der"]) == 0
    assert "memory     der.DER  alpha: 0.1, beta: 0.5, total: 200" in capsys.readouterr().out


def test_what_takes_passes_that_nobody_counts_has_no_count_of_work(tmp_path):
    for method in ("coop+lwf", "coop+der"):
        assert complete(prepared(tmp_path, method), lambda at: None).measured.work is None
