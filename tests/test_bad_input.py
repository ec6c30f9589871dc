"""Rubbish in: one line out, status 2, nothing written. LAMM_CL_CASES=1000 tries harder.

Runs are real up to the model: the scenario's stream is split and the card's model is built, on a tiny generated CLIP.
Hostile split files and archives: tests/test_data.py and test_data_layouts.py;
hostile names in tables: tests/test_report.py and test_page.py.
"""

import contextlib
import copy
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import toy
import yaml
from generated import tiny_clip
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lamm_cl.cli import doors, dry_run, main
from lamm_cl.config.cards import card_names, load_card, resolve
from lamm_cl.data import catalogue
from lamm_cl.errors import UserError
from lamm_cl.learner.build import build
from lamm_cl.results.csv import write_records_csv
from lamm_cl.training import stream

CASES = int(os.environ.get("LAMM_CL_CASES", 80))
cases = settings(max_examples=CASES, deadline=None, derandomize=CASES == 80, suppress_health_check=list(HealthCheck))
TOP = Path(__file__).parent.parent


# --- mutations --------------------------------------------------------------------------------------------------------


def nested(depth: int, last: object = 1) -> object:
    for _ in range(depth):
        last = [last]
    return last


WHOLE = [0, -1, 1, 2, 3, 10**9, 10**12, -(10**18), 2**63, 10**40]
numbers = st.sampled_from([*WHOLE, 0.5, -0.0, 1e-300, 1e308, float("nan"), float("inf")])
WORDS = ["", " ", "..", "../x", "/", "~", "null", "yes", "1e3", "coop", "lamm.Learned", "os.System", "full", "{}", "{0}"]
texts = st.one_of(st.sampled_from([*WORDS, "\x00", "\x1b[2J", "a" * 10_000]), st.text(max_size=20))
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
rubbish = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(texts, scalars, max_size=3),
    st.sampled_from([nested(5), nested(15), nested(200), [], {}, {"use": "coop.CoOp"}, {"seed": -1}, {"extends": "coop"}]),
).map(copy.deepcopy)


def places(facts: object, path: tuple = ()) -> list[tuple]:
    inside = facts.items() if isinstance(facts, dict) else enumerate(facts) if isinstance(facts, list) else ()
    return ([path] if path else []) + [place for key, value in inside for place in places(value, (*path, key))]


@st.composite
def mutant(draw, facts: dict) -> str:
    """YAML of the facts with one to three of them replaced, removed, renamed or added."""
    facts = copy.deepcopy(facts)
    for _ in range(draw(st.integers(1, 3))):
        *path, key = draw(st.sampled_from(places(facts)))
        inside = facts
        for step in path:
            inside = inside[step]
        change = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "rename"]))
        if change == "replace":
            inside[key] = draw(rubbish)
        elif change == "add":
            facts[draw(texts)] = draw(rubbish)
        else:
            value = inside.pop(key)
            if change == "rename" and isinstance(inside, dict):
                inside[f"{key}s"] = value
        if not facts:
            break
    return yaml.safe_dump(facts, allow_unicode=True, sort_keys=False)


SYNTAX = [b"&a ", b"*a", b"!!python/object:os.system ", b"<<: ", b"\t", b"- " * 50, b"[" * 500, b"\xff\xfe", b"---\n", b'"']


@st.composite
def damaged(draw, text: str) -> bytes:
    """The bytes of a file with some overwritten, inserted or cut off."""
    content = bytearray(text.encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        piece = draw(st.one_of(st.binary(max_size=4), st.sampled_from(SYNTAX)))
        content[at : at + draw(st.sampled_from([0, 1, len(piece), 10_000]))] = piece
    return bytes(content)


# --- what happens -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to work in; runs stop where training would begin."""
    folder = tmp_path_factory.mktemp("rubbish")
    digits = catalogue.load("digits", None, folder / "cache")

    def prepare(run, settings, progress):
        parts = stream.split(run.scenario, digits, run.shots, run.seed)
        build(run.card, tiny_clip(), parts.names, parts.experiences, train_label_space=run.scenario.train_label_space)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doors, "train", prepare)
        patch.setattr(doors, "publish", lambda *_: None)  # there is no record
        patch.setattr(main.run, "_derive", lambda *_: 0)
        patch.setattr(dry_run, "_print_estimate", lambda *_: None)
        patch.setattr(catalogue, "load", lambda *_: digits)
        yield folder


