"""Streams: who is seen when, and Avalanche's traps."""

import numpy as np
import pytest
import torch

from lamm_cl.config.schema import OrderSeed, Scenario
from lamm_cl.data.dataset import Dataset, Split
from lamm_cl.data.orders import class_counts, class_order
from lamm_cl.errors import UserError
from lamm_cl.training.stream import benchmark, split


def scenario(**changes) -> Scenario:
    facts = dict(name="test", version=1, backbone={"architecture": "lamm-cl-mini", "weights": "embedded"}, datasets=["toy"],
                 experiences="halves", order="dataset", shots=2, seeds=[1], methods=["zero-shot"])  # fmt: skip
    return Scenario(**(facts | changes))


def toy(classes: int, train: int = 5, test: int = 3) -> Dataset:
    def part(n: int) -> Split:
        labels = np.random.RandomState(classes).permutation(np.repeat(np.arange(classes), n))
        return Split(np.zeros((len(labels), 8, 8, 3), np.uint8), labels)

    return Dataset("toy", tuple(f"class {i}" for i in range(classes)), part(train), part(test), "a photo of a {}.", "0" * 64, ())


@pytest.mark.parametrize("classes, halves", [(2, [1, 1]), (7, [4, 3]), (10, [5, 5]), (101, [51, 50])])
def test_set_1_is_the_first_half_of_the_classes_rounded_up(classes, halves):
    assert class_counts("halves", classes, "test") == halves


@pytest.mark.parametrize("classes", range(2, 30))
@pytest.mark.parametrize("T", [2, 3, 5, 10])
def test_no_class_is_lost_in_t_steps(classes, T):
    if T > classes:
        with pytest.raises(UserError, match=f"{T} experiences, but there are only {classes} classes"):
            class_counts(T, classes, "test")
        return
    counts = class_counts(T, classes, "test")
    assert sum(counts) == classes and len(counts) == T and max(counts) - min(counts) <= 1


def test_a_list_that_does_not_add_up_is_refused():
    with pytest.raises(UserError, match=r"experiences: \[4, 4\] adds up to 8, but there are 7 classes"):
        class_counts((4, 4), 7, "test")


def test_classes_are_renumbered_by_arrival_and_every_image_keeps_its_class():
    dataset = toy(7)
    parts = split(scenario(order={"seed": 1993}, experiences=[3, 4]), dataset, "full", 1)
    assert parts.order == np.random.RandomState(1993).permutation(7).tolist()
    assert parts.names == [f"class {i}" for i in parts.order]
    for target, label in zip(parts.train_targets.tolist(), dataset.train.labels.tolist(), strict=True):
        assert parts.order[target] == label
    assert parts.experiences == [range(0, 3), range(3, 7)]
    assert sorted(torch.cat(parts.train).tolist()) == list(range(35)) and sorted(torch.cat(parts.test).tolist()) == list(
        range(21)
    )


def test_the_reversed_order_begins_with_the_last_class():
    assert class_order("reversed", 4) == [3, 2, 1, 0]
    assert class_order(OrderSeed(seed=1), 4) == np.random.RandomState(1).permutation(4).tolist()


def test_shots_are_drawn_before_the_classes_are_split_and_count_per_class():
    parts = split(scenario(experiences=3), toy(7), 2, 1)
    for classes, ids in zip(parts.experiences, parts.train, strict=True):
        assert torch.bincount(parts.train_targets[ids], minlength=7)[list(classes)].tolist() == [2] * len(classes)


def test_avalanche_carries_exactly_these_experiences_and_leaves_torchs_generator_alone():
    parts = split(scenario(experiences=[4, 3]), toy(7), "full", 1)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    made = benchmark(parts)
    assert torch.equal(torch.get_rng_state(), before)
    for experiences, samples in ((made.train_stream, parts.train), (made.test_stream, parts.test)):
        assert len(experiences) == 2
        for experience, classes, ids in zip(experiences, parts.experiences, samples, strict=True):
            assert sorted(experience.classes_in_this_experience) == list(classes)
            assert torch.equal(experience.samples, ids)
            carried = [(int(sample), int(target)) for sample, target, *_ in experience.dataset]
            assert sorted(carried) == sorted(zip(ids.tolist(), experience.targets.tolist(), strict=True))


def test_a_class_without_test_images_is_named():
    dataset = toy(3)
    labels = np.where(dataset.test.labels == 1, 0, dataset.test.labels)
    broken = Dataset(dataset.name, dataset.classes, dataset.train, Split(dataset.test.images, labels), dataset.template, "", ())
    with pytest.raises(UserError, match="no test images of class 'class 1'"):
        split(scenario(), broken, 2, 1)
