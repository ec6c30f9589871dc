"""Chains of datasets: each is an experience, none is mixed up with another, and the numbers are ZSCL's."""

import re
from dataclasses import replace
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
import toy
from fake_records import record, write
from generated import tiny_clip
from PIL import Image

import lamm_cl
from lamm_cl.cli import doors, main
from lamm_cl.config.cards import card_for, load_scenario
from lamm_cl.config.explained import validated
from lamm_cl.config.identity import content_hash
from lamm_cl.config.schema import Scenario
from lamm_cl.data import catalogue
from lamm_cl.data.chains import chained
from lamm_cl.data.dataset import Dataset, Joined, Split
from lamm_cl.data.orders import arrival
from lamm_cl.errors import UserError
from lamm_cl.learner.build import build
from lamm_cl.learner.prompts import each_with
from lamm_cl.reports import metrics
from lamm_cl.reports.builders import tables
from lamm_cl.reports.chance import Guess
from lamm_cl.results.record import ChainFacts, Count
from lamm_cl.results.runs import Unfit, records_in, runs_in
from lamm_cl.sweeping import same, verify
from lamm_cl.sweeping.execute import Settings
from lamm_cl.sweeping.plan import Run, plan
from lamm_cl.towers.clip import Prompts
from lamm_cl.training.recorder import Recorder
from lamm_cl.training.run import complete, prepare
from lamm_cl.training.stream import split

NAMES = {"pets": ("cat", "dog", "parrot"), "toys": ("dog", "ball"), "signs": ("stop", "go", "parking")}
TEMPLATES = {"pets": "a photo of a {}, a type of pet.", "toys": "a toy {}.", "signs": "a photo of a {}."}


def single(name: str, side: int = 16, train: int = 5, test: int = 4) -> Dataset:
    """Classes of one colour each, with noise."""
    colours = np.random.RandomState(len(name)).randint(40, 215, (len(NAMES[name]), 1, 1, 3))

    def part(n: int, seed: int) -> Split:
        labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(NAMES[name])), n))
        noise = np.random.RandomState(seed + 9).randint(-40, 40, (len(labels), side, side, 3))
        return Split((colours[labels] + noise).astype(np.uint8), labels)

    return Dataset(name, NAMES[name], part(train, 1), part(test, 2), TEMPLATES[name], f"{name:f<64}")


def chain(*names: str, **changes) -> Dataset:
    return chained("+".join(names), [single(name, **changes) for name in names])


def scenario(**changes) -> Scenario:
    facts = {"datasets": [["pets", "toys", "signs"]], "experiences": "datasets", "label_spaces": ["own", "joint", "all"]}
    return toy.scenario(**(facts | {"shots": 3} | changes))


# --- the data


def test_classes_and_images_of_a_chain_follow_one_another_whatever_their_sizes():
    parts = [single("pets"), single("toys", side=12)]

    both = chained("both", parts)

    assert both.classes == ("cat", "dog", "parrot", "dog", "ball") and isinstance(both.train.images, Joined)
    assert both.test.labels.tolist() == [*parts[0].test.labels, *(3 + parts[1].test.labels)]
    for i, image in enumerate([*parts[0].test.images, *parts[1].test.images]):
        assert np.array_equal(both.test.images[i], image)
    assert both.notes == ("1 class names are in several of the datasets, 'dog' in pets and toys",)
    assert both.fingerprint not in {chained("both", parts[::-1]).fingerprint, *(part.fingerprint for part in parts)}


def test_what_is_chosen_of_a_dataset_does_not_depend_on_the_rest_of_the_chain():
    pets, toys = single("pets"), single("toys")

    parts = split(scenario(), chain("pets", "toys", "signs"), 3, seed=7)

    of_toys = split(toy.scenario(experiences=1), toys, 3, seed=7)
    begins = len(pets.train)
    assert (parts.train[1] - begins).tolist() == of_toys.train[0].tolist()
    assert sorted((parts.val[1] - begins).tolist()) == of_toys.val[0].tolist()
    assert parts.experiences == [range(0, 3), range(3, 5), range(5, 8)]
    assert parts.chain == (("pets", 3), ("toys", 2), ("signs", 3))


