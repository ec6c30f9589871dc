"""The field's protocols as scenarios: classes, names, orders, splits, templates, images, on miniatures of their datasets."""

import json
import re
from functools import cache
from pathlib import Path

import field_layouts
import numpy as np
import pytest
import torch
import yaml
from generated import tiny_clip
from PIL import Image

from lamm_cl.cli.main import main
from lamm_cl.config.cards import load_scenario, scenario_names
from lamm_cl.config.identity import content_hash
from lamm_cl.config.schema import Backbone
from lamm_cl.data import catalogue
from lamm_cl.data.check import check
from lamm_cl.data.measured import LISTS, UNDERSCORED, list_names, measured, named_templates
from lamm_cl.errors import UserError
from lamm_cl.learner.text import FixedTexts
from lamm_cl.towers.clip import Prompts
from lamm_cl.training import stream

FIELD = {name: load_scenario(name) for name in scenario_names() if re.match(r"field-.*-b\d+-inc\d+", name)}  # field-demo is none
FIRST_TEN = {  # of FIELD's notes: numpy's seed 1993 by the number of classes
    100: [68, 56, 78, 8, 23, 84, 90, 65, 74, 76],
    200: [168, 136, 51, 9, 183, 101, 171, 99, 42, 159],
    300: [169, 221, 146, 296, 92, 229, 49, 70, 126, 77],
}
STORED = {  # and of the stored lists
    "CIFAR-100": [87, 0, 52, 58, 44, 91, 68, 97, 51, 15],
    "CUB-200": [110, 54, 8, 122, 168, 136],
    "ImageNet-R-CIL": [29, 75, 18, 9, 62, 46, 133],
    "Tiny-ImageNet": [131, 181, 22, 172, 144, 92, 97, 187, 58, 93],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return field_layouts.write(tmp_path_factory.mktemp("data"))


def seen(scenario, root, load=catalogue.load):
    return measured(scenario, scenario.datasets[0], lambda name, split: load(name, root, root / "cache", split))


kept = cache(catalogue.load)  # of the data sets that no test writes to


def refusal(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- protocols ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELD)
def test_a_protocol_brings_its_classes_in_its_order_on_a_miniature_of_its_data_set(name, root):
    scenario = FIELD[name]
    base, step = map(int, re.search(r"-b(\d+)-inc(\d+)", name).groups())
    of_200 = ("ImageNet-R-CIL", "CUB-200", "ObjectNet", "Tiny-ImageNet")
    C = 300 if scenario.datasets == ("SUN397",) else 200 if scenario.datasets[0] in of_200 else 100

    parts = stream.split(scenario, seen(scenario, root, kept), "full", 1)

    assert len(parts.order) == C
    assert [len(each) for each in parts.experiences] == [base] * bool(base) + [step] * ((C - base) // step)
    first = STORED[scenario.datasets[0]] if isinstance(scenario.order, tuple) else FIRST_TEN[C]
    assert parts.order[: len(first)] == first


def test_the_data_sets_of_the_field_are_there_from_both_families_halves_first_or_not():
    assert {scenario.datasets[0] for scenario in FIELD.values()} == set(field_layouts.WRITERS)
    lamda = [name for name, scenario in FIELD.items() if scenario.backbone.weights == "laion400m_e32"]
    assert len(lamda) == 18 and all(f"{name}-openai" in FIELD for name in lamda)
    from_none, from_half = ({re.split("-b[0-9]", n)[0] for n in lamda if ("-b0-" in n) is none} for none in (True, False))
    assert from_none == from_half and len(from_none) == 9


def test_the_page_of_protocols_names_every_one():
    page = (Path(__file__).parent.parent / "docs" / "protocols.md").read_text()

    assert not [name for name in FIELD if f"`{name.removesuffix('-openai')}`" not in page]


@pytest.mark.parametrize("dataset", field_layouts.WRITERS)
def test_data_check_and_a_dry_run_work_on_miniatures(dataset, root, tmp_path, capsys, monkeypatch):
    from lamm_cl.bench import speed

    monkeypatch.setattr(speed, "speed", lambda *_: speed.Speed(1.0, 1.0, 8))
    name = next(name for name, scenario in FIELD.items() if scenario.datasets[0] == dataset)
    where = ["--data-root", str(root), "--cache", str(tmp_path / "cache")]

    assert main(["data", "check", "--scenario", name, *where]) == 0
    checked = capsys.readouterr().out
    assert main(["run", name, *where, "--results", str(tmp_path / "results"), "--method", "zero-shot-protocol", "--dry-run"]) == 0

    assert f"as {name} sees it" in checked and "0 problems" in checked
    assert "1 to do" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_setting_a_keeps_the_shape_of_images_and_setting_b_squeezes_them():
    rapf, lamda = FIELD["field-cifar100-b0-inc10-rapf"].backbone, FIELD["field-cifar100-b0-inc10"].backbone
    assert (rapf.weights, rapf.resize, lamda.weights, lamda.resize) == ("openai", "crop", "laion400m_e32", "squeeze")
    wide = Image.fromarray(np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None], 32, axis=0))  # 64 x 32, from dark to bright
    half = Backbone(architecture="lamm-cl-mini", weights="embedded")

    from lamm_cl.towers.backbones import load

    crop, squeeze = (load(half.model_copy(update={"resize": how})) for how in ("crop", "squeeze"))
    shown = [clip.preprocess(wide.convert("RGB"))[0, 24] for clip in (crop, squeeze)]
    assert shown[0].shape == shown[1].shape
    assert shown[1][0] < shown[0][0] and shown[1][-1] > shown[0][-1]  # squeezed, both ends are there
    assert crop.preprocess_facts != squeeze.preprocess_facts  # so features of one are never taken for the other's


