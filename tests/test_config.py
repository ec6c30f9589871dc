"""Scenarios and cards: what a file may say, and what it hears when it says something else."""

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lamm_cl.config.cards import card_for, card_names, load_card, load_scenario, resolve, scenario_names
from lamm_cl.config.identity import content_hash, difference, identity
from lamm_cl.errors import UserError
from lamm_cl.files import PACKAGE

SCENARIO = yaml.safe_load(PACKAGE.parent.joinpath("scenarios/demo.yaml").read_text())
CARD = yaml.safe_load(PACKAGE.parent.joinpath("baselines/lamm.yaml").read_text())


def scenario_with(tmp_path: Path, **changes) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**SCENARIO, **changes}))
    return path


def card_with(tmp_path: Path, **changes) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**CARD, **changes}))
    return path


def told(load, *args) -> str:
    """The one line that a mistake gives."""
    with pytest.raises(UserError) as caught:
        load(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what is shipped -------------------------------------------------------------------------------------------------


def test_every_shipped_scenario_and_card_loads_under_its_file_name():
    assert {"demo", "species-5", "demo-reversed", "demo-seen"} <= set(scenario_names())
    assert [load_scenario(name).name for name in scenario_names()] == scenario_names()
    assert [load_card(key).key for key in card_names()] == card_names()


def test_the_eight_methods_of_the_papers_have_a_card():
    eight = {"zero-shot", "coop", "cocoop", "maple", "comma", "lamm", "coop+lamm", "maple+lamm"}
    assert eight <= set(card_names())


@pytest.mark.parametrize("key", card_names())
def test_every_part_of_a_card_has_a_source(key):
    card = load_card(key)
    sources = " ".join(card.provenance)
    parts = {part: getattr(card, part) for part in ("context", "loss", "head", "tower", "memory", "training")}
    parts["labels"] = card.labels and card.labels.options
    for part, is_there in parts.items():
        assert part in sources or not is_there, f"{key}: no provenance for {part}"


def test_published_numbers_of_the_cards_average_to_what_their_table_says():
    for key in ("zero-shot", "coop", "maple", "lamm"):
        table = load_card(key).published["table2_class_incremental"]
        for part in ("set1", "set2"):
            assert sum(table[part]) / len(table["columns"]) == pytest.approx(table["average"][part], abs=0.0101)
        drop = table["average"]["set1"] - table["average"]["set1_after_set1"]
        assert drop == pytest.approx(table["average"]["degradation"], abs=0.0101)


def test_the_demo_follows_the_papers_but_for_augmentation_and_depth():
    demo = load_scenario("demo")
    for method in demo.methods[1:]:
        used, published = card_for(demo, method), load_card(method)
        assert used.training == published.training.model_copy(update={"augmentation": "none"})
        assert {**used.context.options, "depth": 0} == {**published.context.options, "depth": 0}
        assert (used.labels, used.loss) == (published.labels, published.loss)


def test_a_dumped_scenario_loads_again_as_the_same(tmp_path):
    demo = load_scenario("demo")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(demo.model_dump(mode="json")))

    assert load_scenario(tmp_path / "again.yaml") == demo


# --- forms -----------------------------------------------------------------------------------------------------------


def test_shots_may_be_a_number_full_or_a_list(tmp_path):
    def load(shots):
        return load_scenario(scenario_with(tmp_path, shots=shots)).shots

    assert (load(16), load("full"), load([1, 2, "full"])) == ((16,), ("full",), (1, 2, "full"))


def test_experiences_may_be_halves_a_number_or_class_counts(tmp_path):
    def load(experiences):
        return load_scenario(scenario_with(tmp_path, experiences=experiences)).experiences

    assert (load("halves"), load(5), load([4, 3])) == ("halves", 5, (4, 3))


