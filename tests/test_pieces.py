"""The options of pieces are checked before anything is built, without torch, in the words of who builds."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from generated import tiny_clip

from lamm_cl.config import pieces
from lamm_cl.config.cards import card_names, load_card
from lamm_cl.errors import UserError
from lamm_cl.learner import build

NAMES = ["red", "golden retriever", "blue", "black"]
GIVEN = dict(clip=tiny_clip(), names=NAMES, template="a photo of a {}.", dataset="", shots=4, experiences=[range(2), range(2, 4)])
METHODS = sorted(Path(build.__file__).parents[1].glob("methods/[a-z]*.py"))


def changed(key: str, field: str, **options):
    """The card with another piece; an option that is None is left out."""
    facts = load_card(key).model_dump(mode="json")[field] | options
    card = load_card(key)
    piece = type(card.context)(**{name: value for name, value in facts.items() if value is not ...})
    return card.model_copy(update={field: piece})


BROKEN = [
    changed("lamm", "loss", logitt=0),
    changed("lamm", "loss", logit="much"),
    changed("lamm", "loss", logit=-1),
    changed("lamm", "loss", per="shot"),
    changed("lamm", "loss", temperature=...),
    changed("lamm", "loss", use="lamm.Alignement"),
    changed("lamm", "loss", use="lam.Alignment"),
    changed("lamm", "labels", tokens="shortst"),
    changed("maple", "context", depht=3),
    changed("maple", "context", depth=...),
    changed("maple", "context", n="2"),
    changed("maple", "context", n=0),
    changed("maple", "context", init=3),
    changed("zero-shot", "context", templates=["a {}."]),
    changed("zero-shot-7", "context", templates=7),
    changed("coop-16-csc", "context", position="left"),
    changed("cocoop", "context", squeeze=0),
    changed("comma-released", "loss", instead={"DTD": 1}),
    changed("coop", "context", clip="another"),
]


def told(call, *arguments) -> str:
    with pytest.raises(UserError) as refused:
        call(*arguments)
    return str(refused.value)


@pytest.mark.parametrize("card", BROKEN, ids=range(len(BROKEN)))
def test_a_wrong_option_is_told_in_the_words_of_who_builds(card):
    def made():
        [field] = (field for field in build.FIELDS if getattr(card, field) != getattr(load_card(card.key), field))
        build.piece(card, field, GIVEN)

    assert told(pieces.check, card) == told(made)


def test_a_mistyped_option_is_told_with_the_nearest_name():
    assert told(pieces.check, BROKEN[0]) == "lamm: loss: lamm.Alignment has no option 'logitt'; did you mean 'logit'?"


@pytest.mark.parametrize("key", card_names())
def test_every_shipped_card_passes(key):
    pieces.check(load_card(key))


def test_what_is_handed_to_a_piece_is_no_option_of_its(monkeypatch):
    seen = {}
    monkeypatch.setattr(build, "piece", lambda card, field, given, *entry: seen.update(given))

    build.build(load_card("zero-shot"), tiny_clip(), NAMES, GIVEN["experiences"])

    assert set(seen) == pieces.GIVEN


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_every_annotation_of_a_piece_is_understood(path):
    """Else a wrong value would be found when its turn comes only."""
    for node in ast.parse(path.read_text()).body:
        use = f"{path.stem}.{getattr(node, 'name', '')}"
        if isinstance(node, ast.ClassDef) and pieces._is_piece(f"lamm_cl.methods.{path.stem}", node.name):
            module, parameters = pieces._parameters(pieces._find(use, use))
            for name, (annotation, _) in parameters.items():
                if name not in pieces.GIVEN and not node.name.startswith("Correlate"):
                    pieces._kind(module, annotation)


def test_an_override_of_a_scenario_is_checked_by_a_dry_run_without_torch(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "name: s\nversion: 1\nbackbone: {architecture: lamm-cl-mini, weights: embedded}\ndatasets: [digits]\n"
        "experiences: halves\nshots: 1\nseeds: [1]\nmethods: [lamm]\noverrides: {lamm: {loss: {logitt: 0}}}\n"
    )
    words = ["run", str(tmp_path / "s.yaml"), "--dry-run"]
    code = f"import sys; from lamm_cl.cli.main import main; print(main({words}), 'torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)

    assert done.stdout.split() == ["2", "False"]
    assert done.stderr == "lamm-cl: lamm: loss: lamm.Alignment has no option 'logitt'; did you mean 'logit'?\n"
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]