@pytest.mark.parametrize("order", [["signs", "pets", "toys"], [2, 0, 1]])
def test_of_a_chain_the_order_is_one_of_datasets(order):
    arrived = arrival(scenario(order=order), chain("pets", "toys", "signs"))

    assert arrived.order == [5, 6, 7, 0, 1, 2, 3, 4] and arrived.counts == [3, 3, 2]
    with pytest.raises(UserError, match=r"order: no dataset 'sings'; did you mean 'signs'\?"):
        arrival(scenario(order=["sings", "pets", "toys"]), chain("pets", "toys", "signs"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"experiences": "halves"}, "datasets: a chain goes with experiences: datasets, not with 'halves'"),
        ({"datasets": ["pets"]}, "experiences: datasets: expected a chain in datasets, as [[A, B, C]]"),
        ({"datasets": [["pets"]]}, "datasets: a chain has two datasets or more"),
        ({"datasets": [["pets", "pets"]]}, "datasets.0: 'pets' stands there twice"),
        ({"train_on": "pets"}, "train_on: the datasets of a chain are learned from their own images"),
        ({"datasets": ["pets"], "experiences": 2, "same_names": "together"}, "same_names: goes with a chain in datasets"),
    ],
)
def test_what_is_no_chain_is_refused(changes, told):
    facts = scenario().model_dump(mode="json") | changes

    with pytest.raises(UserError, match=re.escape(told)):
        validated(Scenario, facts, "s")


def test_two_datasets_of_one_name_and_images_beside_features_are_no_chain():
    with pytest.raises(UserError, match="'pets' is in the chain twice"):
        chain("pets", "pets")
    features = replace(single("toys"), test=Split(np.zeros((2, 8), np.float32), np.arange(2)), features="some")
    with pytest.raises(UserError, match="features of 8 numbers and images in one chain"):
        chained("both", [single("pets"), features])


def test_a_dataset_with_test_images_only_gives_70_of_100_of_each_class_to_learn_from():
    tested = single("toys", test=10)
    alone = replace(tested, train=Split(tested.test.images[:0], tested.test.labels[:0]))

    toys = chained("both", [single("pets"), alone]).chain[1]

    assert np.bincount(toys.train.labels).tolist() == [7, 7] and np.bincount(toys.test.labels).tolist() == [3, 3]
    assert "for training" in toys.notes[-1]


# --- methods


def planned(folder, method: str, **changes) -> Run:
    overrides = {method: {"head": {"M": 32}} if method == "ranpac" else {"training": toy.SMALL | LENGTHS.get(method, {})}}
    if method in ("zero-shot", "simplecil", "gda", "fecam", "tip-adapter"):
        overrides = {}
    overrides = {key: facts | toy.shallow(key) for key, facts in overrides.items()}
    measured = scenario(methods=[method], overrides=overrides, **changes)
    return Run(measured, measured.names[0], method, card_for(measured, method), 3, 1, folder)


LENGTHS = {"cliplora": {"epochs": None, "steps_per_shot": 1}, "moe": {"steps": None}}
FAMILIES = ("zero-shot", "kgcoop", "tcp", "maple", "lamm", "comma", "simplecil", "ranpac", "gda", "tip-adapter", "rapf",
            "taskres", "cliplora", "l2p")  # fmt: skip


def ran(folder, method: str, save_every: float = 30, **changes):
    prepared = prepare(planned(folder, method, **changes), tiny_clip(), chain("pets", "toys", "signs"), folder / "cache")
    return complete(prepared, lambda at: None, save_every=save_every)


@pytest.mark.parametrize("method", FAMILIES)
def test_every_family_of_methods_runs_on_a_chain(tmp_path, method):
    found = ran(tmp_path, method)

    assert found.dataset.experiences == (3, 2, 3) and found.dataset.chain == ChainFacts(("pets", "toys", "signs"), (3, 2, 3))
    whole = found.accuracy("all")
    assert np.isnan(whole[1, 1:]).all() if not found.model.scores_unseen else not np.isnan(whole).any()
    assert np.array_equal(whole[-1], found.accuracy("joint")[-1])  # at the end all classes are learned


