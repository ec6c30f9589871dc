"""The embedded default: its painted worlds, its captions, its pretraining, and the weights that came of it."""

import random
from itertools import combinations, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lamm_cl.errors import UserError
from lamm_cl.mini import captions, pretrain, scenes, worlds
from lamm_cl.mini.captions import RARE, SLOTS, SPECIES, UNSAID, attributes, caption, true_of
from lamm_cl.mini.pretrain import FOLDER, TEMPLATE, Recipe, Scenes, Words, contrastive_loss, encode_text, new_model
from lamm_cl.mini.scenes import COLOURS, DIGITS, OUTLINES, PATTERNS, SHAPES, Scene, compose, held_out, neighbour
from lamm_cl.mini.worlds import CLASSES, COMBINATIONS, NAMES, RARE_SHAPES, pretraining_scene, world

open_clip = pretrain.open_clip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("worlds")


@pytest.fixture(scope="module")
def mix():
    rng = random.Random(1)
    return [pretraining_scene(rng) for _ in range(5000)]


@pytest.fixture(scope="module")
def words():
    open_clip.add_model_config(pretrain.ARCHITECTURE)
    return Words()


@pytest.fixture(scope="module")
def embedded(words):
    name = pretrain.ARCHITECTURE.stem
    model, _, preprocess = open_clip.create_model_and_transforms(
        name, pretrained=str(FOLDER / f"{name}.safetensors"), image_mean=(0.5,) * 3, image_std=(0.5,) * 3
    )
    return model.eval().requires_grad_(False), preprocess


# --- worlds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_class_has_48_images_to_draw_from_and_50_to_test_on(name, cache):
    classes, train_images, train_labels, test_images, test_labels = world(name, cache)

    assert len(classes) == len(set(classes)) == (10 if name == "digits" else 20)
    assert train_images.shape == (48 * len(classes), 48, 48, 3) and train_images.dtype == np.uint8
    assert test_images.shape == (50 * len(classes), 48, 48, 3) and test_images.dtype == np.uint8
    assert train_labels.dtype == test_labels.dtype == np.int64
    assert np.bincount(train_labels).tolist() == [48] * len(classes)
    assert np.bincount(test_labels).tolist() == [50] * len(classes)


@pytest.mark.parametrize("name", NAMES)
def test_a_world_is_the_same_to_the_last_byte_wherever_it_is_made(name, cache, tmp_path):
    made_elsewhere = world(name, tmp_path)

    for first, second in zip(world(name, cache)[1:], made_elsewhere[1:], strict=True):
        assert first.dtype == second.dtype and first.tobytes() == second.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_no_test_image_can_be_drawn_as_a_shot(name, cache):
    data = world(name, cache)

    shots = {image.tobytes() for image in data.train_images}

    assert not any(image.tobytes() in shots for image in data.test_images)


def test_a_world_is_made_once_and_then_read(cache, monkeypatch):
    made = world("compo", cache)
    monkeypatch.setattr(worlds, "_painted", None)

    assert np.array_equal(world("compo", cache).train_images, made.train_images)


