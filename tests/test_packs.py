"""Packs: finished runs in one file, read like the folder they came from, safe to read and unpack whoever sends them; and
what is shipped or counted is not overwritten.
"""

import contextlib
import csv
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import toy
from test_verify import METHODS, RUN, settings

from lamm_cl.cli import doors, main
from lamm_cl.errors import UserError
from lamm_cl.reports.derived import derived_files, write_tables
from lamm_cl.results import pack as pack_module
from lamm_cl.results.pack import HEAD, read_pack
from lamm_cl.results.runs import records_in
from lamm_cl.results.stored import pack, unpack
from lamm_cl.sweeping import verify
from lamm_cl.sweeping.execute import execute
from lamm_cl.sweeping.plan import plan
from lamm_cl.sweeping.publish import check_kept

TOP = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The results of two toy runs, and their pack with tensors."""
    folder = tmp_path_factory.mktemp("packed")
    runs = plan(toy.scenario(methods=METHODS), folder)
    assert execute(runs, settings(folder), lambda event: None, train=toy.train, publish=doors.publish) == []
    write_tables(folder / "toy")
    (folder / "toy.pack").write_bytes(pack(folder / "toy", with_tensors=True))
    return folder


@pytest.fixture
def results(finished, tmp_path):
    shutil.copytree(finished / "toy", tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture
def reference(finished, tmp_path):
    """The same as it is shipped: a pack, records.csv, tables, no runs."""
    shutil.copytree(finished / "toy", tmp_path / "reference/toy", ignore=shutil.ignore_patterns("runs"))
    (tmp_path / "reference/toy/records.pack").write_bytes(pack(finished / "toy", with_tensors=False))
    return tmp_path / "reference/toy"


def called(*words: object) -> tuple[int, str]:
    """-> exit status, what was said. Any exception is a failure of the test."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = main.main([str(word) for word in words])
    return status, out.getvalue()


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- read like the folder --------------------------------------------------------------------------------------------


def test_a_pack_holds_the_same_records_as_the_folder_and_the_same_records_give_the_same_bytes(finished, reference):
    whole = finished / "toy.pack"

    assert records_in(whole) == records_in(reference) == records_in(finished / "toy")
    assert pack(finished / "toy", with_tensors=True) == whole.read_bytes()
    assert pack(reference, with_tensors=False) == (reference / "records.pack").read_bytes()
    assert len(gzip.decompress(whole.read_bytes()).splitlines()) == 2 + 2 * len(METHODS)


def test_a_pack_whose_stream_ends_inside_a_block_is_read(reference, monkeypatch):
    """The decompressor then repeats what follows the stream: a pack of 57 runs was called damaged."""
    whole = [run.text for run in read_pack(reference / "records.pack").runs]
    for size in (61, 997, 4096):
        monkeypatch.setattr(pack_module, "BLOCK", size)
        assert [run.text for run in read_pack(reference / "records.pack").runs] == whole


@pytest.mark.parametrize(
    "words",
    [
        *(["table", "RESULTS", "--kind", kind, "--format", "csv"] for kind in ("degradation", "incremental", "cost")),
        *(["table", "RESULTS", "--format", form] for form in ("terminal", "md", "tex", "html")),
        ["compare", "RESULTS", "--format", "md"],
        ["compare", "RESULTS", "RESULTS"],
    ],
    ids=" ".join,
)
def test_what_is_printed_of_a_pack_is_what_is_printed_of_the_folder(finished, reference, words):
    told = [
        called(*(path if word == "RESULTS" else word for word in words))
        for path in (finished / "toy", reference, reference / "records.pack")
    ]

    assert told[0][0] == 0 and len(told[0][1]) > 50
    assert told[1] == told[2] == told[0]


def test_figures_tables_and_the_page_of_a_pack_have_the_bytes_of_the_folders(finished, reference, tmp_path):
    made = []
    for i, path in enumerate((finished / "toy", reference, reference / "records.pack")):
        out = tmp_path / f"out{i}"
        assert called("plot", path, "--kind", "forgetting", "--output", out / "figures")[0] == 0
        assert called("table", path, "--write", "--output", out / "tables")[0] == 0
        assert called("report", path, "-o", out / "page.html")[0] == 0
        made.append(bytes_below(out))

    assert made[1] == made[2] == made[0]
    assert {"figures/forgetting_curves.png", "tables/degradation.md", "page.html"} <= set(made[0])