@pytest.mark.parametrize("method", ["kgcoop", "ranpac"])
def test_a_chain_cut_off_goes_on_to_the_same_bytes(tmp_path, method):
    whole = ran(tmp_path / "whole", method)
    with toy.killed(2):
        ran(tmp_path / "cut", method, save_every=0)

    assert ran(tmp_path / "cut", method).facts() == whole.facts()


def test_each_class_is_told_in_the_template_of_its_own_dataset():
    clip, whole = tiny_clip(), chain("pets", "toys", "signs")
    measured = scenario()

    def texts(data: Dataset, template: str) -> torch.Tensor:
        cut = [range(len(data.classes))]
        model = build(card_for(measured, "zero-shot"), clip, list(data.classes), cut, template=template, dataset=data.name)
        return model.texts.encode(Prompts(), cut[0])

    together = texts(whole, each_with([part.template for part in whole.parts for _ in part.classes]))

    alone = torch.cat([texts(part, part.template) for part in whole.chain])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[1], together[3])  # the dogs of two datasets


# --- what is counted


class Played:
    """A strategy in a test: so much of a model as is asked for, and logits."""

    def __init__(self, learned: int, experience: int, y: list[int], answers: list[int], scores_unseen: bool = True):
        logits = torch.zeros(len(y), 5)
        for row, preferred in zip(logits, answers):
            row[preferred] = 2.0
            row[3] += 1.0  # whoever may not answer so says 3
        cut = [range(0, 3), range(3, 5)]
        self.model = type("Model", (), {"learned": learned, "experiences": cut, "scores_unseen": scores_unseen})
        self.experience = type("Experience", (), {"current_experience": experience, "samples": y})
        self.mb_y, self.mb_output = torch.tensor(y), logits


def counted(played: Played, **options) -> dict[str, Count]:
    recorder = Recorder(("own", "joint", "all"), **options)
    recorder.before_eval_exp(played)
    recorder.after_eval_iteration(played)
    recorder.after_eval_exp(played)
    return {count.label_space: count for count in recorder.counts}


def test_in_the_label_space_of_all_classes_those_still_to_come_compete_too():
    """After the first of two experiences: two images of class 1 and one of class 2 are answered 1, 4 and 2."""
    found = counted(Played(1, 0, y=[1, 1, 2], answers=[1, 4, 2]))

    assert {space: count.correct for space, count in found.items()} == {"own": 2, "joint": 2, "all": 2}
    assert counted(Played(1, 0, y=[1, 1], answers=[1, 3]))["all"].correct == 1
    later = counted(Played(1, 1, y=[3, 4], answers=[3, 4]))
    assert later["joint"].correct is None and later["all"].correct == 2
    unscored = counted(Played(1, 1, y=[3, 4], answers=[3, 4], scores_unseen=False))
    assert unscored["own"].correct is unscored["all"].correct is None


def test_classes_of_one_name_are_two_unless_the_scenario_says_that_they_are_one():
    """Class 1 is a dog among pets, class 3 one among toys."""
    dogs = Played(2, 0, y=[1, 1, 0], answers=[3, 1, 0])

    assert counted(dogs)["joint"].correct == 2
    assert counted(dogs, same=(0, 1, 2, 1, 3))["joint"].correct == 3
    together = split(scenario(same_names="together", datasets=[["pets", "toys"]]), chain("pets", "toys"), 3, 1)
    assert together.same == (0, 1, 2, 1, 3) and split(scenario(), chain("pets", "toys", "signs"), 3, 1).same == ()