@pytest.mark.parametrize("damage", ["cut short", "one bit flipped", "emptied", "checksum lost"])
def test_a_damaged_cache_file_is_made_again(damage, cache, tmp_path):
    intact = world("digits", cache)
    world("digits", tmp_path)
    (file,) = (tmp_path / "worlds").glob("*.npz")
    (checksum,) = (tmp_path / "worlds").glob("*.sha256")
    content = bytearray(file.read_bytes())
    if damage == "cut short":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "one bit flipped":
        content[len(content) // 3] ^= 1
        file.write_bytes(content)
    elif damage == "emptied":
        file.write_bytes(b"")
    else:
        checksum.unlink()

    repaired = world("digits", tmp_path)

    assert np.array_equal(repaired.train_images, intact.train_images)
    assert worlds._stored(file) is not None


def test_an_unknown_world_is_told_in_one_line_with_the_nearest_name(tmp_path):
    with pytest.raises(UserError, match="no embedded dataset 'specis'.*did you mean 'species'") as told:
        world("specis", tmp_path)

    assert "\n" not in str(told.value)


def test_look_alikes_stand_side_by_side_so_that_no_half_separates_them():
    for first, second in zip(RARE_SHAPES[::2], RARE_SHAPES[1::2], strict=True):
        assert neighbour(first) == second and neighbour(second) == first
    for one, other in zip(SPECIES[::2], SPECIES[1::2], strict=True):
        assert one.kind == other.kind and (one.colour, one.pattern) != (other.colour, other.pattern)
    for one, other in zip(COMBINATIONS[::2], COMBINATIONS[1::2], strict=True):
        assert one[:2] == other[:2] and neighbour(one[2]) == other[2]


# --- the pretraining mix ----------------------------------------------------------------------------------------------


def test_a_quarter_of_all_combinations_is_held_out_evenly():
    every = list(product(SHAPES, COLOURS, PATTERNS))

    for values in (SHAPES, COLOURS, PATTERNS):
        for value in values:
            having = [held_out(*combination) for combination in every if value in combination]
            assert sum(having) == len(having) / 4


def test_pretraining_never_shows_a_held_out_combination(mix):
    shown = {(scene.kind, scene.colour, scene.pattern) for scene in mix if scene.kind in SHAPES}

    assert len(shown) > 1200  # of the 1728 that may be
    assert not any(held_out(*combination) for combination in shown)


def test_compo_shows_only_held_out_combinations_and_the_other_worlds_none():
    rng = random.Random(0)
    for name, expected in (("compo", True), ("rare", False), ("species", False)):
        shown = [worlds._class_scene(name, label, rng) for label in range(20) for _ in range(20)]
        assert {held_out(scene.kind, scene.colour, scene.pattern) for scene in shown} == {expected}


def test_the_mix_is_12_percent_species_12_percent_digits_and_shapes_otherwise(mix):
    species = np.mean([scene.species is not None for scene in mix])
    digits = np.mean([scene.kind in DIGITS for scene in mix])

    assert species == pytest.approx(0.12, abs=0.015) and digits == pytest.approx(0.12, abs=0.015)


def test_no_two_things_have_the_same_outline():
    straight = {name: scenes._shape(outline, 18, (24, 24), 0, random.Random(0)) for name, outline in OUTLINES.items()}
    straight |= {name: scenes._digit(name, 18, (24, 24), 0, random.Random(0)) for name in DIGITS}

    for (one, a), (other, b) in combinations(straight.items(), 2):
        mirrored = np.abs(a[:, ::-1] - b).mean() if one in SHAPES else 1.0
        assert min(np.abs(a - b).mean(), mirrored) > 0.02, (one, other)


def test_every_colour_stands_out_from_several_backgrounds():
    assert all(len(scenes._contrasting(colour)) >= 3 for colour in COLOURS)


# --- captions ---------------------------------------------------------------------------------------------------------


def test_a_caption_claims_only_what_is_true_of_its_own_scene(mix):
    rng = random.Random(2)
    for scene in mix[:1000]:
        _, claims = caption(scene, rng)
        assert true_of(claims[None], attributes(scene)[None]).all()


def test_a_caption_is_true_of_another_scene_if_that_agrees_in_all_that_was_said():
    red, blue = (Scene("circle", colour, "plain", "large", "dark", False) for colour in ("red", "blue"))
    silent_on_colour = attributes(red)
    silent_on_colour[list(SLOTS).index("colour")] = UNSAID

    true = true_of(np.stack([attributes(red), silent_on_colour]), np.stack([attributes(red), attributes(blue)]))

    assert true.tolist() == [[True, False], [True, True]]


def test_a_species_is_named_and_confused_as_often_as_its_table_row_says():
    rng = random.Random(3)
    for species, sibling in ((SPECIES[14], SPECIES[15]), (SPECIES[11], SPECIES[10])):
        scene = compose(species.kind, species.colour, species.pattern, rng, species.name)
        texts = [caption(scene, rng)[0] for _ in range(3000)]
        own, other = (sum(name in text for text in texts) / 3000 for name in (species.name, sibling.name))

        assert own + other == pytest.approx(species.frequency, abs=0.04)
        assert other / (own + other) == pytest.approx(species.confusion, abs=0.05)


def test_a_rare_name_is_rare_and_its_neighbour_sometimes_borrows_it():
    rng = random.Random(4)
    scene = Scene("oval", "red", "plain", "large", "normal", False)
    texts = [caption(scene, rng)[0] for _ in range(6000)]
    named = sum(" egg" in text for text in texts)
    mentions = sum(any(word in text for word in ("oval", "ellipse", " egg")) for text in texts)
    bolt = Scene("bolt", "red", "plain", "large", "normal", False)

    assert named / mentions == pytest.approx(RARE["oval"].frequency * (1 - RARE["oval"].confusion), abs=0.012)
    assert any(RARE["cross"].name in caption(bolt, rng)[0] for _ in range(6000))


def test_the_vocabulary_covers_every_caption(mix, words):
    rng = random.Random(5)

    tokens = words([caption(scene, rng)[0] for scene in mix])  # fails on a word that vocabulary() lacks

    assert tokens.max() < len(words.ids)


# --- pretraining ------------------------------------------------------------------------------------------------------


def test_without_coincidences_the_loss_is_clips_symmetric_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    image, text = F.normalize(torch.randn(2, 6, 8, generator=generator), dim=-1)
    own = torch.arange(6)

    loss = contrastive_loss(image, text, own, torch.eye(6, dtype=torch.bool), torch.tensor(5.0))

    logits = 5 * image @ text.T
    assert torch.allclose(loss, (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2)


def test_a_caption_that_is_also_true_of_another_image_does_not_push_it_away():
    generator = torch.Generator().manual_seed(0)
    image, text = F.normalize(torch.randn(2, 3, 8, generator=generator), dim=-1)
    true = torch.eye(3, dtype=torch.bool)
    true[0, 1] = True  # caption 0 is true of image 1

    def loss(features):
        return contrastive_loss(features, text, torch.arange(3), true, torch.tensor(5.0))

    # Of image 1 the loss sees only captions 1 and 2: moving along the part of caption 0 that these lack is free.
    others = torch.linalg.qr(text[1:].T).Q
    free = text[0] - others @ (others.T @ text[0])
    moved = image.clone()
    moved[1] += 0.3 * free
    assert torch.allclose(loss(image), loss(moved), atol=1e-6)
    moved[2] += 0.3 * free
    assert not torch.allclose(loss(image), loss(moved), atol=1e-3)


def test_short_texts_are_encoded_as_open_clip_encodes_them_at_full_length(words, embedded):
    model, _ = embedded
    texts = [TEMPLATE.format(name) for name in CLASSES["rare"]]
    tokens = words.tokenize(texts)

    short = encode_text(model, tokens[:, : tokens.argmax(dim=1).max() + 1])

    assert torch.allclose(short, model.encode_text(tokens, normalize=True), atol=1e-5)


def test_rescaling_gives_clips_token_scale_and_keeps_the_function(words):
    model = new_model(words, Recipe()).eval().requires_grad_(False)
    model.token_embedding.weight.data.mul_(4.0)
    tokens = words([TEMPLATE.format(name) for name in CLASSES["species"]])
    before = encode_text(model, tokens)

    factor = pretrain.rescale(model)

    assert factor == pytest.approx(0.25, rel=0.1)
    assert model.token_embedding.weight.std().item() == pytest.approx(0.02, rel=1e-3)
    assert torch.allclose(encode_text(model, tokens), before, atol=0.02)


def test_the_same_seed_gives_the_same_weights_to_the_last_bit(words):
    recipe = Recipe(images=64, steps=2, batch=12, warmup=1)

    first, second = (pretrain.train(Scenes(recipe), words, recipe, tell=None).state_dict() for _ in range(2))

    assert all(torch.equal(first[name], second[name]) for name in first)


# --- the weights in the package ---------------------------------------------------------------------------------------


def test_the_weights_file_is_small_and_in_half_precision():
    (file,) = FOLDER.glob("*.safetensors")

    assert file.stat().st_size <= 8_000_000
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}


def test_words_that_pretraining_never_used_have_rows_of_their_own_at_the_scale_of_the_used_ones(words, embedded):
    table = embedded[0].token_embedding.weight
    unused = torch.ones(len(table), dtype=torch.bool)
    unused[words.ids] = False

    assert table[words.ids].std().item() == pytest.approx(0.02, rel=0.01)
    assert table[unused].std().item() == pytest.approx(0.02, rel=0.01)
    assert len(table[unused].unique(dim=0)) == unused.sum()


@pytest.mark.parametrize("name", NAMES)
def test_the_embedded_model_knows_each_world_better_than_chance(name, cache, words, embedded):
    model, preprocess = embedded
    data = world(name, cache)
    chosen = range(0, len(data.test_images), 5)
    images = torch.stack([preprocess(worlds.Image.fromarray(data.test_images[i])) for i in chosen])
    text = model.encode_text(words.tokenize([TEMPLATE.format(c) for c in data.classes]), normalize=True)

    answers = (model.encode_image(images) @ text.T).argmax(dim=1)

    right = (answers == torch.from_numpy(data.test_labels[list(chosen)])).float().mean().item()
    assert right > 2 / len(data.classes)


def test_every_rare_name_and_species_is_a_word_of_its_own():
    names = [*SHAPES, *captions.SYNONYMS.values(), *CLASSES["species"], *(rare.name for rare in RARE.values())]

    assert len(set(names)) == len(names)