def test_a_pack_unpacked_is_the_folder_again_to_the_byte(finished, tmp_path):
    status, said = called("unpack", finished / "toy.pack", "-o", tmp_path / "again")

    assert (status, said) == (0, f"wrote {tmp_path / 'again'}: 2 runs\n")
    assert bytes_below(tmp_path / "again") == bytes_below(finished / "toy")
    assert (tmp_path / "again").stat().st_mode & 0o777 == 0o755


def test_runs_beside_a_pack_are_what_is_read(results):
    (results / "records.pack").write_bytes(pack(results, with_tensors=False))
    shutil.rmtree(results / "runs/toy/lamm")

    assert [record.run.method for record in records_in(results)] == ["coop"]


# --- verify ----------------------------------------------------------------------------------------------------------


def test_verify_checks_a_pack_and_repeats_a_run_of_it(finished, reference):
    for path in (reference, reference / "records.pack", finished / "toy.pack"):
        assert verify.problems(path, derived_files) == []
        one = verify.runs(path)[RUN]
        assert verify.recompute(one, settings(finished), lambda event: None, toy.train) == ""


def test_verify_says_what_was_checked(finished, reference):
    told = [called("verify", path, "--recompute", 0) for path in (finished / "toy", reference, finished / "toy.pack")]

    assert told == [
        (0, "2 runs: every file is whole, tables follow from the records\n"),
        (0, "2 runs: every record of the pack is whole, tables follow from the records; learned tensors are not in it: "
            "only a run done again shows theirs\n"),
        (0, "2 runs: every record of the pack is whole, a pack alone, without tables\n"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["records.csv", "tables/degradation.csv", "scenario.yaml"])
def test_what_does_not_follow_from_a_pack_is_named(reference, name):
    (reference / name).write_bytes((reference / name).read_bytes().replace(b"1", b"2", 1))

    assert verify.problems(reference, derived_files) == [f"{reference / name}: does not follow from the records"]


def test_a_record_changed_before_it_was_packed_is_found_in_a_pack_with_a_seal_of_its_own(finished, tmp_path):
    lines = lines_of(finished / "toy.pack")
    lines[1] = lines[1].replace(b'"lr": 0.002', b'"lr": 0.02')
    (tmp_path / "x.pack").write_bytes(packed_lines(lines))

    [problem] = verify.problems(tmp_path / "x.pack", derived_files)
    assert problem == f"{tmp_path / 'x.pack'}: line 2: was changed since it was written (its sha256 is another)"


def test_tensors_changed_in_a_pack_with_a_seal_of_its_own_are_found(finished, tmp_path):
    lines = lines_of(finished / "toy.pack")
    lines[2] = re.sub(rb"AAAA", b"AAAB", lines[2], count=1)
    (tmp_path / "x.pack").write_bytes(packed_lines(lines))

    problem = f"{tmp_path / 'x.pack'}: line 2, learned.safetensors: its bytes are not those that record.json was written with"
    assert verify.problems(tmp_path / "x.pack", derived_files) == [problem]
    with pytest.raises(UserError, match="its bytes are not those"):
        unpack(tmp_path / "x.pack", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- damaged and hostile ---------------------------------------------------------------------------------------------


def lines_of(path: Path) -> list[bytes]:
    """The lines of a pack without its seal."""
    return gzip.decompress(path.read_bytes()).splitlines()[:-1]


def packed_lines(lines: list[bytes], seal: bool = True) -> bytes:
    """A pack of any lines, with a seal that fits."""
    text = b"".join(line + b"\n" for line in lines)
    text += b'{"sha256": "%b"}\n' % hashlib.sha256(text).hexdigest().encode() if seal else b""
    compress = zlib.compressobj(9, zlib.DEFLATED, -15)
    end = zlib.crc32(text).to_bytes(4, "little") + (len(text) % 2**32).to_bytes(4, "little")
    return HEAD + compress.compress(text) + compress.flush() + end


def told_of(path: Path) -> str:
    """What reading commands say of a pack that cannot be read: the same, in one line."""
    with pytest.raises(UserError) as error:
        read_pack(path)
    told = {called(*words) for words in (["table", path], ["verify", path], ["unpack", path, "-o", path.parent / "out"])}
    assert told == {(2, f"lamm-cl: {error.value}\n")} and str(error.value).isprintable()
    assert not (path.parent / "out").exists()
    return str(error.value)


def test_every_flipped_byte_of_a_pack_is_found_or_changes_nothing(finished, reference, tmp_path):
    whole, path = (reference / "records.pack").read_bytes(), tmp_path / "x.pack"
    same = read_pack(reference / "records.pack")
    for at in [*range(12), *range(12, len(whole) - 12, 41), *range(len(whole) - 12, len(whole))]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            read = read_pack(path)
        except UserError as error:
            assert "\n" not in str(error)
        else:  # padding of the last bits
            assert [run.text for run in read.runs] == [run.text for run in same.runs] and read.scenario == same.scenario


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda whole: whole[:-1], "damaged"),
        (lambda whole: whole[: len(whole) // 2], "damaged: ends too early"),
        (lambda whole: whole + b"x", "damaged: its end does not fit"),
        (lambda whole: whole + whole, "damaged: its end does not fit"),
        (lambda whole: b"", "is no pack"),
        (lambda whole: b"PK\x03\x04" + whole, "is no pack; expected a results folder, or a file that 'lamm-cl pack' wrote"),
        (lambda whole: gzip.compress(gzip.decompress(whole), mtime=1), "is no pack"),
    ],
)
def test_a_damaged_pack_is_told_in_one_line(finished, tmp_path, change, message):
    (tmp_path / "x.pack").write_bytes(change((finished / "toy.pack").read_bytes()))

    assert message in told_of(tmp_path / "x.pack")


RECORD = b'{"run": "toy/coop/shots4-seed1", "record": {}}'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has no seal"),
        ([b"[]"], "line 1: expected an object"),
        ([b'{"pack": 2}'], "another version of lamm-cl wrote this"),
        ([b'{"pack": 1, "runs": true, "tensors": false, "scenario": null}'], "line 1: runs: found True"),
        ([b'{"pack": 1, "runs": 1, "tensors": false, "scenario": 7}'], "line 1: scenario: found 7"),
        ([b"[" * 100_000], "not a whole JSON file"),
        (["FIRST", RECORD, RECORD], "expected 2 different runs, found 1"),
        (["FIRST", RECORD], "expected 2 different runs, found 1"),
        (["FIRST", b""], "line 2: expected a run or a file of one"),
        (["FIRST", b'{"link": "a", "to": "/etc/passwd"}'], "line 2: expected a run or a file of one"),
        (["FIRST", b'{"file": "learned.safetensors", "base64": ""}', RECORD], "line 2: a file that belongs to no run"),
        (["FIRST", RECORD, b'{"file": "../../x.safetensors", "base64": ""}'], "line 3: no file of learned tensors"),
        (["FIRST", RECORD, b'{"file": "record.json", "base64": ""}'], "line 3: no file of learned tensors"),
        (["FIRST", RECORD, b'{"file": "learned.safetensors", "base64": "A"}'], "line 3: no file of learned tensors"),
        (["FIRST", RECORD, *2 * [b'{"file": "learned.safetensors", "base64": ""}']], "line 4: a file that belongs to no run"),
        *(
            (["FIRST", RECORD.replace(b"toy/coop/shots4-seed1", place)], "line 2: run: expected DATASET/METHOD/shotsK-seedS")
            for place in (
                *(b"../../../etc/x", b"/etc/passwd", b"..", b"a/../b", b"a/b", b"a/b/c/d", b"a//b", b"a/./b", b""),
                *(b"\\ud800/a/b", b"a\\u0000/b/c", b"a\\n/b/c", b"a\\\\..\\\\b/c/d"),
                *(b"x" * 300 + b"/b/c", b"\\u001b[2J/b/c", b"a/b/.."),
            )
        ),
    ],
)
def test_a_hostile_pack_is_told_in_one_line_and_nothing_is_written(tmp_path, lines, message):
    first = b'{"pack": 1, "runs": 2, "tensors": true, "scenario": null}'
    (tmp_path / "x.pack").write_bytes(packed_lines([first if line == "FIRST" else line for line in lines], seal=bool(lines)))

    assert message in told_of(tmp_path / "x.pack")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pack"]


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("LARGEST_FILE", "larger than 1,000 bytes"),
        ("LARGEST_WHOLE", "more than 1,000 bytes when decompressed"),
        ("LARGEST_RECORDS", "holds more than 1,000 bytes of records"),
        ("LARGEST_RECORD", "a line of more than 1,000 bytes"),
        ("LARGEST_TENSORS", "a line of more than 1,000 bytes"),
    ],
)
def test_what_is_too_large_is_refused_when_it_is_read_and_when_it_is_written(finished, monkeypatch, limit, message):
    monkeypatch.setattr(pack_module, limit, 1000)

    with pytest.raises(UserError, match=message):
        read_pack(finished / "toy.pack")
    if limit != "LARGEST_FILE":
        with pytest.raises(UserError, match="too large a pack"):
            pack(finished / "toy", with_tensors=True)


