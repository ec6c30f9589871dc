"""The loop: what is frozen stays frozen, one seed gives one result, and both label spaces count what they say."""

from importlib.metadata import version
from itertools import product

import numpy as np
import pytest
import torch
import toy
from avalanche.core import SupervisedPlugin
from generated import tiny_clip

from lamm_cl.errors import UserError
from lamm_cl.learner.model import Learner
from lamm_cl.learner.shown import Images
from lamm_cl.results.record import Count
from lamm_cl.training.loop import Loop
from lamm_cl.training.optimizing import learning_rate
from lamm_cl.training.recorder import Recorder
from lamm_cl.training.stream import benchmark

TRAINED = sorted(toy.OVERRIDES)


@pytest.mark.parametrize("method", ["zero-shot", "zero-shot-7", *TRAINED])
def test_every_method_runs_through_the_one_loop_and_counts_every_image(tmp_path, monkeypatch, method):
    record, _ = toy.run(tmp_path, method)
    cells = {(c.trained, c.tested, c.label_space): c for c in record.counts}
    assert sorted(cells) == sorted((i, j, s) for i in range(3) for j in (1, 2) for s in ("own", "joint"))
    for (trained, tested, space), cell in cells.items():
        assert cell.total == (4, 3)[tested - 1] * 9
        assert (cell.correct is None) == (space == "joint" and tested > trained)
        if cell.correct is not None:
            assert cell.correct == sum(cell.correct_per_class) <= cell.total


@pytest.mark.parametrize("method", ["zero-shot", *TRAINED])
def test_the_same_seed_twice_gives_identical_records_and_tensors(tmp_path, monkeypatch, method):
    one, first = toy.run(tmp_path, method, folder="one")
    two, second = toy.run(tmp_path, method, folder="two")
    assert one.facts() == two.facts()
    assert set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_other_shots_and_other_results(tmp_path, monkeypatch):
    one, first = toy.run(tmp_path, "coop", seed=1, folder="one")
    two, second = toy.run(tmp_path, "coop", seed=2, folder="two")
    assert one.dataset.chosen != two.dataset.chosen and not torch.equal(first["context.v"], second["context.v"])


def test_methods_of_a_seed_share_the_shots_and_the_class_order(tmp_path, monkeypatch):
    records = [toy.run(tmp_path, m, folder=m, order={"seed": 5})[0] for m in ("zero-shot", "coop", "maple", "lamm")]
    assert all(record.dataset == records[0].dataset for record in records)


def test_torchs_global_generator_decides_nothing(tmp_path, monkeypatch):
    torch.manual_seed(1)
    one, first = toy.run(tmp_path, "maple", folder="one")
    torch.manual_seed(2)
    two, second = toy.run(tmp_path, "maple", folder="two")
    assert one.facts() == two.facts() and all(torch.equal(first[name], second[name]) for name in first)


def strategy_of(method: str, tmp_path, **changes):
    one = toy.prepared(toy.planned(tmp_path, method, **changes), tmp_path / "cache")
    recorder = Recorder(one.run.scenario.label_spaces)
    strategy = Loop(model=one.model, training=one.training, sources=one.sources, seed=7, plugins=[recorder])
    return strategy, benchmark(one.parts), recorder


@pytest.mark.parametrize(
    "method, part",
    [
        ("lamm", "labels.z"),
        ("coop+lamm", "labels.z"),
        ("maple+lamm", "labels.z"),
        ("kgcoop+lamm", "labels.z"),
        ("promptsrc+lamm", "labels.z"),
        ("coop-16-csc", "context.v"),
    ],
)
@pytest.mark.parametrize("space", ["experience", "seen"])
def test_what_was_learned_for_old_classes_is_frozen_to_the_bit(tmp_path, method, part, space):
    """Weight decay and momentum included: a decay of 0.4 would shrink the vectors visibly."""
    heavy = {method: toy.OVERRIDES[method] | {"training": toy.SMALL | {"weight_decay": 0.4, "momentum": 0.9}}}
    strategy, streams, _ = strategy_of(method, tmp_path, overrides=heavy, train_label_space=space)
    first, second = streams.train_stream
    strategy.train(first)
    vectors = strategy.model.get_submodule(part)
    old, start = vectors(range(4)).detach().clone(), vectors.start[4:7]
    strategy.train(second)
    assert torch.equal(vectors(range(4)), old) and not torch.equal(vectors(range(4)), vectors.start[:4])
    assert not torch.equal(vectors(range(4, 7)), start)


