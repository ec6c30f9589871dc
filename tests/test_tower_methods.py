"""Methods inside the towers: what they learn is what is tested, whatever was kept, whenever a run is cut off."""

import copy
import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import toy
from generated import images, tiny_clip

from lamm_cl.config.cards import load_card, resolve
from lamm_cl.errors import UserError
from lamm_cl.learner.build import build
from lamm_cl.learner.model import Learner
from lamm_cl.learner.shown import Experience, Images
from lamm_cl.methods.exemplars import Exemplars, herding
from lamm_cl.training.optimizing import optimizer

SMALL = {"batch": 8, "augmentation": "none"}
DEFAULT = {  # card -> what the toy's few images and three blocks need otherwise
    "cliplora": {"training": SMALL | {"steps_per_shot": 1}},
    "l2p": {"training": SMALL | {"epochs": 2}},
    "dualprompt": toy.shallow("dualprompt") | {"training": SMALL | {"epochs": 2}},
    "codaprompt": toy.shallow("codaprompt") | {"training": SMALL | {"epochs": 2}},
    "moe": {"training": SMALL | {"steps": None, "epochs": 2}},
    "mgclip": {"training": SMALL | {"epochs": 2}, "head": {"batch": 4}},
}
VARIANTS = {
    "cliplora-released": DEFAULT["cliplora"],
    "l2p-original": DEFAULT["l2p"],
    "l2p-c3box": DEFAULT["l2p"],
    "dualprompt-original": DEFAULT["dualprompt"],
    "dualprompt-c3box": DEFAULT["dualprompt"],
    "codaprompt-c3box": DEFAULT["codaprompt"],
    "moe-released": {"training": SMALL | {"epochs": 2}},
}
EVERY = DEFAULT | VARIANTS
NAMES = ["cat", "golden retriever", "forget-me-not", "dog"]


def run(tmp_path, key: str, **changes):
    return toy.run(tmp_path, key, overrides={key: EVERY[key]}, **changes)


@pytest.mark.parametrize("moment", (1, 2))
@pytest.mark.parametrize("key", EVERY)
def test_a_method_inside_the_towers_cut_off_goes_on_to_the_same_bytes(tmp_path, key, moment):
    whole, learned = run(tmp_path, key, folder="whole", experiences=3)
    with toy.killed(moment):
        run(tmp_path, key, folder="cut", experiences=3, save_every=0)
    resumed, again = run(tmp_path, key, folder="cut", experiences=3)

    assert resumed.facts() == whole.facts()
    assert learned.keys() == again.keys() and all(torch.equal(learned[name], again[name]) for name in learned)


def begun(key: str, experiences: int = 2, **changes) -> Learner:
    """A model of a card, moved away from where it starts."""
    cut = [range(0, 2), range(2, 4)] if experiences == 2 else [range(4)]
    model = build(resolve(resolve(load_card(key), EVERY[key]), changes), tiny_clip(), NAMES, cut, seed=3)
    for i in range(experiences):
        model.begin(i)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=draw)
    model.refresh()
    return model


def shown(n: int) -> Images:
    pixels = images(4, n, 16)
    frozen = tiny_clip().image_all(pixels)
    return Images(frozen=frozen.unit, raw=frozen.raw, trunk=frozen.trunk, pixels=pixels)


def test_a_linear_head_has_no_accuracy_on_classes_that_are_not_learned(tmp_path):
    record, _ = run(tmp_path, "l2p", experiences=3)

    assert {count.correct is None for count in record.counts if count.tested > count.trained} == {True}
    assert {count.correct is None for count in record.counts if count.tested <= count.trained} == {False}


# --- prompt pools ---------------------------------------------------------------------------------------------------------


def test_the_query_is_the_banks_feature_and_no_image_goes_twice_through_the_frozen_tower(tmp_path, monkeypatch):
    passes = []
    encode = tiny_clip().image_all
    monkeypatch.setattr(
        tiny_clip(), "image_all", lambda x, *rest, **more: passes.append((len(x), *rest)) or encode(x, *rest, **more)
    )
    run(tmp_path, "codaprompt", experiences=3)

    frozen = sum(n for n, *prompts in passes if not prompts)
    assert frozen == 7 * 4 + 7 * 9  # shots, test images