def test_5e_4_is_a_number_and_no_is_a_text(tmp_path):
    path = tmp_path / "mine.yaml"
    text = yaml.safe_dump({**CARD, "departures": ["no"]}).replace("'no'", "no").replace("0.0005", "5e-4")
    assert "5e-4" in text and "\n- no\n" in text
    path.write_text(text)

    card = load_card(path)

    assert card.training.weight_decay == 0.0005
    assert card.departures == ("no",)


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_a_misspelt_key_is_told_with_file_key_path_and_nearest_spelling(tmp_path):
    training = {**CARD["training"], "epoch": 5}
    path = card_with(tmp_path, training={key: value for key, value in training.items() if key != "epochs"})

    assert told(load_card, path) == f"{path}: training: no field 'epoch'; did you mean 'epochs'?"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ["16"]}, "seeds.0: expected a whole number, got '16'"),
        ({"seeds": [True]}, "seeds.0: expected a whole number, got True"),
        ({"seeds": [-1]}, "seeds.0: expected 0 or more, got -1"),
        ({"seeds": [1, 1]}, "seeds: 1 stands there twice"),
        ({"seeds": []}, "seeds: expected at least one entry, got ()"),
        ({"seeds": 1}, "seeds: expected a list, got 1"),
        ({"shots": 0}, "shots: expected 1 or more, got 0"),
        ({"shots": "ful"}, "shots: expected 'full', got 'ful'; did you mean 'full'?"),
        ({"order": "datset"}, "order: expected 'dataset' or 'reversed', got 'datset'; did you mean 'dataset'?"),
        ({"order": {"sed": 3}}, "order: no field 'sed'; did you mean 'seed'?"),
        ({"experiences": "halve"}, "experiences: expected 'halves' or 'datasets', got 'halve'; did you mean 'halves'?"),
        ({"experiences": [4, 0]}, "experiences.1: expected 1 or more, got 0"),
        ({"experiences": 2.5}, "experiences: expected a whole number, got 2.5"),
        ({"train_label_space": "sen"}, "train_label_space: expected 'experience' or 'seen', got 'sen'; did you mean"),
        ({"label_spaces": ["own", "joined"]}, "label_spaces.1: expected 'own', 'joint' or 'all', got 'joined'; did you"),
        (
            {"name": "../demo"},
            "name: expected a name of letters, digits and + . _ - (it becomes a folder), got '../demo'",
        ),
        ({"methods": ["cop"]}, "no method card 'cop'; did you mean 'coop'?"),
        ({"backbone": "lamm-cl-mini"}, "backbone: expected a mapping, got 'lamm-cl-mini'"),
        ({"backbone": {"architecture": "a"}}, "backbone: 'weights' is missing"),
        ({"overides": {}}, "no field 'overides'; did you mean 'overrides'?"),
        (
            {"overrides": {"coop": {"training": {"epoch": 3}}}},
            "overrides.coop: training: no field 'epoch'; did you mean",
        ),
        (
            {"overrides": {"coop": {"training": {"lr": 0}}}},
            "overrides.coop: training.lr: expected a number above 0, got 0",
        ),
        ({"overrides": {"cooop": {}}}, "no method card 'cooop'; did you mean 'coop'?"),
    ],
)
def test_a_mistake_in_a_scenario_is_told_in_one_line(tmp_path, changes, message):
    path = scenario_with(tmp_path, **changes)

    line = told(load_scenario, path)

    assert line.startswith(f"{path}: ") and message in line


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lr", 0, "training.lr: expected a number above 0, got 0"),
        ("lr", "fast", "training.lr: expected a number, got 'fast'"),
        ("epochs", 0, "training.epochs: expected 1 or more, got 0"),
        ("epochs", 10**15, "training.epochs: expected 1000000000 or less, got 1000000000000000"),
        ("momentum", 1.0, "training.momentum: expected a number below 1, got 1.0"),
        ("optimizer", "sdg", "training.optimizer: expected 'sgd', 'adam' or 'adamw', got 'sdg'; did you mean 'sgd'?"),
        ("warmup", {"epochs": 60, "lr": 0.1}, "training: warmup.epochs is more than epochs (50)"),
        ("warmup", {"epochs": 1}, "training.warmup: 'lr' is missing"),
        ("warmup", {"use": "linear", "epochs": 1, "lr": 1}, "training.warmup: lr: a linear warm-up ends at the training's"),
        ("warmup", {"lr": 1}, "training.warmup: expected one of epochs, steps, got none"),
        ("warmup", {"use": "liner", "epochs": 1},
         "training.warmup.use: expected 'constant' or 'linear', got 'liner'; did you mean 'linear'?"),
        ("warmup", {"use": "linear", "epoch": 1}, "training.warmup: no field 'epoch'; did you mean 'epochs'?"),
        ("warmup", 3, "training.warmup: expected a mapping, got 3"),
        ("warmup", {"steps": 5, "lr": 0.1}, "training: warmup.steps goes with a constant schedule or one with per: step"),
        ("steps", 10, "training: expected one of epochs, steps, steps_per_shot, got epochs and steps (null takes one away)"),
        ("epochs", None, "training: expected one of epochs, steps, steps_per_shot, got none"),
        ("optimizer", "adam", "training: momentum: adam has none (null takes it away)"),
        ("optimizer", {"use": "adamw"}, "training: momentum: adamw has none (null takes it away)"),
        ("optimizer", {"use": "adma"}, "training.optimizer.use: expected 'adam' or 'adamw', got 'adma'; did you mean 'adam'?"),
        ("optimizer", {"use": "adam", "beta": [0.9, 0.99]}, "training.optimizer: no field 'beta'; did you mean 'betas'?"),
        ("optimizer", {"use": "adam", "betas": [0.9, 1]}, "training.optimizer.betas.1: expected a number below 1, got 1"),
        ("momentum", None, "training: 'momentum' is missing"),
        ("schedule", "cosin", "training.schedule: expected 'constant', 'cosine', 'annealing' or 'lagging', got 'cosin'; did you "
                              "mean 'cosine'?"),
        ("schedule", "lagging", "training: schedule: lagging has no warm-up"),
        ("schedule", {"use": "cosine", "per": "stpe"}, "training.schedule.per: expected 'epoch' or 'step', got 'stpe'; did you "
                                                       "mean 'step'?"),
        ("schedule", {"use": "cosine", "floor": 1}, "training: schedule.floor is more than lr (0.002)"),
        ("schedule", {"milestone": [4], "factor": 0.1}, "training.schedule: no field 'milestone'; did you mean 'milestones'?"),
        ("schedule", {"use": "cosine", "factor": 1}, "training.schedule: factor goes with use: milestones"),
        ("schedule", {"milestones": [4]}, "training.schedule: 'factor' is missing"),
        ("schedule", {"milestones": [10, 4], "factor": 0.1}, "training.schedule: expected rising milestones, got [10, 4]"),
        ("rates", {"haed": 10}, "training.rates: no field 'haed'; did you mean 'head'?"),
        ("rates", {"head": 0}, "training.rates.head: expected a number above 0, got 0"),
        ("drop_last", 1, "training.drop_last: expected true or false, got 1"),
        ("clip_gradient", 0, "training.clip_gradient: expected a number above 0, got 0"),
        ("later", {"epoch": 0}, "training.later: no field 'epoch'; did you mean 'epochs'?"),
        ("later", {"epochs": -1}, "training.later.epochs: expected 0 or more, got -1"),
        ("later", {"batch": None}, "training.later.batch: expected a whole number, got None"),
        ("later", {"augmentation": "none"}, "training.later: no field 'augmentation'"),
        ("first", {"schedule": "lagging"}, "training: first: schedule: lagging has no warm-up"),
        ("first", {"epochs": 1, "steps": 9}, "training: first: expected one of epochs, steps, steps_per_shot, got epochs "
                                             "and steps (null takes one away)"),
    ],  # fmt: skip
)
def test_a_mistake_in_a_card_is_told_in_one_line(tmp_path, field, value, message):
    path = card_with(tmp_path, training={**CARD["training"], field: value})

    assert told(load_card, path) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; expected keys and values"),
        (b"# nothing\n", "empty; expected keys and values"),
        (b"- a\n- b\n", "expected keys and values, got list"),
        (b"name: [1\n", "line 2: "),
        (b"name: a\nname: b\n", "line 2: the key 'name' stands twice"),
        (b"a: &x {b: 1}\nc: *x\n", "line 1: anchors and aliases (& and *) are not allowed"),
        (b"a: !!python/object/apply:os.system [ls]\n", "line 1: tags (!) are not allowed"),
        (b"a: " + b"[" * 100 + b"]" * 100, "line 1: nested deeper than 20 levels"),
        (b"a: 1e999\n", "line 1: expected a finite number"),
        (b"1: a\n", "line 1: expected text as a key"),
        (b"[a]: b\n", "line 1: expected text as a key"),
        (b"a: \xff\n", "not UTF-8 (byte 3)"),
        (b"a: \x00\n", "special characters are not allowed"),
        (b"a: b\n---\nc: d\n", "line 2: "),
        (b"a: " + b"x" * 1_000_001, "larger than 1,000,000 bytes; expected a small YAML file"),
        (b"name: " + b"9" * 5000, "name: expected at most"),
    ],
)
@pytest.mark.parametrize("load", [load_scenario, load_card])
def test_a_file_that_is_no_plain_yaml_is_told_in_one_line(tmp_path, load, content, message):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)

    line = told(load, path)

    assert line.startswith(f"{path}: ") and message in line


