"""Optimizers, learning rates, lengths: equal to torch's and to the authors' releases, whatever a card asks for."""

import json
import math
from pathlib import Path

import pytest
import torch
import toy
from avalanche.core import SupervisedPlugin
from generated import fill
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR

from lamm_cl.config.cards import load_card
from lamm_cl.config.lengths import length, lengths, training_of
from lamm_cl.config.schema import Training
from lamm_cl.errors import UserError
from lamm_cl.training.loop import Batches, Loop
from lamm_cl.training.optimizing import clip, learning_rate, optimizer, set_rate
from lamm_cl.training.recorder import Recorder
from lamm_cl.training.stream import benchmark

GOLDEN = Path(__file__).parent / "fidelity_training"  # numbers of the authors' code, run on a CPU in fp32
RATES = json.loads((GOLDEN / "rates.json").read_text())


def training(**facts) -> Training:
    common = {"batch": 4, "optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0, "schedule": "constant", "augmentation": "none"}
    if facts.get("optimizer", "sgd") == "sgd":
        common["momentum"] = 0.9
    if not facts.keys() & {"epochs", "steps", "steps_per_shot"}:
        common["epochs"] = 6
    return Training(**(common | facts))


def rates(t: Training, per_epoch: int, steps: int) -> list[float]:
    return [learning_rate(t, *divmod(step, per_epoch), per_epoch) for step in range(steps)]


def torchs(scheduler, steps: int, **options) -> list[float]:
    sgd = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = scheduler(sgd, **options)
    found = []
    for _ in range(steps):
        found.append(sgd.param_groups[0]["lr"])
        sgd.step()
        schedule.step()
    return found


# --- learning rates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RATES)
def test_learning_rates_are_those_of_the_releases(name):
    case = RATES[name]
    t = Training(**case["training"])
    assert rates(t, case["per_epoch"], len(case["rates"])) == pytest.approx(case["rates"], rel=case["rtol"])


def test_annealing_is_torchs_cosine_with_its_floor_per_epoch_and_per_step():
    expected = torchs(CosineAnnealingLR, 12, T_max=12, eta_min=1e-3)

    by_step = training(epochs=3, schedule={"use": "annealing", "per": "step", "floor": 1e-3})
    by_epoch = training(epochs=12, schedule={"use": "annealing", "floor": 1e-3})

    assert rates(by_step, 4, 12) == pytest.approx(expected, rel=1e-9)
    assert rates(by_epoch, 5, 60)[::5] == pytest.approx(expected, rel=1e-9)
    assert len(set(rates(by_epoch, 5, 5))) == 1


def test_behind_its_period_a_cosine_rises_again_as_torchs_does():
    expected = torchs(CosineAnnealingLR, 17, T_max=12, eta_min=1e-3)

    t = training(epochs=17, schedule={"use": "annealing", "floor": 1e-3, "period": 12})

    assert rates(t, 1, 17) == pytest.approx(expected, rel=1e-9)
    assert min(rates(t, 1, 17)) == rates(t, 1, 17)[12] == 1e-3


def test_milestones_are_torchs_multi_step_schedule():
    t = training(epochs=12, schedule={"milestones": [4, 10], "factor": 0.1})

    assert rates(t, 1, 12) == pytest.approx(torchs(MultiStepLR, 12, milestones=[4, 10], gamma=0.1), rel=1e-9)


def test_a_linear_warm_up_and_annealing_are_torchs_two_in_sequence():
    def both(sgd):
        warm = LinearLR(sgd, start_factor=1 / 5, total_iters=4)
        return SequentialLR(sgd, [warm, CosineAnnealingLR(sgd, T_max=15)], milestones=[5])

    t = training(epochs=4, schedule={"use": "annealing", "per": "step"}, warmup={"use": "linear", "steps": 5})

    assert rates(t, 5, 20) == pytest.approx(torchs(both, 20), rel=1e-9)


def test_dassls_cosine_ends_above_its_floor_and_torchs_would_not():
    warm = {"epochs": 2, "lr": 1e-5}

    dassl, torchs = (training(epochs=10, schedule=name, warmup=warm) for name in ("cosine", "annealing"))

    assert rates(dassl, 1, 2) == rates(torchs, 1, 2) == [1e-5, 1e-5]
    assert learning_rate(dassl, 9) == 0.05 * (1 + math.cos(math.pi * 7 / 10)) > learning_rate(torchs, 9)
    assert learning_rate(torchs, 10) == 0


def test_a_warm_up_in_epochs_lasts_as_many_steps_where_the_schedule_counts_steps():
    t = training(epochs=4, schedule={"use": "cosine", "per": "step"}, warmup={"epochs": 2, "lr": 1e-5})

    assert rates(t, 3, 7)[:6] == [1e-5] * 6 and rates(t, 3, 7)[6] == 0.1


def test_the_rate_of_a_step_is_a_function_of_its_place_so_a_run_may_begin_anywhere():
    t = training(steps=23, schedule={"use": "cosine", "per": "step", "floor": 1e-4})

    whole = rates(t, 5, 23)

    assert [learning_rate(t, 3, step, 5) for step in range(5)] == whole[15:20] and len(set(whole)) == 23


# --- optimizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adam", "adamw_cosine"])
def test_adam_and_adamw_steps_are_those_of_the_releases(name):
    """Parameter b has a zero gradient, c none: the one decays under AdamW, the other is left alone."""
    golden = json.loads((GOLDEN / "optimizers.json").read_text())
    common = {"batch": 1, "augmentation": "none", "steps": 20}
    t = {
        "adam": Training(optimizer="adam", lr=0.001875, weight_decay=0.0, schedule="constant", **common),
        "adamw_cosine": Training(optimizer={"use": "adamw", "betas": [0.9, 0.999], "eps": 1e-8}, lr=2e-4, weight_decay=0.01,
                                 schedule={"use": "annealing", "per": "step", "floor": 1e-6}, **common),
    }[name]  # fmt: skip
    held = torch.nn.ParameterDict({k: fill(f"opt.{k}", (n,), 1.0, 0.0, "") for k, n in dict(a=64, b=16, c=16).items()})
    made = optimizer(t, held)
    rows = {}
    for step in range(20):
        held["a"].grad, held["b"].grad = fill(f"opt.grad.{step}", (64,), 0.01, 0.0, ""), torch.zeros(16)
        set_rate(made, 0, step, 20)
        made.step()
        rows[step + 1] = {k: p.detach().clone() for k, p in held.items()}
    for k in held:
        expected = torch.tensor(golden[name][k])
        mine = torch.stack([rows[row][k][: expected.shape[1]] for row in golden["rows"]])
        torch.testing.assert_close(mine, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("facts", "make"),
    [
        ({"weight_decay": 0.4}, lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.4)),
        ({"optimizer": "adam", "weight_decay": 0.4}, lambda p: Adam(p, lr=0.1, weight_decay=0.4)),
        ({"optimizer": "adamw", "weight_decay": 0.4}, lambda p: AdamW(p, lr=0.1, weight_decay=0.4)),
        ({"optimizer": {"use": "adam", "betas": [0.8, 0.9], "eps": 1e-3}},
         lambda p: Adam(p, lr=0.1, betas=(0.8, 0.9), eps=1e-3)),
    ],
)  # fmt: skip
def test_an_optimizer_is_torchs_to_the_bit(facts, make):
    mine, theirs = (torch.nn.ParameterList([fill("w", (5, 3), 1.0, 0.0, "")]) for _ in range(2))
    ours, torchs = optimizer(training(**facts), mine), make(theirs.parameters())
    for step in range(4):
        for held, each in ((mine, ours), (theirs, torchs)):
            held[0].grad = fill(f"grad.{step}", (5, 3), 1.0, 0.0, "")
            each.step()
        assert torch.equal(mine[0], theirs[0])


