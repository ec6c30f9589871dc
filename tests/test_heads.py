"""Heads without text: what they know of a stream, and that cutting it up or off changes nothing."""

import pytest
import torch
import toy

from lamm_cl.config.cards import card_names, load_card
from lamm_cl.learner.build import find
from lamm_cl.training import keeper
from lamm_cl.training.state import write


def without_text(key: str) -> bool:
    head = load_card(key).head
    return head is not None and not find(head.use, key).reads_text


HEADS = [key for key in card_names() if without_text(key)]
SMALL: dict = {}  # card -> what the toy's few images need otherwise
JOINT = {"simplecil": 1e-6}  # card -> how near T experiences come to one, relative to the largest entry


def run(tmp_path, key: str, **changes):
    return toy.run(tmp_path, key, overrides={key: SMALL.get(key, {})}, **changes)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("key", HEADS)
def test_a_head_without_text_has_no_accuracy_on_classes_that_it_has_not_learned(tmp_path, key):
    record, _ = run(tmp_path, key, experiences=3)

    assert len(record.counts) == 4 * 3 * 2
    for count in record.counts:
        assert (count.correct is None) == (count.tested > count.trained)


@pytest.mark.parametrize("key", HEADS)
def test_a_head_learns_colours(tmp_path, key):
    """Blobs of noise about a colour: chance is 1/7."""
    record, _ = run(tmp_path, key, experiences=3)

    last = [count for count in record.counts if count.trained == 3 and count.label_space == "joint"]
    assert sum(count.correct for count in last) > 0.5 * sum(count.total for count in last)


@pytest.mark.parametrize("key", HEADS)
def test_kept_bytes_are_those_of_learned_tensors_and_sums(tmp_path, key):
    record, learned = run(tmp_path, key)

    saved = sum(tensor.numel() * tensor.element_size() for tensor in learned.values())
    assert record.model.kept_bytes >= saved > 0


@pytest.mark.parametrize("key", JOINT)
def test_the_experiences_of_a_stream_give_what_one_with_all_classes_gives(tmp_path, key):
    one = run(tmp_path, key, folder="one", experiences=1, shots="full")[1]

    for T in (2, 7):
        many = run(tmp_path, key, folder=f"in {T}", experiences=T, shots="full")[1]
        assert one.keys() == many.keys()
        for name, joint in one.items():
            assert (many[name] - joint).abs().max() <= JOINT[key] * joint.abs().max(), name


@pytest.mark.parametrize("moment", (1, 2))
@pytest.mark.parametrize("key", HEADS)
def test_a_head_cut_off_between_experiences_goes_on_to_the_same_bytes(tmp_path, monkeypatch, key, moment):
    whole, learned = run(tmp_path, key, folder="whole", experiences=3)
    saved = []

    def dying_write(*arguments):
        write(*arguments)
        saved.append(arguments)
        if len(saved) == moment:
            raise Killed

    monkeypatch.setattr(keeper, "write_state", dying_write)
    with pytest.raises(Killed):
        run(tmp_path, key, folder="cut", experiences=3, save_every=0)
    monkeypatch.setattr(keeper, "write_state", write)
    resumed, again = run(tmp_path, key, folder="cut", experiences=3)

    assert resumed.facts() == whole.facts()
    assert learned.keys() == again.keys() and all(torch.equal(learned[name], again[name]) for name in learned)