def test_a_missing_file_a_folder_and_an_unknown_name_are_told_with_the_nearest_spelling(tmp_path):
    path = scenario_with(tmp_path)
    (tmp_path / "folder.yaml").mkdir()

    assert told(load_scenario, tmp_path / "mien.yaml").endswith(
        "No such file or directory; did you mean 'mine.yaml'?"
    )
    assert told(load_scenario, tmp_path / "folder.yaml").endswith("is a folder; expected a YAML file")
    assert told(load_scenario, "dmo") == "no scenario 'dmo'; did you mean 'demo'? (a path ends in .yaml)"
    assert told(load_card, "lam") == "no method card 'lam'; did you mean 'lamm'? (a path ends in .yaml)"
    assert load_scenario(path).name == "demo"


FACTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["scenario", "card"]), value=FACTS)
def test_whatever_stands_in_a_file_it_loads_or_is_told_in_one_line(tmp_path_factory, data, kind, value):
    content, load = (SCENARIO, load_scenario) if kind == "scenario" else (CARD, load_card)
    spoilt = json.loads(json.dumps(content))
    place = spoilt
    while True:
        key = data.draw(st.sampled_from([*place, "unknown"]))
        if not isinstance(place.get(key), dict) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    path = tmp_path_factory.mktemp("spoilt") / "mine.yaml"
    path.write_text(yaml.safe_dump(spoilt, allow_unicode=True), errors="surrogatepass")

    try:
        load(path)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"use": "adamw", "betas": [0.8, 0.9], "eps": 1e-3}, "momentum": None},
        {"optimizer": "adam", "momentum": None, "schedule": {"milestones": [4, 10], "factor": 0.1}, "warmup": None},
        {"epochs": None, "steps_per_shot": 500, "schedule": {"use": "annealing", "per": "step", "floor": 1e-6}},
        {"schedule": "constant", "warmup": {"use": "linear", "steps": 30}, "clip_gradient": 1.0, "drop_last": True},
        {"rates": {"head": 10}, "first": {"steps": 30, "warmup": None}, "later": {"epochs": 0}},
    ],
)
def test_training_that_is_written_out_is_read_again_as_the_same(tmp_path, changes):
    """As records and `extends` do, with every field in it."""
    card = load_card(card_with(tmp_path, training={**CARD["training"], **changes}))

    again = resolve(card, {})

    assert again == card and content_hash(again) == content_hash(card) != content_hash(load_card("lamm"))
    assert again.training.first == card.training.first and json.dumps(card.model_dump(mode="json"))