def test_domains_of_the_same_classes_are_learned_one_after_another(tmp_path):
    """The same three classes from three datasets; guessing is right as often as with three classes."""
    parts = [replace(single("pets"), name=name, identity=name) for name in ("photos", "sketches", "paintings")]
    measured = scenario(same_names="together", datasets=[["photos", "sketches", "paintings"]])
    one = Run(measured, measured.names[0], "simplecil", card_for(measured, "simplecil"), 3, 1, tmp_path)

    found = complete(prepare(one, tiny_clip(), chained("domains", parts), tmp_path / "cache"), lambda at: None)

    assert found.dataset.chain.same == (0, 1, 2) * 3
    assert found.accuracy("joint")[3, 0] == found.accuracy("joint")[1, 0]  # the same images again: nobody takes them for others
    assert np.allclose(Guess(found.dataset).accuracy("joint")[3], 100 / 3)
    assert content_hash(measured) != content_hash(measured.model_copy(update={"same_names": "apart"}))


# --- numbers, by hand

R = np.array([[50.0, 40.0, 30.0], [90.0, 35.0, 20.0], [85.0, 80.0, 36.0], [70.0, 76.0, 88.0]])


def test_transfer_average_and_last_are_those_of_zscl():
    assert metrics.transfer(R)[1:] == pytest.approx([35, (20 + 36) / 2]) and np.isnan(metrics.transfer(R)[0])
    assert metrics.average(R) == pytest.approx([(90 + 85 + 70) / 3, (35 + 80 + 76) / 3, (20 + 36 + 88) / 3])
    assert metrics.last(R).tolist() == [70, 76, 88]


def in_a_chain(own, names=("pets", "toys", "signs"), **facts):
    one = record(own, dataset="+".join(names), datasets=[["pets", "toys", "signs"]], **facts)
    return replace(one, dataset=replace(one.dataset, chain=ChainFacts(tuple(names), (1, 1, 1)), named=" + ".join(names)))


def test_the_table_of_a_chain_has_a_block_for_each_measure_and_a_column_for_each_dataset(tmp_path):
    other = R + np.array([[0], [2], [4], [6]])
    results = write(tmp_path, [in_a_chain(R, seed=1), in_a_chain(other, seed=2)])

    (table,) = tables([results], "chain")

    assert [column.key for column in table.columns] == ["pets", "toys", "signs", "average"]
    rows = {line.labels[2].key: [n.mean for n in line.numbers] for line in table.lines if line.origin == "measured"}
    assert list(rows) == ["Transfer", "Average", "Last"]
    assert rows["Transfer"][1:] == pytest.approx([36, 29.5, (36 + 29.5) / 2]) and np.isnan(rows["Transfer"][0])
    assert rows["Last"] == pytest.approx([73, 79, 91, 81])
    assert {line.labels[1].key for line in table.lines} == {"own"}


def test_a_table_of_a_chain_needs_one(tmp_path):
    with pytest.raises(Unfit, match="chain: needs a chain of datasets, scored in the label space own or all"):
        tables([write(tmp_path, [record(R)])], "chain")


def test_a_chain_that_a_scenario_lists_is_not_missing(tmp_path):
    (runs,) = runs_in(write(tmp_path, [in_a_chain(R, seed=s, methods=["coop"]) for s in (1, 2, 3)]))

    assert runs.missing() == [] and runs.datasets == ("pets+toys+signs",)