def called(*words: object) -> tuple[int, str]:
    """-> exit status, what was said on stderr. Any exception is a failure of the test."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main.main([str(word) for word in words])
    return status, err.getvalue()


def assert_told(status: int, said: str, results: Path) -> None:
    """Fine, or one line and nothing written."""
    assert status in (0, 2), said
    if status == 2:
        assert said.startswith("lamm-cl: ") and said.count("\n") == 1 and len(said) < 12_000, said
        assert "Traceback" not in said and said[:-1].isprintable(), said
        assert not results.exists()
    assert not [path for path in results.rglob(".*")]


def assert_run_tells(place: Path, *words: object) -> None:
    results = place / "results"
    for more in (["--dry-run"], ["--dataset", "digits", "--seed", 1]):
        status, said = called("run", *words, *more, "--results", results, "--cache", place / "cache")
        assert_told(status, said, results)
        shutil.rmtree(results, ignore_errors=True)
        if status == 2:
            return


SCENARIO = yaml.safe_load((TOP / "scenarios/demo.yaml").read_text()) | {"methods": ["coop"], "experiences": [2, 3, 5]}
CARDS = {key: yaml.safe_load((TOP / f"baselines/{key}.yaml").read_text()) for key in ("coop", "maple+lamm", "comma")}


@cases
@given(text=mutant(SCENARIO))
@example(text="")
@example(text="name: &a [*a]")
def test_a_mutated_scenario_is_run_or_told_in_one_line(place, text):
    (place / "mine.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))

    assert_run_tells(place, place / "mine.yaml", "--method", "coop")


@cases
@given(text=st.sampled_from(sorted(CARDS)).flatmap(lambda key: mutant(CARDS[key])))
def test_a_mutated_card_is_run_or_told_in_one_line(place, text):
    (place / "card.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))

    assert_run_tells(place, "demo", "--method", place / "card.yaml")
    assert_told(*called("show", place / "card.yaml"), place / "results")


@cases
@given(content=st.one_of(st.binary(max_size=50), damaged((TOP / "scenarios/demo.yaml").read_text())))
def test_a_scenario_file_of_damaged_bytes_is_run_or_told_in_one_line(place, content):
    (place / "bytes.yaml").write_bytes(content)

    assert_run_tells(place, place / "bytes.yaml", "--method", "coop")


OPTIONS = {  # of every piece once
    (piece.use, option): (key, part, option)
    for key in card_names()
    for part in ("context", "labels", "loss", "head", "tower", "memory")
    if (piece := getattr(load_card(key), part))
    for option in piece.options
}


@pytest.mark.parametrize(("key", "part", "option"), OPTIONS.values(), ids=map(" ".join, OPTIONS))
def test_no_value_of_an_option_is_a_defect_of_ours(key, part, option):
    """Each either makes a model or is told in one line."""
    card = resolve(load_card(key), toy.shallow(key))
    lists = [[], {}, [1e9], ["a"], ["{}"], ["{x}"], ["{0}"], ["{} }"]]
    for value in [*WHOLE, *WORDS, *lists, -1e300, 1e308, "{", "%s\x00", "x" * 10_000, None, True]:
        try:
            changed = resolve(card, {part: {option: value}})
            build(changed, tiny_clip(), list(toy.CLASSES), [range(0, 4), range(4, 7)], shots=4)
        except UserError as error:
            assert str(error).isprintable()


# --- damaged results --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A results folder with one finished toy run -> the folder, and the bytes of record.json."""
    results = tmp_path_factory.mktemp("damaged") / "toy"
    toy.run(results, "coop", folder="runs/toy/coop/shots4-seed1")
    write_records_csv(results)
    return results, (results / "runs/toy/coop/shots4-seed1/record.json").read_bytes()


json_rubbish = st.one_of(
    rubbish,
    st.sampled_from([list(range(5)), [[1, 2]], {"trained": 1}, [None], {"training": {"epochs": -1}}, nested(900)]),
).map(copy.deepcopy)


@st.composite
def record_of(draw, whole: bytes) -> bytes:
    """record.json with facts replaced or removed, or with damaged bytes."""
    if draw(st.booleans()):
        return draw(damaged(whole.decode()))
    facts = json.loads(whole)
    del facts["sha256"]  # or it would be refused for that alone
    for _ in range(draw(st.integers(1, 3))):
        *path, key = draw(st.sampled_from(places(facts)))
        inside = facts
        for step in path:
            inside = inside[step]
        if draw(st.booleans()):
            inside[key] = draw(json_rubbish)
        else:
            inside.pop(key)
        if not facts:
            break
    return json.dumps(facts).encode()


@cases
@given(draw=st.data())
def test_a_damaged_record_is_read_or_told_in_one_line_and_nothing_is_written(finished, draw):
    results, whole = finished
    path = results / "runs/toy/coop/shots4-seed1/record.json"
    content = draw.draw(record_of(whole))
    path.write_bytes(content)
    before = sorted(results.rglob("*"))

    with tempfile.TemporaryDirectory() as drawn:
        commands = [["compare", results, results], ["plot", results, "--output", drawn], ["verify", results, "--recompute", 0],
                    ["report", results, "--output", f"{drawn}/page.html"]]  # fmt: skip
        others = commands if CASES > 80 else [draw.draw(st.sampled_from(commands))]  # they read the record as a table does
        told_of_all([["table", results, "--format", "md"], *others])
        assert not [path for path in Path(drawn).rglob("*") if path.name.startswith(".")]
    assert sorted(results.rglob("*")) == before and path.read_bytes() == content


def told_of_all(commands):
    for words in commands:
        status, said = called(*words)
        assert status in ((0, 1, 2) if words[0] == "verify" else (0, 2)), said
        assert said.count("\n") == (status == 2) and "Traceback" not in said and said.strip("\n").isprintable(), said


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"format": ' + b"9" * 5000 + b"}", b'{"run": NaN}', b"\xff", b""])
def test_a_record_that_attacks_its_reader_is_told_in_one_line(tmp_path, content):
    path = tmp_path / "runs/toy/coop/shots4-seed1/record.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)

    status, said = called("table", tmp_path)

    assert (status, said.count("\n")) == (2, 1) and "record.json" in said
