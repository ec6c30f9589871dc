"""What strangers send: names with escape sequences, records that ask for much, odd checkpoints, servers that lie."""

import http.server
import json
import os
import sys
import threading
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import played
import pytest
import strange
from PIL import Image
from strange import ESCAPE, RUN, THINGS, called, put, soon, told
from test_data import tar

from lamm_cl.cli import main, screen
from lamm_cl.data import fetch
from lamm_cl.data.fetch import ARCHIVES, Archive, download
from lamm_cl.errors import UserError
from lamm_cl.results.file import read_record, write_record
from lamm_cl.sweeping import verify

CLEAR = ESCAPE.encode()

def changed(results: Path, change) -> Path:
    """The record with facts changed and no seal -> the file."""
    path = results / RUN / "record.json"
    facts = json.loads(path.read_text())
    change(facts)
    facts.pop("sha256", None)
    path.write_text(json.dumps(facts))
    return path

@pytest.fixture
def results(tmp_path):
    return strange.played_results(tmp_path / "results")

# --- the screen ------------------------------------------------------------------------------------------------------

def spoken(capfd, *words) -> str:
    with soon():
        main.main([str(word) for word in words])
    out, err = capfd.readouterr()
    return out + err

def test_what_a_terminal_would_obey_is_never_said(capsys):
    screen.say(f"a{ESCAPE}b\nc", "é  x", "")
    screen.complain(f"a{ESCAPE}b\nc")

    out, err = capsys.readouterr()
    assert out == "a\\x1b[31mb\\nc\né  x\n\n" and err == "lamm-cl: a\\x1b[31mb c\n"

def test_the_name_of_a_run_is_not_obeyed_by_verify(results, capfd, monkeypatch):
    monkeypatch.setattr(verify, "recompute", lambda *_: "")
    (results / RUN).rename(results / "runs/species/coop" / f"shots16{ESCAPE}-seed1")

    assert ESCAPE not in spoken(capfd, "verify", results)
    assert ESCAPE not in spoken(capfd, "verify", results, "--run", f"species/coop/shots16{ESCAPE}-seed1")

@pytest.mark.parametrize("part", ["card", "scenario", "versions", "commit"])
def test_what_changed_is_not_obeyed_by_compare(results, tmp_path, capfd, part):
    def change(facts):
        if part == "commit":
            facts["measured"]["commit"] = f"{ESCAPE}commit"
        elif part == "versions":
            facts["measured"]["versions"] = {f"{ESCAPE}torch": f"{ESCAPE}2"}
        else:
            facts[part] |= {f"{ESCAPE}key": f"{ESCAPE}value"}

    other = strange.played_results(tmp_path / "other")
    changed(other, change)

    said = spoken(capfd, "compare", results, other)
    assert ESCAPE not in said and "changed:" in said

@pytest.mark.parametrize("command", ["table", "compare"])
def test_the_scenario_of_a_record_is_not_obeyed_in_the_title_of_a_table(results, capfd, command):
    changed(results, lambda facts: facts["run"].update(scenario=f"a{ESCAPE}b"))
    said = spoken(capfd, command, results, *([results] if command == "compare" else []))

    assert ESCAPE not in said and "a" in said


@pytest.mark.parametrize("form", ["csv", "md", "tex", "html"])
def test_a_table_on_a_terminal_is_not_obeyed_and_one_in_a_file_is_as_it_is(results, monkeypatch, capsys, form):
    changed(results, lambda facts: facts["run"].update(dataset=f"a{ESCAPE}b"))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main.main(["table", str(results), "--format", form]) == 0
    shown = capsys.readouterr().out
    assert ESCAPE not in shown and shown.count("\n") > 1

    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    main.main(["table", str(results), "--format", form])
    assert form != "csv" or ESCAPE in capsys.readouterr().out