def test_a_bomb_ends_at_the_limit_of_a_line_long_before_its_own_end(tmp_path):
    compress = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = HEAD + b"".join(compress.compress(b"0" * 2**20) for _ in range(64)) + compress.flush()
    (tmp_path / "x.pack").write_bytes(bomb)

    assert len(bomb) < 100_000 and told_of(tmp_path / "x.pack").endswith("a line of more than 33,554,432 bytes")


def test_a_record_of_a_pack_that_attacks_its_reader_is_told_in_one_line(tmp_path):
    first = b'{"pack": 1, "runs": 1, "tensors": false, "scenario": null}'
    for content in (b"[" * 100_000 + b"]" * 100_000, b"9" * 5000, b"1e999", b"NaN", b'"\\ud800"', b"{}"):
        line = RECORD.replace(b"{}", b'{"format": 1, "run": %b}' % content)
        (tmp_path / "x.pack").write_bytes(packed_lines([first, line]))

        for words in (["table", tmp_path / "x.pack"], ["unpack", tmp_path / "x.pack", "-o", tmp_path / "out"]):
            status, said = called(*words)
            assert (status, said.count("\n")) == (2, 1) and "x.pack: line 2: " in said and said[:-1].isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["x.pack"]


def test_nothing_is_unpacked_where_something_is(finished, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_text("")

    for name in ("full", "link", "file"):
        status, said = called("unpack", finished / "toy.pack", "-o", tmp_path / name)
        assert (status, said) == (2, f"lamm-cl: {tmp_path / name}: is in the way; expected a new or an empty folder\n")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["elsewhere", "file", "full", "link", "mine"]


def test_a_pack_is_not_replaced_by_one_with_fewer_runs_unless_told(results):
    assert called("pack", results)[0] == 0
    before = (results / "records.pack").read_bytes()
    shutil.rmtree(results / "runs/toy/lamm")

    status, said = called("pack", results)

    assert (status, said.count("\n")) == (2, 1) and "has 2 runs, " in said and "--replace" in said
    assert (results / "records.pack").read_bytes() == before
    assert called("pack", results, "--replace")[0] == 0 and len(read_pack(results / "records.pack").runs) == 1


# --- what is shipped or counted stays --------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["table", "--write"], ["table", "--replace"], ["plot"], ["report"], ["pack"]], ids=" ".join)
def test_nothing_is_written_beside_a_pack_unless_told_where(reference, words):
    before = bytes_below(reference)

    for path in (reference, reference / "records.pack"):
        status, said = called(words[0], path, *words[1:])

        assert (status, said.count("\n")) == (2, 1) and "nothing is written beside it; say where with --output" in said
    assert bytes_below(reference) == before


def test_no_run_writes_beside_a_pack_or_over_counts_whose_records_are_gone(tmp_path, reference):
    counted = tmp_path / "results/demo"
    counted.mkdir(parents=True)
    shutil.copy(TOP / "results/reference/demo/records.csv", counted)
    shutil.copytree(reference, tmp_path / "packed/demo", ignore=shutil.ignore_patterns("scenario.yaml"))
    before = bytes_below(tmp_path)
    words = ("--method", "zero-shot", "--dataset", "digits", "--seed", 1, "--cache", tmp_path / "cache")

    over = called("run", "demo", *words, "--results", tmp_path / "results")
    beside = called("run", "demo", *words, "--results", tmp_path / "packed", "--replace")

    many = len((counted / "records.csv").read_text().splitlines()) - 1
    line = f"{counted}/records.csv: has {many:,} counts, the records beside it give 0: written anew it would lose the rest"
    assert over == (2, f"lamm-cl: {line}; --replace does it, or choose another --results folder\n")
    assert beside[0] == 2 and "nothing is written beside it; choose another --results folder" in beside[1]
    assert bytes_below(tmp_path) == before


def test_tables_are_not_rewritten_from_fewer_records_than_were_counted_unless_told(results):
    shutil.rmtree(results / "runs/toy/lamm")
    before = bytes_below(results)

    status, said = called("table", results, "--write")

    assert status == 2 and "records.csv: has 24 counts, the records beside it give 12: " in said
    assert "--replace" in said and bytes_below(results) == before
    assert called("table", results, "--write", "--replace")[0] == 0 and verify.problems(results, derived_files) == []


def test_a_record_deleted_to_be_done_again_is_not_lost(results):
    runs = plan(toy.scenario(methods=METHODS), results.parent)
    (runs[0].folder / "record.json").unlink()

    check_kept(runs)
    with pytest.raises(UserError, match="has 24 counts, the records beside it give 12"):
        check_kept(runs[1:])
    check_kept(runs[1:], replace=True)


def tracked(folder: Path) -> None:
    """A fresh clone of this working tree. Skips where this is no checkout."""
    listed = subprocess.run(["git", "-C", TOP, "ls-files", "-z", "-co", "--exclude-standard"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: nothing is tracked")
    for name in filter(None, listed.stdout.split("\0")):
        if (TOP / name).is_file() and not name.startswith(("tests/fidelity", "docs")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TOP / name, folder / name)
    git = ["git", "-C", folder, "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "core.excludesFile="]
    for words in (["init", "-q"], ["add", "-A", "-f"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *words], check=True, capture_output=True)


def test_what_runs_in_a_fresh_clone_leaves_every_tracked_file_as_it_was(tmp_path):
    clone = tmp_path / "clone"
    tracked(clone)
    environment = {**os.environ, "PYTHONPATH": str(clone), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = ["run", "demo", "--method", "zero-shot", "--dataset", "digits", "--seed", "1", "--report"]
    command = [sys.executable, clone / "tests/played.py", *words]

    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, timeout=240)

    assert done.returncode == 0, done.stderr
    rows = list(csv.reader((clone / "results/demo/records.csv").open()))
    assert len(rows) - 1 == 12
    status = subprocess.run(["git", "-C", clone, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    assert status == ""


# --- what is shipped can be believed ---------------------------------------------------------------------------------

FEATURES = TOP.parent / "shared/data/clip_features"  # of the developers; a user has none
SHIPPED = sorted(path.name for path in (TOP / "results/reference").glob("*/"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_results_pass_verify_with_a_run_done_again(name, tmp_path):
    """The run is untrained where there is such a run: what learned tensors round to is a matter of the machine."""
    folder = TOP / "results/reference" / name
    if not (folder / "records.pack").exists():
        pytest.skip(f"{folder.name}: has no records.pack yet; 'make reference' makes it")
    before = bytes_below(folder)
    runs = verify.runs(folder)
    chosen = next((run for run in runs if "/zero-shot" in run), next(iter(runs)))

    if ".npz" in (folder / "scenario.yaml").read_text():  # features that are not shipped: done again where they lie
        again = ["--run", chosen, "--trust", "--data-root", FEATURES] if FEATURES.is_dir() else ["--recompute", 0]
    else:
        again = ["--run", chosen]
    status, said = called("verify", folder, *again, "--cache", tmp_path)

    if status == 1 and "/zero-shot" not in chosen and re.search(r"\((host|versions\.\w+|device): ", said):
        pytest.skip(f"{chosen}: learned on another kind of machine, and comes out otherwise here: {said.splitlines()[-1]}")
    assert status == 0, said
    assert bytes_below(folder) == before


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_results_without_a_pack_say_what_is_missing(name):
    folder = TOP / "results/reference" / name
    if (folder / "records.pack").exists():
        pytest.skip(f"{folder.name}: has its pack")
    for command in ("table", "plot", "compare", "verify"):
        status, said = called(command, folder)
        assert (status, said.count("\n")) == (2, 1)
        assert f"{name}: has records.csv but not the records it was made from: no records.pack" in said