def test_lamms_text_features_of_set_1_are_the_same_bits_after_set_2(tmp_path):
    strategy, streams, _ = strategy_of("lamm", tmp_path)
    first, second = streams.train_stream
    strategy.train(first)
    x = Images(frozen=torch.randn(1, 16))
    with torch.no_grad():
        features = strategy.model.eval().output(x, range(4)).text.clone()
    strategy.train(second)
    with torch.no_grad():
        assert torch.equal(strategy.model.eval().output(x, range(4)).text, features)


def test_testing_the_future_does_not_reveal_its_classes(tmp_path):
    strategy, streams, _ = strategy_of("lamm", tmp_path)
    strategy.train(streams.train_stream[0])
    strategy.eval(streams.test_stream)
    assert strategy.model.learned == 1 and len(strategy.model.labels.z.parts) == 1


def test_every_experience_gets_its_own_warm_up_and_a_fresh_optimizer(tmp_path):
    strategy, streams, _ = strategy_of("coop", tmp_path)
    training = strategy.training
    rates, optimizers = [], []

    class Spy(SupervisedPlugin):
        def before_training_iteration(self, strategy, **_):
            rates.append(strategy.optimizer.param_groups[0]["lr"])
            optimizers.append(strategy.optimizer)

    strategy.plugins.append(Spy())
    for experience in streams.train_stream:
        strategy.train(experience)
    batches = [2, 2]  # 16 and 12 images, batch 8
    expected = [[learning_rate(training, e)] * n for n in batches for e in range(2)]
    assert rates == sum(expected, [])
    assert rates[0] == rates[4] == training.warmup.lr == 1e-5
    assert optimizers[0] is optimizers[3] and optimizers[4] is not optimizers[3]