# --- names ----------------------------------------------------------------------------------------------------------------


def test_lists_of_classes_have_names_that_differ():
    for name in list_names():
        if name != UNDERSCORED:
            content = json.loads((LISTS / f"{name}.json").read_text())
            assert len(set(content["names"])) == len(content["names"]) == int(re.search(r"\d+", name)[0])
            assert content["source"]


def test_prompts_say_the_names_of_the_protocol(root):
    def first(name):
        return seen(FIELD[name], root, kept).classes[:2]

    assert first("field-cars-b0-inc10") == ("AM General Hummer SUV 2000", "Acura Integra Type R 2001")
    assert first("field-imagenet-r-b0-inc20") == ("goldfish", "great_white_shark")  # underscores and all
    assert first("field-cub200-b0-inc20") == ("Black footed Albatross", "Laysan Albatross")
    assert first("field-cub200-b0-inc20-rapf") == ("Black_footed_Albatross", "Laysan_Albatross")
    assert first("field-cifar100-b0-inc10") == ("kind 0", "kind 1")
    assert first("field-cifar100-b0-inc10-rapf") == ("kind_0", "kind_1")


def test_a_list_leaves_out_the_other_classes_and_keeps_every_image_with_its_class(root):
    dataset, own = seen(FIELD["field-food-b0-inc10"], root, kept), kept("Food101", root, root / "cache")

    before = {path: own.classes[label] for path, label in zip(own.train.images.names, own.train.labels, strict=True)}
    after = {path: dataset.classes[label] for path, label in zip(dataset.train.images.names, dataset.train.labels, strict=True)}
    assert after == {path: name for path, name in before.items() if name != "waffles"}
    assert "1 classes of the data set are not in 'food100'" in " ".join(dataset.notes)
    assert dataset.fingerprint != own.fingerprint


def test_classes_that_differ_by_a_qualifier_become_one(root):
    dataset = seen(FIELD["field-sun-b0-inc30"], root, kept)

    count = dict(zip(dataset.classes, np.bincount(dataset.train.labels), strict=True))
    assert count["balcony"] == count["bow window"] == 2 * field_layouts.TRAIN
    assert count["abbey"] == count["apartment building"] == field_layouts.TRAIN
    assert any("'balcony', 'bow window': 2 classes of 'sun300' are several" in note for note in dataset.notes)