# --- from end to end, on folders of images


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two folders of images, both with a class "dog", and a scenario that chains them."""
    folder = tmp_path_factory.mktemp("chain")
    for name, side in (("pets", 40), ("toys", 52)):
        for c, each in enumerate(NAMES[name]):
            for i in range(6):
                path = folder / name / each / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (side, side), (40 * c, 30 * i, side * 3)).save(path)
    (folder / "mine.yaml").write_text(
        "{name: mine, version: 1, backbone: {architecture: lamm-cl-mini, weights: embedded}, shots: 2, seeds: [1],\n"
        " datasets: [[./pets, ./toys]], experiences: datasets, methods: [zero-shot, simplecil], label_spaces: [own, all]}\n"
    )
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    return place


def test_a_chain_of_folders_is_run_verified_and_asked(here, capsys):
    done = lamm_cl.run("mine.yaml")

    assert [one.run.dataset for one in done] == ["pets+toys"] * 2 and len(lamm_cl.run("mine.yaml")) == 2
    assert done[0].dataset.named == "./pets + ./toys" and lamm_cl.table("results/mine", "chain").shape == (12, 3)
    settings = Settings(None, here / "cache", "cpu", jobs=1)
    assert verify.problems(here / "results/mine", doors.derived) == []
    one = verify.runs(here / "results/mine")["pets+toys/simplecil/shots2-seed1"]
    assert verify.recompute(one, settings, lambda event: None, doors.train) == ""
    answers = lamm_cl.predict("results/mine/runs/pets+toys/zero-shot/shots2-seed1", [here / "pets/dog/0.png"])
    assert set(answers[0]) == {"cat", "dog (pets)", "parrot", "dog (toys)", "ball"}
    stream = lamm_cl.stream("mine.yaml")
    assert stream.experiences == [range(0, 3), range(3, 5)] and stream.train_stream[1].dataset[0][0].shape[1:] == (52, 52)


def test_a_chain_is_checked_dataset_by_dataset_and_as_a_whole(here, capsys):
    status = main.main(["data", "check", "./pets + ./toys"])

    out = capsys.readouterr().out
    assert status == 0 and "ok       pets: 3 classes" in out
    assert "ok       pets+toys: a chain of 2 datasets: 5 classes, 25 train and 5 test images" in out
    assert "note     pets+toys: 1 class names are in several of the datasets, 'dog' in pets and toys" in out


def test_a_chain_whose_images_changed_is_told(here, tmp_path):
    (run,) = plan(load_scenario("mine.yaml"), tmp_path, methods=["simplecil"])
    lamm_cl.run("mine.yaml", methods=["simplecil"], results=tmp_path)
    changed = catalogue.load("./pets + ./toys", None, here / "cache")
    changed = chained(changed.name, [changed.chain[0], replace(changed.chain[1], identity="other")])

    with pytest.raises(UserError, match="images: as many as before, but others"):
        same.check([run], {run.folder: records_in(tmp_path / "mine")[0]}, lambda name: changed, here / "cache")


# --- what is shipped

SHIPPED = Path(__file__).parent.parent / "results/reference/demo-chain"
MTIL = ["FGVCAircraft", "Caltech101", "CIFAR-100", "DTD", "EuroSAT", "Flowers102", "Food101", "MNIST", "OxfordPets",
        "StanfordCars", "SUN397"]  # fmt: skip
SECOND = ["StanfordCars", "Food101", "MNIST", "OxfordPets", "Flowers102", "SUN397", "FGVCAircraft", "Caltech101", "DTD",
          "EuroSAT", "CIFAR-100"]  # fmt: skip


def test_the_papers_chains_are_read_from_miniatures_and_arrive_in_the_papers_orders(tmp_path):
    for name in MTIL:
        layouts.write(name, tmp_path)
    whole = catalogue.load(load_scenario("mtil-1").names[0], tmp_path, tmp_path / "cache")

    arrived = {name: [one for one, _ in arrival(load_scenario(name), whole).chain] for name in ("mtil-1", "mtil-2")}

    assert arrived == {"mtil-1": MTIL, "mtil-2": SECOND}
    assert load_scenario("xtail").names == (" + ".join(name for name in MTIL if name != "CIFAR-100"),)
    assert sum(catalogue.info(name).classes for name in MTIL if name != "CIFAR-100") == 1100  # X-TAIL's
    assert len({part.template for part in whole.parts}) == 8 and whole.train.images[0] != whole.train.images[-1]


def test_a_part_of_the_demo_chain_gives_the_shipped_accuracies(here):
    """Which datasets stand beside one decides nothing in its own label space before anything is learned."""
    shipped = lamm_cl.table(SHIPPED, "chain").xs(("own", "Last", "zero-shot"), level=(1, 2, 3))

    (done,) = lamm_cl.run("demo-chain", datasets=["digits+species"], methods=["zero-shot"], seeds=[1], results="part")

    assert done.dataset.chain == ChainFacts(("digits", "species"), (10, 20))
    assert done.accuracy("own")[-1].tolist() == pytest.approx(shipped[["digits", "species"]].iloc[0].tolist())