def test_training_numbers_of_later_versions_are_absent_from_hashes_at_their_default():
    card = load_card("lamm")
    absent = {"steps": None, "steps_per_shot": None, "drop_last": False, "clip_gradient": None, "rates": None, "first": None}

    assert identity(resolve(card, {"training": absent | {"later": None}})) == identity(card)
    assert identity(card)["training"].keys() == CARD["training"].keys()


def test_a_null_that_experiences_name_is_a_fact_of_its_own():
    """No warm-up later on is another training than the same warm-up later on."""
    card = load_card("lamm")
    bare, without = (resolve(card, {"training": {"later": later}}) for later in ({"lr": 0.1}, {"lr": 0.1, "warmup": None}))

    assert content_hash(bare) != content_hash(without)


# --- overrides and cards that extend cards ---------------------------------------------------------------------------


def test_an_override_changes_what_it_names_and_nothing_else():
    card = load_card("maple")

    changed = resolve(card, {"context": {"depth": 3}, "training": {"warmup": None}})

    assert changed.context.options == {**card.context.options, "depth": 3}
    assert changed.training == card.training.model_copy(update={"warmup": None})
    assert changed.labels == card.labels


def test_a_piece_of_another_class_is_replaced_as_a_whole():
    card = resolve(load_card("lamm"), {"labels": {"use": "lamm.InPhrase"}})

    assert card.labels.options == {}