def test_a_class_that_is_not_there_is_told_with_the_nearest(root, tmp_path):
    scenario = FIELD["field-food-b0-inc10"]
    misspelt = ["aple pie", *field_layouts.names("food100")[1:]]
    field_layouts.listed(tmp_path, "food-101", misspelt, "split_zhou_Food101.json", "images/")

    assert "has 'apple pie', but the data set does not; did you mean 'aple pie'?" in refusal(seen, scenario, tmp_path)


def test_an_unknown_list_or_name_of_templates_is_refused_before_data_are_looked_at(tmp_path, capsys):
    for line, said in (("classes: cub20", "did you mean 'cub200'?"), ("templates: cifar-81", "did you mean 'cifar-18'?")):
        path = tmp_path / "mine.yaml"
        path.write_text(f"extends: field-cifar100-b0-inc10\nname: mine\n{line}\n")
        assert main(["run", str(path), "--data-root", str(tmp_path), "--dry-run"]) == 2
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1


# --- splits ---------------------------------------------------------------------------------------------------------------


def brought(root, n, name="lamda"):
    """A list that a user brings: of each CUB class n images test."""
    parts = {"train": [], "test": []}
    for label, shown in enumerate(field_layouts.names("cub200")):
        for i in range(field_layouts.TRAIN + field_layouts.TEST):
            place = f"images/{label + 1:03d}.{shown.replace(' ', '_')}/{i}.png"
            parts["test" if i < n else "train"].append([place, label, shown])
    (root / "CUB_200_2011" / f"split_{name}.json").write_text(json.dumps(parts))


def test_a_split_that_is_brought_decides_and_one_that_is_not_is_told(tmp_path, capsys):
    field_layouts.cub200(tmp_path)
    scenario = FIELD["field-cub200-b0-inc20"]
    own = seen(scenario, tmp_path)
    brought(tmp_path, 2)

    theirs = seen(scenario, tmp_path)

    assert (own.split, len(own.test), theirs.split, len(theirs.test)) == ("", 200, "lamda", 400)
    assert any(note.startswith("no split_lamda.json") for note in own.notes) and not theirs.notes
    assert theirs.template == "a photo of a {}, a type of bird."
    assert len(seen(FIELD["field-cub200-b0-inc20-rapf"], tmp_path).test) == 200  # which names no split


def test_data_check_says_which_split_is_there(tmp_path):
    field_layouts.cub200(tmp_path)
    scenario = FIELD["field-cub200-b0-inc20"]

    def said():
        findings = check(["CUB-200"], tmp_path, tmp_path / "cache", scenario=scenario)
        return [f"{each.level} {each.text} {each.fix}" for each in findings]

    without = " ".join(said())
    brought(tmp_path, 2)
    found = " ".join(said())

    assert "the data set's own split" in without and "note no split_lamda.json" in without and "LAMDA-CL's download" in without
    assert "ok split lamda is there: 200 train and 400 test images; its source seems to test on about 2,360" in found
    assert "1,000 test" not in found and "split lamda, " not in without


def test_a_list_of_another_size_than_its_source_tells_is_noted(tmp_path):
    field_layouts.imagenet_r(tmp_path)
    row = ["imagenet-r/n00000000/0.png", 0, "goldfish"]
    (tmp_path / "imagenet-rendition" / "split_rapf.json").write_text(json.dumps({"train": [row], "test": [row]}))

    found = check(["ImageNet-R-CIL"], tmp_path, tmp_path / "cache")

    said = "split rapf is there: 1 train and 1 test images; its source has 24,000 train and 6,001 test"
    assert any(said in each.text for each in found)


# --- templates ------------------------------------------------------------------------------------------------------------


