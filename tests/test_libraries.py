"""Methods, scenarios and datasets from outside the package: folders by --library, installed packages by their entry point."""

from pathlib import Path

import pytest
import yaml
from layouts import picture
from test_outside import ABOUT, HEAD, SGD

import lamm_cl
from lamm_cl.cli import main
from lamm_cl.config.cards import card_for, load_card, load_scenario
from lamm_cl.config.identity import content_hash
from lamm_cl.config.libraries import Library, opened
from lamm_cl.errors import UserError
from lamm_cl.results.predictions import are_there
from lamm_cl.sweeping import code

CARD: dict = {"name": "Means", "head": {"use": "./means.py:Means", "start": 5.0}, "training": SGD | {"epochs": 1}} | ABOUT
SCENARIO = {"name": "ours", "version": 1, "backbone": {"architecture": "lamm-cl-mini", "weights": "embedded"},
            "datasets": ["shapes"], "experiences": 2, "shots": 2, "seeds": [1], "methods": ["means", "zero-shot"],
            "overrides": {"slow": {"extends": "means", "training": {"lr": 0.5}}}}  # fmt: skip


def filled(folder: Path, card: dict = CARD) -> Path:
    """A library with a method, a scenario and a dataset."""
    for name in ("baselines", "scenarios"):
        (folder / name).mkdir(parents=True)
    (folder / "baselines/means.py").write_text(HEAD)
    (folder / "baselines/means.yaml").write_text(yaml.safe_dump(card))
    (folder / "scenarios/ours.yaml").write_text(yaml.safe_dump(SCENARIO))
    for i, name in enumerate(("circle", "square", "star", "cross")):
        for part, n in (("train", 3), ("test", 2)):
            for k in range(n):
                picture(folder / f"datasets/shapes/{part}/{name}/{k}.png", (12 + i, 10 + k))
    return folder


@pytest.fixture
def library(tmp_path):
    return filled(tmp_path / "ours")


def told(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_its_names_stand_for_a_method_a_scenario_and_a_dataset_in_every_command(library, tmp_path, capsys):
    def said(*words: str) -> str:
        assert main.main([*words, "--library", str(library)]) == 0
        return capsys.readouterr().out

    assert " means " in said("list", "methods") and " ours " in said("list", "scenarios")
    assert " shapes " in said("list", "datasets") and " shapes " in said("data", "list")
    assert f"{library}/baselines/means.py:Means" in said("show", "means")
    assert "4 classes, 12 train and 8 test images" in said("data", "check", "shapes", "--cache", str(tmp_path / "cache"))
    assert "shapes/means/shots2-seed1" in said("plan", "ours", "--results", str(tmp_path / "r")).splitlines()
    plan = said("plan", "demo", "--method", "means", "--dataset", "shapes", "--results", str(tmp_path / "r"))
    assert plan.splitlines() == [f"shapes/means/shots16-seed{seed}" for seed in (1, 2, 3)]


def test_a_run_by_names_alone_leaves_a_record_with_the_code_s_hash_that_needs_no_library(library, tmp_path, capsys):
    where = {"results": tmp_path / "results", "cache": tmp_path / "cache", "device": "cpu"}
    record, _ = lamm_cl.run("ours", library=library, predictions=True, **where)

    assert (record.run.dataset, record.run.method) == ("shapes", "means")
    assert record.code["methods/own/means.py"] == code.of_file(str(library / "baselines/means.py"))
    assert are_there(tmp_path / "results/ours/runs/shapes/means/shots2-seed1")
    assert main.main(["table", str(tmp_path / "results/ours"), "--format", "csv"]) == 0
    assert "means,1," in capsys.readouterr().out
    again = load_scenario(tmp_path / "results/ours/scenario.yaml")  # as resolved
    assert card_for(again, "means") == card_for(load_scenario("ours", Library((library,))), "means")


def test_where_a_library_lies_decides_nothing(library, tmp_path):
    one, other = (load_scenario("ours", Library((each,))) for each in (library, filled(tmp_path / "moved")))

    assert content_hash(one) == content_hash(other)
    assert content_hash(card_for(one, "means")) == content_hash(card_for(other, "means"))


def test_a_variant_extends_a_card_of_the_library_and_a_card_extends_another(library):
    (library / "wide.yaml").write_text("extends: means\nname: Wide\nhead: {start: 7.0}\n")
    opened = Library((library,))

    assert card_for(load_scenario("ours", opened), "slow").training.lr == 0.5
    assert load_card("wide", opened).head.options == {"start": 7.0}


def test_yaml_files_beside_the_folders_are_told_apart_by_what_they_say(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: coop\nname: Mine\n")
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(SCENARIO | {"methods": ["mine"], "datasets": ["digits"], "overrides": {}}))
    opened = Library((tmp_path,))

    assert list(opened.cards) == ["mine"] and list(opened.scenarios) == ["both"]
    assert card_for(load_scenario("both", opened), "mine").name == "Mine"


def test_a_name_that_is_shipped_or_is_there_twice_is_refused(library, tmp_path):
    (library / "baselines/coop.yaml").write_text("extends: lamm\n")
    assert told(load_card, "coop", Library((library,))) == (
        f"{library}/baselines/coop.yaml: baselines/coop.yaml is shipped under the same name; rename the file")  # fmt: skip
    other = filled(tmp_path / "other")
    assert "'means' is there twice" in told(load_card, "means", Library((library, other)))
    assert told(load_card, "maens", Library((library,))).startswith("no method card 'maens'; did you mean 'means'?")
    assert "no such folder" in told(load_card, "coop", Library((tmp_path / "none",)))


def test_an_installed_package_brings_a_library_by_its_entry_point(tmp_path, monkeypatch):
    package = filled(tmp_path / "ourpackage", CARD | {"head": {"use": "ourpackage.baselines.means:Means", "start": 5.0}})
    for folder in (package, package / "baselines"):
        (folder / "__init__.py").write_text("")
    facts = tmp_path / "ourpackage-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: ourpackage\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[lamm_cl.library]\nours = ourpackage\n")
    monkeypatch.syspath_prepend(tmp_path)

    found = opened([])

    assert package in found.folders and load_scenario("ours", found).methods == ("means", "zero-shot")
    assert code.of_methods(load_card("means", found)).keys() == {"methods/own/means.py"}


def test_what_a_file_of_one_s_own_imports_from_beside_it_is_in_the_hash(library):
    baselines = library / "baselines"
    (baselines / "means.py").write_text("import sizes\nfrom json import dumps\n" + HEAD)
    (baselines / "sizes.py").write_text("SIZE = 1\n")
    card = load_card("means", Library((library,)))

    assert code.of_methods(card).keys() == {"methods/own/means.py", "methods/own/sizes.py"}