def test_a_card_may_extend_another_without_its_published_numbers(tmp_path):
    path = tmp_path / "longer.yaml"
    path.write_text("extends: lamm\nname: LAMM, 100 epochs\ntraining: {epochs: 100}\n")

    card, lamm = load_card(path), load_card("lamm")

    assert (card.key, card.training.epochs, card.training.lr) == ("longer", 100, lamm.training.lr)
    assert (card.published, card.departures) == ({}, ())
    assert lamm.published and lamm.departures


def test_a_card_that_extends_itself_is_told(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")

    assert told(load_card, tmp_path / "a.yaml").endswith("extends: the card extends itself")


def test_a_scenario_names_variants_by_the_card_they_extend(tmp_path):
    overrides = {"ce": {"extends": "lamm", "name": "CE", "loss": None}}
    scenario = load_scenario(scenario_with(tmp_path, methods=["ce", "lamm"], overrides=overrides))

    card = card_for(scenario, "ce")

    assert (card.key, card.name, card.loss) == ("ce", "CE", None)
    assert card.training == load_card("lamm").training


def test_a_scenario_with_a_card_of_ones_own_means_the_same_wherever_it_is_read(tmp_path):
    (tmp_path / "own.yaml").write_text("extends: coop\nname: Own\ntraining: {epochs: 7}\n")
    path = scenario_with(tmp_path, methods=["own"], overrides={"own": {"extends": "own.yaml"}})
    scenario = load_scenario(path)
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "scenario.yaml"
    moved.write_text(yaml.safe_dump(scenario.model_dump(mode="json")))

    card = card_for(load_scenario(moved), "own")

    assert (card.name, card.training.epochs) == ("Own", 7)


# --- hashes ----------------------------------------------------------------------------------------------------------


def test_a_scenario_may_grow_without_a_new_hash_but_not_change_its_protocol(tmp_path):
    def hash_with(**changes):
        return content_hash(load_scenario(scenario_with(tmp_path, **changes)))

    before = hash_with()

    assert re.fullmatch("[0-9a-f]{64}", before)
    assert hash_with(seeds=[1, 2, 3, 4], methods=["lamm"], description="again", shots=[1, 16]) == before
    assert hash_with(experiences=3) != before
    assert hash_with(backbone={"architecture": "ViT-B-16", "weights": "openai"}) != before


def test_the_hash_of_a_card_follows_what_is_run_and_not_what_is_said_about_it():
    card = load_card("lamm")

    assert content_hash(resolve(card, {"name": "X", "published": {}})) == content_hash(card)
    assert content_hash(resolve(card, {"loss": {"logit": 0.1}})) != content_hash(card)


def test_a_difference_is_named_by_its_first_key():
    demo = identity(load_scenario("demo"))

    assert difference(demo, demo) == ""
    assert difference(demo, {**demo, "experiences": 5}) == "experiences: 'halves', now 5"