def test_templates_have_the_fields_numbers_and_first_ones():
    counts = {"cifar-18": 18, "itap-7": 7, "cub-1": 1, "food-1": 1, "aircraft-2": 2, "cars-8": 8, "sun-2": 2, "ucf-48": 48}
    first = {"cifar-18": "a photo of a {}.", "itap-7": "itap of a {}.", "cub-1": "a photo of a {}, a type of bird.",
             "food-1": "a photo of {}, a type of food.", "ucf-48": "a photo of a person {}."}  # fmt: skip

    assert {name: len(set(named_templates(name, ""))) for name in counts} == counts
    assert {name: named_templates(name, "")[0] for name in first} == first


def test_the_first_template_is_handed_out_for_training_and_all_for_the_test(root):
    from lamm_cl.config.cards import load_card
    from lamm_cl.learner.build import build

    dataset = seen(FIELD["field-imagenet-r-b0-inc20"], root, kept)
    given = dict(template=dataset.template, spoken=dataset.spoken)
    cards = map(load_card, ("zero-shot", "zero-shot-protocol"))
    plain, all_seven = (build(card, tiny_clip(), ["red", "blue"], [range(2)], **given) for card in cards)

    assert plain.context.templates == ("itap of a {}.",)
    assert all_seven.context.templates == named_templates("itap-7", "") and len(dataset.spoken) == 7
    names, one = ["red", "blue"], FixedTexts(tiny_clip(), ["red", "blue"], ["itap of a {}."]).unit(range(2))
    each = torch.stack([FixedTexts(tiny_clip(), names, [template]).unit(range(2)) for template in dataset.spoken])
    seven = torch.nn.functional.normalize(each.mean(dim=0), dim=-1)
    all_seven.begin(0)
    for _ in range(2):  # what is kept for the one is not taken for the other
        for mode, expected in ((True, one), (False, seven)):
            with torch.no_grad():
                found = all_seven.train(mode).text_features(Prompts(), range(2))
            assert torch.allclose(found, expected, atol=1e-6)


# --- extends --------------------------------------------------------------------------------------------------------------


def test_a_scenario_that_extends_another_is_the_one_that_says_all_of_it(tmp_path):
    base, mine = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    facts = yaml.safe_load((Path(__file__).parent.parent / "scenarios" / "demo.yaml").read_text())
    base.write_text(yaml.safe_dump(facts))
    mine.write_text("extends: base.yaml\nname: mine\nseeds: [7]\noverrides: {}\n")
    whole = tmp_path / "whole.yaml"
    changes = {"name": "mine", "description": "", "seeds": [7], "overrides": {}}
    whole.write_text(yaml.safe_dump(facts | changes))

    extended = load_scenario(mine)

    assert extended == load_scenario(whole) and content_hash(extended) == content_hash(load_scenario(whole))
    assert extended.overrides == {}  # whole fields, nothing merged within
    assert "resize" not in extended.model_dump(mode="json")["backbone"] and "classes" not in extended.model_dump(mode="json")


def test_several_orders_take_the_place_of_the_one_that_is_extended(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: demo-5\nname: mine\norders: [{seed: 1}, {seed: 2}]\n")
    (tmp_path / "one.yaml").write_text("extends: mine.yaml\nname: one\norder: reversed\n")

    several, one = load_scenario(tmp_path / "mine.yaml"), load_scenario(tmp_path / "one.yaml")

    assert (len(several.orders), several.order, one.orders, one.order) == (2, "dataset", (), "reversed")


@pytest.mark.parametrize(
    "content, said",
    [
        ("extends: demmo\nname: mine\n", "mine.yaml: extends: no scenario 'demmo'; did you mean 'demo'?"),
        ("extends: mine.yaml\nname: mine\n", "mine.yaml: extends: the scenario extends itself"),
        ("extends: [demo]\nname: mine\n", "extends: expected the name of a scenario, got ['demo']"),
        ("extends: demo\n", "mine.yaml: 'name' is missing"),
        ("extends: demo\nname: mine\ntemplates: ['no place']\n", "templates"),
    ],
)
def test_a_mistake_in_what_extends_is_one_line(content, said, tmp_path):
    (tmp_path / "mine.yaml").write_text(content)

    assert said in refusal(load_scenario, tmp_path / "mine.yaml")