def test_an_added_evaluation_does_not_change_the_training(tmp_path):
    quiet, streams, _ = strategy_of("maple", tmp_path)
    quiet.train(streams.train_stream[0])
    watched, streams, _ = strategy_of("maple", tmp_path)
    watched.eval(streams.test_stream)

    class Curious(SupervisedPlugin):
        def after_training_epoch(self, strategy, **_):
            strategy.eval(streams.test_stream)

    watched.plugins.append(Curious())
    watched.train(streams.train_stream[0])
    for one, two in zip(quiet.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(one, two)


class Answers(torch.nn.Module):
    """A model whose logits are written down: 3 classes, {0, 1} then {2}."""

    experiences = [range(0, 2), range(2, 3)]

    def __init__(self, learned: int):
        super().__init__()
        self.learned = learned


def counted(learned: int, tested: int, logits: list[list[float]], targets: list[int]) -> dict[str, Count]:
    recorder = Recorder(("own", "joint"))
    experience = type("Experience", (), {"current_experience": tested - 1, "samples": targets})
    strategy = type(
        "Strategy",
        (),
        {"model": Answers(learned), "experience": experience, "mb_y": torch.tensor(targets), "mb_output": torch.tensor(logits)},
    )
    recorder.before_eval_exp(strategy)
    recorder.after_eval_iteration(strategy)
    recorder.after_eval_exp(strategy)
    return {count.label_space: count for count in recorder.counts}


def test_own_and_joint_label_spaces_by_hand():
    # class:        0    1    2
    logits = [[3.0, 1.0, 2.0],  # 0: right in both
              [1.0, 0.0, 2.0],  # 0: right among {0, 1}, but 2 wins when it competes
              [3.0, 1.0, 2.0],  # 1: wrong in both
              [0.0, 1.0, 0.5]]  # 1: right in both  # fmt: skip
    targets = [0, 0, 1, 1]
    both = counted(2, 1, logits, targets)
    assert (both["own"].correct, both["own"].correct_per_class) == (3, (2, 1))
    assert (both["joint"].correct, both["joint"].correct_per_class) == (2, (1, 1))
    early = counted(1, 1, logits, targets)  # class 2 is not learned yet: it cannot compete
    assert early["own"].correct == early["joint"].correct == 3


def test_joint_is_undefined_for_what_is_not_learned_yet_and_own_is_not():
    cells = counted(1, 2, [[3.0, 1.0, 2.0]], [2])
    assert cells["joint"].correct is None and cells["joint"].correct_per_class is None and cells["joint"].total == 1
    assert cells["own"].correct == 1  # the only class of its experience


def test_all_seen_classes_compete_in_the_loss_if_the_scenario_says_so(tmp_path):
    for space, width in (("experience", 3), ("seen", 7)):
        strategy, streams, _ = strategy_of("lamm", tmp_path, train_label_space=space)
        for experience in streams.train_stream:
            strategy.train(experience)
        strategy.model.train()
        strategy.model.refresh()
        out, terms = strategy.model.loss(Images(frozen=torch.randn(5, 16)), torch.tensor([4, 5, 6, 4, 4]))
        assert out.logits.shape == (5, width) and set(terms) == {"cross_entropy", "parameter", "feature", "logit"}
        assert all(torch.isfinite(term) for term in terms.values())


def test_in_training_classes_out_of_play_are_masked_in_the_full_width_logits(tmp_path):
    strategy, streams, _ = strategy_of("coop", tmp_path)
    for experience in streams.train_stream:
        strategy.train(experience)
    strategy.model.train()
    logits = strategy.model(Images(frozen=torch.randn(2, 16)))
    assert logits.shape == (2, 7) and (logits[:, :4] < -1e30).all() and (logits[:, 4:] > -1e4).all()


def test_features_from_the_bank_are_those_of_the_tower(tmp_path):
    strategy, streams, _ = strategy_of("coop", tmp_path)
    source = strategy.sources.test.features
    ids = torch.tensor([5, 0, 62, 5])
    torch.testing.assert_close(source.batch(ids, 3), tiny_clip().image(*source.pixels.batches([ids], 3)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("augmentation", ["none", "random_resized_crop+flip"])
@pytest.mark.parametrize("method", ["coop", "cocoop", "lamm", "coop+lamm"])
def test_encoding_inside_the_training_step_agrees_with_the_bank_to_rounding(tmp_path, monkeypatch, method, augmentation):
    """A feature depends on the batch it is encoded in by 1.5e-7 (embedded CLIP, one image instead of 64), or not at all."""
    changes = {"overrides": {method: {"training": toy.SMALL | {"augmentation": augmentation}}}}
    bank, banked = toy.run(tmp_path, method, folder="bank", **changes)
    monkeypatch.setattr(Learner, "needs", frozenset({"pixels"}))
    inside, encoded = toy.run(tmp_path, method, folder="inside", **changes)

    assert bank.counts == inside.counts
    for name, tensor in banked.items():
        assert (tensor - encoded[name]).abs().max() <= 1e-5 * tensor.abs().max()


def test_a_damaged_entry_of_the_bank_is_found_and_rebuilt_with_the_same_bytes(tmp_path):
    strategy, _, _ = strategy_of("coop", tmp_path)
    strategy.sources.test.features.matrix(0)
    (path,) = (tmp_path / "cache" / "features").rglob("*.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + b"\0\1\2\3")
    strategy, _, _ = strategy_of("coop", tmp_path)
    strategy.sources.test.features.matrix(0)
    assert path.read_bytes() == whole


def test_augmentation_is_a_function_of_seed_epoch_and_sample_alone(tmp_path):
    from lamm_cl.training.features import Augmentation, Pixels

    def pixels(seed: int, ids: list[int], epoch: int) -> torch.Tensor:
        return next(Pixels(toy.dataset().train, tiny_clip(), Augmentation(seed)).batches([torch.tensor(ids)], epoch))

    one = pixels(1, [3, 4], 0)
    assert torch.equal(one[1], pixels(1, [4], 0)[0])
    assert not torch.equal(one[1], pixels(1, [4], 1)[0]) and not torch.equal(one[1], pixels(2, [4], 0)[0])


def test_zero_shot_has_nothing_to_train(tmp_path, monkeypatch):
    record, learned = toy.run(tmp_path, "zero-shot")
    assert learned == {} and record.model.trainable == (0, 0)
    R = record.accuracy("own")
    assert (R == R[0]).all()


def test_the_record_says_which_images_were_chosen(tmp_path, monkeypatch):
    record, _ = toy.run(tmp_path, "coop")
    labels = toy.dataset().train.labels
    for classes, ids in zip((range(0, 4), range(4, 7)), record.dataset.chosen, strict=True):
        assert np.bincount(labels[list(ids)], minlength=7)[list(classes)].tolist() == [4] * len(classes)


KILLED = [
    *product(["coop", "maple", "lamm", "coop+lamm", "comma", "coop-16-csc"], range(1, 6)),
    *product(sorted(toy.PLUGINS), (4, 5)),  # between two experiences, and in the middle of the second
]


@pytest.mark.parametrize("method, moment", KILLED)
def test_a_run_killed_after_any_epoch_continues_to_the_same_bytes(tmp_path, method, moment):
    changes = {"overrides": {method: (toy.OVERRIDES | toy.PLUGINS)[method] | {"training": toy.SMALL | {"epochs": 3}}}}
    whole, tensors = toy.run(tmp_path, method, folder="whole", **changes)
    with toy.killed(moment):
        toy.run(tmp_path, method, folder="cut", save_every=0, **changes)
    assert not (tmp_path / "cut" / "record.json").exists()
    resumed, again = toy.run(tmp_path, method, folder="cut", **changes)
    assert resumed.facts() == whole.facts()
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)
    assert not (tmp_path / "cut" / "state").exists()


def killed_run(tmp_path, method="coop", **changes):
    with toy.killed(1):
        toy.run(tmp_path, method, save_every=0, **changes)
    return tmp_path / "run" / "state" / "state.safetensors"


def test_a_state_of_another_configuration_is_refused_with_the_field(tmp_path):
    killed_run(tmp_path)
    other = {"coop": {"training": toy.SMALL | {"lr": 0.5}}}
    with pytest.raises(UserError, match="state.safetensors: card hash: the unfinished run has"):
        toy.run(tmp_path, "coop", overrides=other)


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:-3] + bytes(3), lambda b: b"", lambda b: b"rubbish" * 40]
)
def test_a_damaged_state_costs_time_and_nothing_else(tmp_path, damage):
    whole, _ = toy.run(tmp_path, "coop", folder="whole")
    path = killed_run(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    assert toy.run(tmp_path, "coop")[0].facts() == whole.facts()


def test_a_record_names_the_version_of_lamm_cl_that_made_it(tmp_path):
    record, _ = toy.run(tmp_path, "zero-shot")

    assert record.measured.versions["lamm-cl"] == version("lamm-cl")


@pytest.mark.parametrize(
    ("method", "encoded", "forward", "backward"),
    [
        # 28 training and 63 test images; 7 classes, 4 and 3; 2 epochs of 2 batches an experience; tested three times
        ("zero-shot", 63, 7, 0),
        ("lamm", 63 + 28, 4 * 4 + 3 * 4 + 7 + 3 * 7, 4 * 4 + 3 * 4),  # the names' own texts once
        ("coop", 63 + 28, 4 * 4 + 3 * 4 + 3 * 7, 4 * 4 + 3 * 4),
        ("maple", 2 * 28 + 3 * 63, 4 * 4 + 3 * 4 + 3 * 7, 4 * 4 + 3 * 4),
        ("simplecil", 63 + 28, 0, 0),
    ],
)
def test_a_record_counts_the_passes_of_images_and_prompts(tmp_path, method, encoded, forward, backward):
    work = toy.run(tmp_path, method)[0].measured.work

    assert (work["images encoded"], work["prompts forward"], work["prompts backward"]) == (encoded, forward, backward)
    assert work["multiply-adds"] > 0