def test_dualprompt_starts_an_experience_with_the_prompts_of_the_one_before():
    model = begun("dualprompt", experiences=1)
    E = model.context.E.detach().clone()
    model.experiences = [range(2), range(2, 4)]
    model.begin(1)

    assert torch.equal(model.context.E[:, :, 1], E[:, :, 0]) and torch.equal(model.context.E[:, :, 2:], E[:, :, 2:])


def test_what_coda_prompt_learned_before_stays_to_the_bit(tmp_path):
    first = run(tmp_path, "codaprompt", folder="one", experiences=[3, 4])[1]
    prepared = toy.prepared(toy.planned(tmp_path / "x", "codaprompt", overrides={"codaprompt": EVERY["codaprompt"]}), tmp_path)
    model = prepared.model
    model.begin(0)
    before = [p.detach().clone()[: model.context.drawn] for p in model.context.P]
    model.begin(1)
    for start, p in zip(before, model.context.P):
        assert torch.equal(p[: len(start)], start)
        rows = p.detach().flatten(1)
        assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-5)
    assert all(tensor.any() for name, tensor in first.items() if name.startswith("context"))


@pytest.mark.parametrize(
    ("key", "context", "said"),
    [
        ("dualprompt", {"e_blocks": [2, 3]}, "context: e_blocks: block 3, but the image tower has 3, counted from 0"),
        ("dualprompt", {"e_blocks": [1]}, "context: g_blocks and e_blocks: block 1 stands there twice"),
        ("codaprompt", {"length": 7}, "context: length: 7, but half of it goes to keys and half to values"),
        ("codaprompt", {"pool": 1}, "context: pool: 1 components for 2 experiences: expected one for each"),
        ("l2p", {"top": 11}, "context: top: 11 prompts, but pool: 10"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(key, context, said):
    with pytest.raises(UserError, match=re.escape(said)):
        begun(key, context=context)


# --- exemplars ------------------------------------------------------------------------------------------------------------


def begun_run(tmp_path, memory: dict, key: str = "l2p-c3box", **changes):
    overrides = {key: EVERY[key] | {"memory": {"per_class": None, "total": None} | memory}}
    return toy.prepared(toy.planned(tmp_path / "run", key, overrides=overrides, experiences=[2, 2, 3], **changes), tmp_path)


@pytest.mark.parametrize("choose", ["herding", "random", "reservoir"])
def test_exemplars_are_of_old_classes_alone_and_never_more_than_there_is_room_for(tmp_path, choose):
    for memory, counts in (({"per_class": 3}, [0, 3, 3]), ({"total": 9}, [0, 4, 2])):
        if choose == "reservoir" and "total" in memory:
            continue  # below
        prepared = begun_run(tmp_path, memory | {"choose": choose})
        model, earlier = prepared.model, {}
        for i, each in enumerate(counts):
            model.begin(i)
            model.observe(i, prepared.sources.observed(i))
            e = model.experience(i)
            found = model.memory.samples(e)
            labels = prepared.parts.train_targets[found]
            assert labels.bincount(minlength=7).tolist() == [each] * e.classes.start + [0] * (7 - e.classes.start)
            assert len(set(found.tolist())) == len(found)
            mine = {c: found[labels == c].tolist() for c in range(e.classes.start)}
            assert all(earlier[c][: len(ids)] == ids for c, ids in mine.items() if c in earlier)  # the first of an order stay
            earlier = mine


class Experiences:
    """Of so many classes with so many images each: what a memory observes, without a model."""

    def __init__(self, *sizes: list[int]):
        self.sizes, ends = sizes, [sum(map(len, sizes[: i + 1])) for i in range(len(sizes))]
        self.classes = [range(end - len(size), end) for size, end in zip(sizes, ends)]

    def shown_to(self, memory) -> list[list[int]]:
        """-> the images in memory in each experience, numbered through the stream."""
        found, first = [], 0
        for i, (size, classes) in enumerate(zip(self.sizes, self.classes)):
            y = torch.repeat_interleave(torch.tensor(classes), torch.tensor(size))
            frozen = SimpleNamespace(y=y, ids=first + torch.arange(len(y)), unit=torch.zeros(len(y), 2))
            memory.observe(Experience(i, classes), frozen)
            found.append(memory.samples(Experience(i, classes)).tolist())
            first += len(y)
        return found


def test_every_image_seen_is_as_likely_to_be_in_a_reservoir_whatever_its_class_and_experience():
    stream, n = Experiences([2, 6], [4], [1, 1, 1], [1]), 3000
    torch.manual_seed(1)
    counts = torch.zeros(4, 16)

    for _ in range(n):
        for i, ids in enumerate(stream.shown_to(Exemplars(total=5, choose="reservoir"))):
            counts[i, ids] += 1

    for i, seen in enumerate((0, 8, 12, 15)):
        assert counts[i].sum() == n * min(5, seen) and not counts[i, seen:].any()
        if seen:
            share = 5 / seen
            assert (counts[i, :seen] / n - share).abs().max() < 4 * (share * (1 - share) / n) ** 0.5


def test_what_falls_out_of_a_reservoir_never_comes_back():
    torch.manual_seed(2)
    _, first, second, third = map(set, Experiences([9], [9], [9], [9]).shown_to(Exemplars(total=4, choose="reservoir")))

    assert second & set(range(9)) <= first and third & set(range(18)) <= second and len(first) == len(third) == 4


def test_herding_takes_the_image_that_brings_the_mean_nearest(tmp_path):
    x = F.normalize(torch.randn(9, 5, generator=torch.Generator().manual_seed(0)), dim=-1)

    order = herding(x, 9).tolist()

    assert sorted(order) == list(range(9))
    for k in range(1, 9):
        means = {i: (x.mean(0) - x[[*order[: k - 1], i]].mean(0)).norm() for i in range(9) if i not in order[: k - 1]}
        assert order[k - 1] == min(means, key=means.get)


def test_a_memory_without_old_classes_in_the_loss_is_refused(tmp_path):
    with pytest.raises(UserError, match="l2p-c3box: memory: images of old classes need old classes in the loss"):
        begun("l2p-c3box", label_space="experience")


# --- CLIP-LoRA ------------------------------------------------------------------------------------------------------------


def in_the_weights(model: Learner) -> torch.Tensor:
    """Text features (C, D) by open_clip's own encoder, the deltas put into its weights."""
    tower, plain = model.tower, copy.deepcopy(model.clip.model)
    for i, block in enumerate(plain.transformer.resblocks):
        deltas = [tower.scale * tower.B[f"text_{i}_{name}"] @ tower.A[f"text_{i}_{name}"] for name in "qkv"]
        block.attn.in_proj_weight.data += torch.cat(deltas).detach()
    return F.normalize(plain.encode_text(model.texts.frames[0].tokens), dim=-1).detach()


@pytest.mark.parametrize("dropout", (0.0, 0.25))
def test_an_adapter_in_the_text_tower_under_fixed_words_never_meets_a_stale_text(dropout):
    """Neither a prefix nor the text of a class learned before survives a step."""
    model, x = begun("cliplora", tower={"dropout": dropout}), shown(4)
    current, made = range(2, 4), optimizer(load_card("cliplora").training, model)
    found = []
    for _ in range(3):
        model.eval()
        with torch.no_grad():
            tested = model.output(x, model.classes).text
        torch.testing.assert_close(tested, in_the_weights(model), atol=1e-5, rtol=0)
        found.append(tested)
        model.train()
        if dropout == 0:
            torch.testing.assert_close(model.output(x, model.classes).text, in_the_weights(model), atol=1e-5, rtol=0)
            torch.testing.assert_close(model.output(x, current).text, in_the_weights(model)[2:], atol=1e-5, rtol=0)
        made.zero_grad()
        out, terms = model.loss(x, torch.tensor([2, 3, 3, 2]))
        sum(terms.values()).backward()
        assert out.text.requires_grad and all(p.grad.any() for name, p in model.tower.named_parameters() if "text" in name)
        for group in made.param_groups:
            group["lr"] = 0.01
        made.step()
    for before, after in zip(found, found[1:]):
        assert ((before - after).abs().amax(dim=1) > 1e-3).all()


def test_every_projection_of_cliplora_has_a_dropout_mask_of_its_own_and_every_text_too():
    model = begun("cliplora")
    seen = []
    model.tower.dropped = lambda where, name, h: seen.append((where, name, len(h))) or h
    model.train()
    model.loss(shown(4), torch.tensor([2, 3, 3, 2]))

    for tower, n in (("image", 4), ("text", 2)):
        assert [name for where, name, _ in seen if where.tower == tower] == ["q", "k", "v"] * model.clip.shape(tower)[0]
        assert {count for where, _, count in seen if where.tower == tower} == {n}
