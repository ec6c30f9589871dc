"""Methods from outside the package: one file and one card each, through the stream, killed in the middle and continued."""

import shutil
from pathlib import Path

import manual
import pytest
import torch
import toy
import yaml

from lamm_cl.cli import main
from lamm_cl.config.cards import load_card, load_scenario, with_card
from lamm_cl.config.identity import content_hash
from lamm_cl.config.schema import Card
from lamm_cl.errors import UserError
from lamm_cl.sweeping import code
from lamm_cl.sweeping.plan import Run
from lamm_cl.training.run import complete

ABOUT = {"paper": "none", "trainable": "0", "provenance": dict.fromkeys(("head", "loss", "tower", "training", "context"), "x")}
SGD = toy.SMALL | {"epochs": 3, "optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0, "schedule": "cosine"}

HEAD = '''
import torch
from lamm_cl.learner.pieces import Head


class Means(Head):
    """Class means that learn a scale."""

    reads_text, scores_unseen = False, False

    def __init__(self, clip, *, names: list[str], start: float = 10.0):
        super().__init__()
        self.register_buffer("means", torch.zeros(len(names), clip.D))
        self.scale = torch.nn.Parameter(torch.tensor(start))

    def observe(self, e, frozen):
        for c in e.classes:
            self.means[c] = frozen.unit[frozen.y == c].mean(0)

    def forward(self, out):
        return self.scale * out.image @ self.means[out.classes.start : out.classes.stop].T
'''
TOWER = '''
import torch
from lamm_cl.learner.pieces import Tower
from shift_beside import SIZE


class Shift(Tower):
    """A learned vector added beside the MLP of every block of the image tower."""

    def __init__(self, clip):
        super().__init__()
        blocks, w = clip.shape("image")
        self.v = torch.nn.ParameterList(SIZE * torch.randn(w) for _ in range(blocks))

    def beside(self, where, x, first):
        return self.v[where.block].expand_as(x) if where.tower == "image" else None
'''


@pytest.fixture
def cards(tmp_path):
    """Three methods in a folder of one's own -> the paths of their cards."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "kgcoop.py").write_text(manual.titled("docs/own-method.md", "kgcoop.py"))
    (folder / "means.py").write_text(HEAD)
    (folder / "shift.py").write_text(TOWER)
    (folder / "shift_beside.py").write_text("SIZE = 0.02\n")
    pieces = {
        "knowledge": {"context": {"use": "coop.CoOp", "n": 4, "init": "a photo of a"},
                      "loss": {"use": "./kgcoop.py:Knowledge", "weight": 8.0}},
        "scaled-means": {"head": {"use": "./means.py:Means", "start": 5.0}},
        "shift": {"tower": {"use": "./shift.py:Shift"}},
    }  # fmt: skip
    for key, facts in pieces.items():
        (folder / f"{key}.yaml").write_text(yaml.safe_dump({"name": key, "training": SGD} | ABOUT | facts))
    return {key: folder / f"{key}.yaml" for key in pieces}


def run(card: Card, folder: Path, save_every: float = 30):
    measured = toy.scenario(train_label_space="experience")
    one = Run(measured, "toy", card.key, card, 4, 1, folder)
    return complete(toy.prepared(one, folder.parent / "cache"), lambda at: None, save_every=save_every)


@pytest.mark.parametrize("method", ["knowledge", "scaled-means", "shift"])
def test_a_loss_a_head_and_a_tower_from_ones_own_files_run_and_continue_after_a_kill(cards, tmp_path, method):
    card = load_card(cards[method])
    whole = run(card, tmp_path / "whole")
    with toy.killed(5) as saved:
        run(card, tmp_path / "cut", save_every=0)
    _, _, state = saved[-1]
    assert state.experience == 1  # in the middle of the second experience

    again = run(card, tmp_path / "cut")

    assert again.facts() == whole.facts()
    assert sum(whole.model.trainable) > 0


def test_where_the_file_lies_decides_nothing_and_what_it_says_does(cards, tmp_path):
    card = load_card(cards["scaled-means"])
    moved = Path(shutil.copytree(cards["scaled-means"].parent, tmp_path / "elsewhere")) / "scaled-means.yaml"
    assert content_hash(load_card(moved)) == content_hash(card)
    assert code.of_methods(load_card(moved)) == code.of_methods(card)

    (moved.parent / "means.py").write_text(HEAD.replace("mean(0)", "sum(0)"))
    code.of_file.cache_clear()
    code._parsed.cache_clear()
    changed = code.of_methods(load_card(moved))
    assert changed.keys() == code.of_methods(card).keys() == {"methods/own/means.py"}
    assert changed != code.of_methods(card)


def test_a_scenario_names_them_by_their_cards_and_they_are_checked_before_the_first_run(cards, tmp_path, capsys):
    scenario, key = with_card(load_scenario("demo"), cards["scaled-means"])
    assert key == "scaled-means" and scenario.overrides[key]["head"]["use"].endswith("/mine/means.py:Means")

    card = yaml.safe_load(cards["scaled-means"].read_text()) | {"head": {"use": "./means.py:Means", "strat": 5.0}}
    cards["scaled-means"].write_text(yaml.safe_dump(card))
    words = ["run", "demo", "--dataset", "digits", "--method", str(cards["scaled-means"]), "--results", str(tmp_path / "r")]
    assert main.main([*words, "--cache", str(tmp_path / "cache")]) == 2
    assert "has no option 'strat'; did you mean 'start'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("use", "told"),
    [
        ("./maens.py:Means", "no file"),
        ("./means.py:Maens", "does not exist; did you mean 'Means'?"),
        ("no.such.module:Means", "no module 'no.such.module'"),
    ],
)
def test_what_is_not_there_is_told_with_the_nearest_name(cards, tmp_path, use, told):
    card = yaml.safe_load(cards["scaled-means"].read_text()) | {"head": {"use": use}}
    cards["scaled-means"].write_text(yaml.safe_dump(card))

    with pytest.raises(UserError) as caught:
        run(load_card(cards["scaled-means"]), tmp_path / "run")

    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_an_installed_module_is_named_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "heads.py").write_text(HEAD)
    monkeypatch.syspath_prepend(tmp_path)
    card = Card(key="means", name="means", head={"use": "mypackage.heads:Means"}, training=SGD, **ABOUT)

    record = run(card, tmp_path / "run")

    assert torch.tensor([count.correct for count in record.counts if count.correct is not None]).sum() > 0