def test_the_path_of_an_image_is_not_obeyed_by_data_check_and_run(tmp_path, capfd, monkeypatch):
    from lamm_cl.cli import doors

    monkeypatch.setattr(doors, "train", played.train)
    monkeypatch.setattr(main.run, "_derive", lambda *_: 0)
    rows = []
    for name in (f"{ESCAPE}A.png", "B.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        rows += [[name, name[-5], "train"], [name, name[-5], "test"]]
    (tmp_path / "mine.json").write_text(json.dumps(rows))

    said = spoken(capfd, "data", "check", tmp_path / "mine.json", "--cache", tmp_path)
    words = ["run", "demo", "--dataset", tmp_path / "mine.json", "--method", "coop", "--seed", 1, "--results", tmp_path / "r"]
    said += spoken(capfd, *words, "--cache", tmp_path)
    assert ESCAPE not in said and said.count("images are in train and in test") == 2

# --- records ---------------------------------------------------------------------------------------------------------

def ask(key: str, value: object):
    def change(facts):
        if key == "dataset":
            facts["run"]["dataset"] = value
        elif key == "train_on":
            facts["scenario"]["train_on"] = value
        elif key == "named":
            facts["run"]["dataset"], facts["dataset"]["named"] = "etc", value
        elif key == "epochs":
            facts["card"]["training"]["epochs"] = value
        else:
            facts["scenario"]["backbone"] = {"architecture": key, "weights": value}

    return change

ASKS = {
    "hf-hub:evil/repo": ("hub", "the weights of 'hf-hub:evil/repo', from a file or the network"),
    "ViT-B-32": ("/etc/passwd", "the weights of 'ViT-B-32:/etc/passwd', from a file or the network"),
    "ViT-B-16": ("openai", "the weights of 'ViT-B-16:openai', from a file or the network"),
    "dataset": ("~/photos", "the files of '~/photos'"),
    "named": ("/etc", "the files of '/etc'"),
    "train_on": ("/home/me/photos", "the files of '/home/me/photos'"),
    "epochs": (10**9, "training on 320,000,000,000 images"),
}

@pytest.mark.parametrize("key", ASKS)
def test_verify_does_not_go_far_on_a_strangers_word(results, key, monkeypatch, capfd):
    value, needed = ASKS[key]
    changed(results, ask(key, value))
    done = []
    monkeypatch.setattr(verify, "recompute", lambda *_: done.append(1) or "")
    name = RUN.removeprefix("runs/")

    for words in ([], ["--run", name], ["--recompute", 1]):
        with soon(5):
            status = main.main(["verify", str(results), *map(str, words)])
        said = capfd.readouterr().out
        assert f"{name}: not done again; that would take {needed}. --trust does it" in said and not done
        assert status == 1  # for the record was changed

    main.main(["verify", str(results), "--trust"])
    assert done == [1]

def test_what_was_asked_for_and_not_done_is_status_2(results, monkeypatch):
    monkeypatch.setattr(verify, "asks", lambda *_: ["the moon"])

    assert called("verify", results)[0] == 0
    assert called("verify", results, "--recompute", 1)[0] == 2

def test_a_run_of_the_demo_is_done_again_without_asking(results):
    assert verify.asks(verify.runs(results)[RUN.removeprefix("runs/")]) == []

NAMES = ["../../x", "", ".", "..", "/etc/passwd", "a\x00b", "a/b", "~", "-x", "x" * 5000 + "/"]

@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", ["verify", "table", "report"])
def test_the_names_of_a_records_files_are_names(results, name, command, tmp_path):
    path = changed(results, lambda facts: facts.update(files={name: "0" * 64}))
    more = {"report": ["-o", tmp_path / "page.html"], "verify": ["--recompute", 0]}.get(command, [])

    with soon():
        status, said = called(command, results, *more)
    assert (status, said.count("\n")) == ((1, 0) if command == "verify" else (2, 1))
    with pytest.raises(UserError, match="files: .*: expected the name of a file beside record.json"):
        read_record(path)

SIZES = [
    ("experiences", [3, -1]), ("experiences", [10**15, 1]), ("test_images", [-100, 100]), ("train_images", [-1, 16]),
    ("test_per_class", [-100, 100]), ("test_images", [10**13, 100]),
]  # fmt: skip

@pytest.mark.parametrize(("key", "sizes"), SIZES)
@pytest.mark.parametrize("command", ["report", "table", "plot", "compare"])
def test_sizes_that_no_run_has_are_refused_in_one_line(results, key, sizes, command, tmp_path):
    changed(results, lambda facts: facts["dataset"].update({key: sizes}))
    more = {"report": ["-o", tmp_path / "page.html"], "plot": ["--output", tmp_path / "drawn"]}.get(command, [])

    assert f"dataset.{key}: expected numbers from 0 to" in told(command, results, *more)

def test_places_that_the_reader_names_need_no_trust(results):
    changed(results, ask("named", "/etc"))
    [one] = verify.runs(results).values()

    assert verify.asks(one, None, {"etc": "./mine"}) == [] and verify.asks(one) == ["the files of '/etc'"]


def test_own_data_that_verify_does_not_find_is_told_in_one_line(tmp_path):
    results = strange.played_results(tmp_path / "results")
    changed(results, lambda facts: facts["run"].update(dataset="birds"))
    [one] = verify.runs(results).values()

    from lamm_cl.cli import doors
    from lamm_cl.sweeping.execute import Settings

    with pytest.raises(UserError, match="no dataset .birds."):
        verify.recompute(one, Settings(None, tmp_path, "cpu", 1), lambda event: None, doors.train)

# --- downloads -------------------------------------------------------------------------------------------------------

class Liar(http.server.BaseHTTPRequestHandler):
    headers_sent: dict = {}
    status, body, endless = 200, b"", False

    def do_GET(self):
        self.send_response(self.status)
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(self.body)
            while self.endless:
                self.wfile.write(bytes(1 << 16))
        except OSError:
            return

    def log_message(self, *_):
        pass

@pytest.fixture
def server():
    Liar.headers_sent, Liar.status, Liar.body, Liar.endless = {}, 200, b"", False
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/toy.tar.gz"
        running.shutdown()

def downloaded(url: str, path: Path, content: bytes = b"") -> str:
    with soon(), pytest.raises(UserError) as caught:
        download(url, path, md5(content).hexdigest() if content else "0" * 32, lambda *step: None)
    assert str(caught.value).count("\n") == 0
    return str(caught.value)

def test_a_server_that_never_ends_is_left(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "LARGEST", 3_000_000)
    Liar.endless = True

    assert "sends more than 3,000,000 bytes" in downloaded(server, tmp_path / "part")
    assert (tmp_path / "part").stat().st_size == 0

@pytest.mark.parametrize("length", ["many", "-1", "1e9", "9" * 30, "99999999999"])
def test_a_length_that_no_archive_has_is_told(server, tmp_path, length):
    Liar.headers_sent = {"Content-Length": length}

    assert "states a length of" in downloaded(server, tmp_path / "part")

@pytest.mark.parametrize("to", ["ftp://127.0.0.1/x", "file:///etc/passwd", "data:,x", "gopher://x/"])
def test_no_redirect_leads_to_another_scheme(server, tmp_path, to):
    Liar.status, Liar.headers_sent = 302, {"Location": to, "Content-Length": "0"}

    downloaded(server, tmp_path / "part")
    assert not (tmp_path / "part").exists() or (tmp_path / "part").stat().st_size == 0

def test_a_redirect_leads_from_http_to_https_and_never_back():
    request = fetch.urllib.request.Request("https://127.0.0.1/x")
    with pytest.raises(UserError, match="redirects to http://127.0.0.1/y"):
        fetch._Redirects().redirect_request(request, None, 302, "", {}, "http://127.0.0.1/y")
    plain = fetch.urllib.request.Request("http://127.0.0.1/x")
    assert fetch._Redirects().redirect_request(plain, None, 302, "", {}, "https://127.0.0.1/y").full_url == "https://127.0.0.1/y"

@pytest.mark.parametrize("thing", ["link", *sorted(THINGS)])
def test_a_part_that_is_no_file_is_refused_and_not_followed(server, tmp_path, thing):
    Liar.body, Liar.headers_sent = b"content", {"Content-Length": "7"}
    (tmp_path / "mine").write_text("mine")
    if thing == "link":
        (tmp_path / "part").symlink_to(tmp_path / "mine")
    else:
        put(thing, tmp_path / "part")

    assert "is a link, a folder or a pipe, or huge; remove it" in downloaded(server, tmp_path / "part", b"content")
    assert (tmp_path / "mine").read_text() == "mine" and not (tmp_path / "nowhere").exists()

BAD = [tar(**{"../x": b"x"}), tar(**{"else/x": b"x"}), tar(**{"a": b"1", "a/b": b"2"}), b"no archive",
       tar(**{"dtd/images/x": b"x" * 9000})[:-40]]  # fmt: skip


@pytest.mark.parametrize("content", BAD, ids=["above", "beside", "a file as a folder", "none", "cut off"])
def test_an_archive_that_is_refused_is_not_kept(server, tmp_path, monkeypatch, content):
    Liar.body, Liar.headers_sent = content, {"Content-Length": str(len(content))}
    monkeypatch.setitem(ARCHIVES, "DTD", [Archive(server, md5(content).hexdigest(), "dtd/images")])

    with soon(), pytest.raises(UserError):
        fetch.fetch("DTD", tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == [] and not (tmp_path / "x").exists()

def test_an_archive_for_which_there_is_no_room_is_kept(server, tmp_path, monkeypatch):
    content = tar(**{"dtd/images/x": b"x"})
    Liar.body, Liar.headers_sent = content, {"Content-Length": str(len(content))}
    monkeypatch.setitem(ARCHIVES, "DTD", [Archive(server, md5(content).hexdigest(), "dtd/images")])

    def full(*_):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left"):
        patch.setattr(fetch.shutil, "copyfileobj", full)
        fetch.fetch("DTD", tmp_path)
    assert fetch.fetch("DTD", tmp_path) == [tmp_path / "dtd/images"]

# --- results that are whole read as before ---------------------------------------------------------------------------

def test_a_whole_record_is_read_as_it_was_written(results):
    record = read_record(results / RUN / "record.json")
    write_record(replace(record), results / RUN)

    assert read_record(results / RUN / "record.json") == record