class Pieces(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name in ("context", "head", "extra_loss", "clip"):
            setattr(self, name, torch.nn.Linear(2, 2))
        self.clip.requires_grad_(False)


def test_a_piece_learns_at_its_own_factor_of_the_rate():
    model = Pieces()
    sgd = optimizer(training(lr=0.02, schedule="constant", rates={"head": 10.0, "loss": 0.5}), model)
    set_rate(sgd, 3)

    found = {id(p): group["lr"] for group in sgd.param_groups for p in group["params"]}

    for name, rate in (("context", 0.02), ("head", 0.2), ("extra_loss", 0.01)):
        assert [found[id(p)] for p in getattr(model, name).parameters()] == [rate, rate]
    assert len(found) == 6 and len(optimizer(training(), model).param_groups) == 1


def test_some_parameters_have_numbers_of_their_own_under_the_same_schedule_and_floor():
    t = training(schedule={"use": "annealing", "floor": 0.01}, epochs=4, rates={"head": 2.0},
                 own={"head.weight": {"lr": 0.001, "weight_decay": 0.3}})  # fmt: skip
    model = Pieces()
    sgd = optimizer(t, model)
    set_rate(sgd, 2)

    found = {id(p): (group["lr"], group["weight_decay"]) for group in sgd.param_groups for p in group["params"]}

    assert found[id(model.context.weight)] == pytest.approx((0.01 + 0.09 / 2, 0.0))
    assert found[id(model.head.bias)] == pytest.approx((2 * (0.01 + 0.09 / 2), 0.0))
    assert found[id(model.head.weight)] == pytest.approx((2 * (0.01 - 0.009 / 2), 0.3))


def test_a_parameter_that_is_none_is_told_with_the_nearest_name():
    with pytest.raises(UserError, match="own: 'head.wieght' is no parameter of this method; did you mean 'head.weight'"):
        optimizer(training(own={"head.wieght": {"lr": 0.1, "weight_decay": 0.0}}), Pieces())


def test_gradients_are_clipped_by_their_norm_together():
    model = Pieces()
    t = training(clip_gradient=1.0)
    sgd = optimizer(t, model)
    for p in model.parameters():
        p.grad = torch.full_like(p, 3.0) if p.requires_grad else None
    clip(t, sgd)

    learned = [p.grad for p in model.parameters() if p.requires_grad]

    assert torch.cat([g.flatten() for g in learned]).norm().item() == pytest.approx(1.0, rel=1e-5)
    assert len({g.max().item() for g in learned}) == 1  # one factor for all


# --- lengths ----------------------------------------------------------------------------------------------------------


def test_steps_per_shot_are_as_many_steps_whatever_the_number_of_classes():
    t = training(steps_per_shot=500, batch=32)

    assert [length(training_of(t, 0, 16), n).steps for n in (160, 1600)] == [8000, 8000]
    assert length(training_of(t, 0, 16), 160).epochs == 1600


def test_a_budget_of_steps_ends_inside_an_epoch():
    made = length(training(steps=10, batch=4), 14)

    assert (made.epochs, made.per_epoch, [made.steps_of(epoch) for epoch in range(3)]) == (3, 4, [4, 4, 2])


def test_drop_last_leaves_out_a_smaller_last_batch_unless_it_is_the_only_one():
    t = training(drop_last=True, batch=8, epochs=2)

    assert [length(t, n).per_epoch for n in (7, 8, 15, 16)] == [1, 1, 1, 2]
    assert [length(training(batch=8), n).per_epoch for n in (7, 8, 15, 16)] == [1, 1, 2, 2]


def test_first_and_later_are_merged_over_the_rest():
    t = training(lr=0.1, warmup={"epochs": 1, "lr": 1e-5}, first={"steps": 30, "warmup": None},
                 later={"optimizer": "adamw", "lr": 0.02, "epochs": 0})  # fmt: skip

    first, later = training_of(t, 0), training_of(t, 1)

    assert (first.epochs, first.steps, first.warmup, first.lr) == (None, 30, None, 0.1)
    assert (later.epochs, later.optimizer, later.momentum, later.lr, later.warmup.lr) == (0, "adamw", None, 0.02, 1e-5)
    assert training_of(t, 2) == later
    assert [each.epochs for each in lengths(t, [12, 12, 12], 4)] == [10, 0, 0]
    assert lengths(None, [12, 12], 4)[0].steps == 0


# --- in the loop ------------------------------------------------------------------------------------------------------


class Spy(SupervisedPlugin):
    def __init__(self):
        super().__init__()
        self.rates, self.sizes, self.norms, self.epochs, self.optimizers = [], [], [], [], []

    def before_training_iteration(self, strategy, **_):
        self.rates.append(strategy.optimizer.param_groups[0]["lr"])
        self.sizes.append(len(strategy.mb_y))
        self.epochs.append((strategy.experience.current_experience, strategy.epoch))
        self.optimizers.append(type(strategy.optimizer))

    def after_update(self, strategy, **_):
        gradients = [p.grad.flatten() for g in strategy.optimizer.param_groups for p in g["params"] if p.grad is not None]
        self.norms.append(torch.cat(gradients).norm().item())


def trained(tmp_path, method: str = "coop", **changes) -> tuple[Spy, Loop]:
    """Two experiences of 16 and 12 images."""
    overrides = {method: {"training": toy.SMALL | {"warmup": None} | changes}}
    one = toy.prepared(toy.planned(tmp_path, method, overrides=overrides), tmp_path / "cache")
    spy = Spy()
    loop = Loop(model=one.model, training=one.training, sources=one.sources, seed=7, shots=one.shots,
                plugins=[Recorder(one.run.scenario.label_spaces), spy])  # fmt: skip
    for experience in benchmark(one.parts).train_stream:
        loop.train(experience)
    return spy, loop


def test_rates_per_step_begin_anew_in_every_experience(tmp_path):
    schedule = {"use": "cosine", "per": "step", "floor": 1e-4}
    spy, loop = trained(tmp_path, schedule=schedule, epochs=3)

    one_experience = rates(loop.current, 2, 6)

    assert spy.rates == one_experience * 2 and len(set(one_experience)) == 6


def test_an_experience_takes_exactly_its_steps_and_epochs_follow_one_another(tmp_path):
    spy, _ = trained(tmp_path, epochs=None, steps=5)

    assert spy.epochs == [(i, epoch) for i in (0, 1) for epoch in (0, 0, 1, 1, 2)]


def test_steps_per_shot_count_the_shots_of_the_run(tmp_path):
    spy, _ = trained(tmp_path, epochs=None, steps_per_shot=3)

    assert len(spy.epochs) == 2 * 3 * 4


def test_dropped_batches_are_not_trained_on(tmp_path):
    assert trained(tmp_path / "all", epochs=1)[0].sizes == [8, 8, 8, 4]
    assert trained(tmp_path / "full", epochs=1, drop_last=True)[0].sizes == [8, 8, 8]
    assert trained(tmp_path / "small", epochs=1, drop_last=True, batch=32)[0].sizes == [16, 12]


def test_gradients_are_clipped_before_every_step(tmp_path):
    free, _ = trained(tmp_path / "free")
    clipped, _ = trained(tmp_path / "clipped", clip_gradient=1e-3)

    assert min(free.norms) > 1e-3 and max(clipped.norms) <= 1.0001e-3


def test_the_first_experience_and_the_later_ones_train_with_their_own_numbers(tmp_path):
    spy, _ = trained(tmp_path, first={"epochs": 3, "lr": 0.5, "schedule": "constant"}, later={"optimizer": "adam", "batch": 4})

    assert spy.rates[:6] == [0.5] * 6 and spy.rates[6] == toy_lr()
    assert spy.sizes == [8] * 6 + [4] * 6
    assert spy.optimizers == [SGD] * 6 + [Adam] * 6


def toy_lr() -> float:
    return load_card("coop").training.lr


def test_later_experiences_may_train_nothing_at_all(tmp_path):
    spy, loop = trained(tmp_path / "one", later={"epochs": 0})
    record, _ = toy.run(tmp_path, "coop", overrides={"coop": {"training": toy.SMALL | {"later": {"epochs": 0}}}})

    assert {i for i, _ in spy.epochs} == {0} and loop.optimizer is None
    R = record.accuracy("own")
    assert (R[1] == R[2]).all()


def test_without_the_new_numbers_batches_are_what_they_were():
    source = type("Source", (), {"device": torch.device("cpu"), "batches": lambda self, ids, epoch: iter(ids)})()
    ids = torch.arange(10)

    def drawn(**more):
        order = torch.Generator().manual_seed(3)
        return [x.tolist() for x, _ in Batches(source, ids, ids, 4, 0, order, **more)]

    assert drawn() == drawn(steps=3) and drawn(steps=2) == drawn()[:2]
    assert len(Batches(source, ids, ids, 4)) == 3 and len(Batches(source, ids, ids, 4, steps=2)) == 2


@pytest.mark.parametrize("moment", range(1, 8))
def test_a_run_of_steps_killed_after_any_epoch_continues_to_the_same_bytes(tmp_path, moment):
    """SGD first, AdamW later on: its moments and step counts are in the state."""
    schedule = {"use": "annealing", "per": "step", "floor": 1e-4}
    numbers = toy.SMALL | {"epochs": None, "steps": 5, "schedule": schedule, "warmup": {"use": "linear", "steps": 2}}
    changes = {"overrides": {"lamm": {"training": numbers | {"later": {"optimizer": "adamw", "lr": 0.01, "clip_gradient": 0.1}}}}}
    whole, tensors = toy.run(tmp_path, "lamm", folder="whole", **changes)
    with toy.killed(moment):
        toy.run(tmp_path, "lamm", folder="cut", save_every=0, **changes)
    resumed, again = toy.run(tmp_path, "lamm", folder="cut", **changes)

    assert resumed.facts() == whole.facts()
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)
