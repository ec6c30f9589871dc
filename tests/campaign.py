"""The fault campaign: what a disk, a clock, a stranger or a server can do, a thousand times; too long for `make test`.

    python tests/campaign.py --minutes 30              all of it
    python tests/campaign.py --only downloads

Every case runs in a folder of its own with a time limit. Counted are
- wrong numbers: bytes of records, learned tensors, records.csv or tables that a run without faults does not give; cells of a
  table that a hostile text moved; odd checkpoints that are taken;
- hangs; tracebacks: anything but success or one line; writes outside the folder that a command was given.
Exit status 1 if anything was counted.
"""

import argparse
import contextlib
import errno
import io
import json
import os
import random
import re
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import md5
from pathlib import Path

import numpy as np
import strange
import test_faults_checkpoints as odd
import test_faults_strangers as strangers
import torch
import toy
from PIL import Image
from soak_kill import differences
from strange import THINGS, Hang, put, soon
from test_backbones import TEXT

from lamm_cl.cli import doors, main
from lamm_cl.config.schema import Backbone
from lamm_cl.data import catalogue, check
from lamm_cl.data.fetch import ARCHIVES, Archive, fetch
from lamm_cl.data.images import open_image
from lamm_cl.errors import UserError
from lamm_cl.sweeping.execute import Settings, execute
from lamm_cl.sweeping.plan import plan
from lamm_cl.sweeping.publish import tidy
from lamm_cl.towers import backbones

KINDS = ("wrong numbers", "hangs", "tracebacks", "writes outside")


@dataclass
class Part:
    """One row of the report."""

    name: str
    cases: int = 0
    counted: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def count(self, kind: str, case: str) -> None:
        self.counted[kind].append(case)


Case = tuple[str, Callable[[Path], str | None]]  # its name; does it in a folder -> what came out wrong, None if nothing


def campaign(part: Part, cases: list[Case], deadline: float, top: Path) -> None:
    for name, case in cases:
        if time.monotonic() > deadline:
            return
        home = top / "case"
        home.mkdir()
        part.cases += 1
        try:
            with soon(60):
                if wrong := case(home):
                    part.count("wrong numbers", f"{name}: {wrong}")
        except Hang:
            part.count("hangs", name)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            part.count("tracebacks", f"{name}: {''.join(traceback.format_exception(error))[-1500:]}")
        if extra := [path.name for path in (*top.iterdir(), *Path.cwd().iterdir()) if path != home]:
            part.count("writes outside", f"{name}: {extra}")
            for path in top.iterdir():
                path.is_dir() and path != home and shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(home)


# --- faults over every writer ----------------------------------------------------------------------------------------

OPERATIONS = {
    "fsync": os,
    "replace": os,
    "rename": os,
    "mkdir": os,
    "chmod": os,
    "unlink": os,
    "rmdir": os,
    "utime": os,
    "mkstemp": tempfile,
    "open": os,
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@contextlib.contextmanager
def fault(operation: str, kind: int, first: int, always: bool) -> Iterator[list[int]]:
    """From its call number `first` on, or at that one alone, an operation fails -> how often it was called."""
    home, calls = OPERATIONS[operation], [0]
    real = getattr(home, operation)

    def failing(*arguments, **more):
        if operation == "open" and not (len(arguments) > 1 and arguments[1] & WRITING):
            return real(*arguments, **more)
        calls[0] += 1
        if calls[0] - 1 == first or (always and calls[0] > first):
            raise OSError(kind, os.strerror(kind))
        return real(*arguments, **more)

    setattr(home, operation, failing)
    try:
        yield calls
    finally:
        setattr(home, operation, real)


def sweep(home: Path) -> list:
    """Two toy runs, really trained, every epoch saved -> the failures."""
    runs = plan(toy.scenario(methods=["coop", "zero-shot"]), home / "results")
    settings = Settings(None, home / "cache", "cpu", 1, save_every=0)
    failures = execute(runs, settings, lambda event: None, train=toy.train, publish=doors.publish)
    with contextlib.suppress(OSError, UserError):
        tidy([run for run in runs if (run.folder / "record.json").exists()], doors.derived)
    return failures


def faults(top: Path) -> list[Case]:
    whole = top.parent / "whole"
    assert sweep(whole) == []
    called = {}
    for operation in OPERATIONS:
        with fault(operation, 0, -1, always=False) as calls:
            sweep(top.parent / f"counted-{operation}")
        called[operation] = calls[0]
        shutil.rmtree(top.parent / f"counted-{operation}")

    def case(operation: str, kind: int, first: int, always: bool) -> Callable[[Path], str | None]:
        def do(home: Path) -> str | None:
            with fault(operation, kind, first, always):
                failures = sweep(home)
            for event in failures:
                assert event.mistake and event.text.count("\n") == 0, event.text
            assert sweep(home) == []
            found = [
                text
                for text in differences(whole / "results/toy", home / "results/toy")
                if not re.search(r"lock.* was left behind", text)
            ]
            left = [path for path in home.rglob(".*") if not path.name.startswith(".lock")]
            return "; ".join([*found, *map(str, left)]) or None

        return do

    draw, found = random.Random(1), []
    for operation, number in called.items():
        for kind in (errno.EIO, errno.ENOSPC, errno.EINTR, errno.ESTALE, errno.EMFILE, errno.EFBIG, errno.EACCES):
            moments = sorted(draw.sample(range(number), min(number, 5)))
            found += [(f"{operation} {errno.errorcode[kind]} once, call {n}", case(operation, kind, n, False)) for n in moments]
            if kind in (errno.EIO, errno.ENOSPC):
                more = [
                    (f"{operation} {errno.errorcode[kind]} from call {n} on", case(operation, kind, n, True)) for n in moments
                ]
                found += more
    draw.shuffle(found)
    return found


# --- hostile readings -------------------------------------------------------------------------------------------------

TEXTS = {
    "escape": "\x1b[31mA\x1b]0;x\x07",
    "script": "<script>alert(1)</script>",
    "attribute": "\" onload='alert(1)'",
    "tex": "\\input{/etc/passwd}$x_1$%&#",
    "formula": "=cmd|' /C calc'!A0",
    "lines": "a\nlamm-cl: done\r\nb",
    "direction": "a\u202eb\u2066c",
    "long": "x" * 3000,
    "path": "../../../outside",
    "format": "{0} {x} %s %n",
}
PLACES = {
    "dataset": lambda facts, text: facts["run"].update(dataset=text),
    "method": lambda facts, text: facts["run"].update(method=text),
    "scenario": lambda facts, text: facts["run"].update(scenario=text),
    "card's name": lambda facts, text: facts["card"].update(name=text),
    "card's key": lambda facts, text: facts["card"].update({text: text}),
    "provenance": lambda facts, text: facts["card"].update(provenance={text: text}),
    "published": lambda facts, text: facts["card"].update(published={text: {text: text}}),
    "note": lambda facts, text: facts["dataset"].update(notes=[text]),
    "classes": lambda facts, text: facts["dataset"].update(classes=[text, f"{text} 2"]),
    "versions": lambda facts, text: facts["measured"].update(versions={text: text}, commit=text, host=text, device=text),
    "files": lambda facts, text: facts.update(files={text: "0" * 64}),
}
NUMBERS = (-1, 0, 1, 10**9, 10**12, 2**53, 2**53 + 1, 1e308, -1e308)
COMMANDS = {
    **{f"table {form}": ["table", "R", "--format", form] for form in ("terminal", "md", "csv", "tex", "html")},
    "table --write": ["table", "R", "--write"],
    "compare": ["compare", "R", "O"],
    "verify": ["verify", "R", "--recompute", "0"],
    "verify again": ["verify", "R"],
    "report": ["report", "R", "-o", "H/page.html"],
}


def cells(text: str) -> list[str]:
    return re.findall(r"(?<=,)-?[0-9]+\.[0-9]+", text)


def called(words: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main.main(words)
    assert status in (0, 1, 2), status
    assert err.getvalue().count("\n") == (status == 2 and "not done again" not in out.getvalue()), err.getvalue()
    return status, out.getvalue(), err.getvalue()


def readings(top: Path) -> list[Case]:
    whole = strange.played_results(top.parent / "read")
    numbers = cells(called(["table", str(whole), "--format", "csv"])[1])
    assert numbers

    def copied(home: Path) -> Path:
        shutil.copytree(whole, home / "R")
        return home / "R"

    def read(command: str, home: Path) -> tuple[int, str, str]:
        places = {"R": str(home / "R"), "O": str(whole), "H": str(home)}
        words = [places.get(word, word.replace("H/", f"{home}/")) for word in COMMANDS[command]]
        status, out, err = called(words)
        if command != "table csv":
            assert "\x1b" not in out.replace("\x1b[", "", 0) and "\x07" not in out, repr(out)
        assert "\x1b" not in err
        page = (home / "page.html").read_text() if (home / "page.html").exists() else ""
        assert "<script>alert" not in page + (out if "html" in command else "")
        assert "\\input{" not in (out if command == "table tex" else "")
        return status, out, err

    def text(place: str, kind: str, command: str) -> Callable[[Path], str | None]:
        def do(home: Path) -> str | None:
            copied(home)
            strangers.changed(home / "R", lambda facts: PLACES[place](facts, TEXTS[kind]))
            status, out, _ = read(command, home)
            return f"cells {cells(out)}" if command == "table csv" and status == 0 and cells(out) != numbers else None

        return do

    def number(key: str, value: float, command: str) -> Callable[[Path], str | None]:
        def do(home: Path) -> None:
            copied(home)

            def change(facts: dict) -> None:
                inside = (
                    facts["dataset"] if key in facts["dataset"] else facts["run"] if key in facts["run"] else facts["counts"][0]
                )
                inside[key] = [value] * len(inside[key]) if isinstance(inside[key], list) else value

            strangers.changed(home / "R", change)
            read(command, home)

        return do

    def thing(name: str, kind: str, command: str) -> Callable[[Path], str | None]:
        def do(home: Path) -> None:
            put(kind, copied(home) / name)
            read(command, home)

        return do

    found = [
        (f"{place} {kind}: {c}", text(place, kind, c))
        for place in PLACES
        for kind in TEXTS
        for c in COMMANDS
        if c not in ("report", "verify again") or kind in ("escape", "script")
    ]
    keys = ("experiences", "test_images", "test_per_class", "order", "seed", "shots", "total", "trained")
    found += [(f"{key} {n}: {c}", number(key, n, c)) for key in keys for n in NUMBERS for c in ("table csv", "compare")]
    names = (f"{strange.RUN}/record.json", f"{strange.RUN}/learned.safetensors", "records.csv")
    found += [(f"{name} {kind}: {c}", thing(name, kind, c)) for name in names for kind in THINGS for c in ("table md", "verify")]
    random.Random(2).shuffle(found)
    return found


# --- data of one's own -----------------------------------------------------------------------------------------------


def image(path: Path, mode: str = "RGB", size: tuple[int, int] = (9, 7), **more) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path, **more)


def folders(home: Path) -> Path:
    for name in ("ant", "bee"):
        for i in range(3):
            image(home / "mine" / name / f"{i}.png")
    return home / "mine"


def looked_at(path: Path, home: Path) -> str | None:
    """Checked, loaded, and every image opened: each is fine or told in one line."""
    findings = check.check([str(path)], None, home / "cache")
    assert findings and all(finding.text.count("\n") == 0 for finding in findings if finding.text.isprintable())
    try:
        dataset = catalogue.load(str(path), None, home / "cache")
    except (UserError, OSError) as error:
        assert isinstance(error, UserError) or error.errno, error
        assert findings[0].level == "problem"
        return None
    bad = 0
    for split in (dataset.train, dataset.test):
        for each in split.images:
            try:
                assert open_image(each).mode == "RGB"
            except UserError as error:
                assert str(error).count("\n") == 0 or "\n" in str(each)
                bad += 1
    told = sum("unreadable" in finding.text for finding in findings)
    return f"{bad} unreadable images, {told} told" if bad != told else None


def own(top: Path) -> list[Case]:
    modes = {
        f"image {m}": lambda p, m=m: image(p.with_suffix(".tif"), m)
        for m in ("1", "L", "P", "RGB", "CMYK", "I", "I;16", "F", "LAB")
    }
    modes |= {f"image {m}": lambda p, m=m: image(p, m) for m in ("LA", "RGBA")}
    modes |= {f"size {s}": lambda p, s=s: image(p, size=s) for s in ((1, 1), (1, 3000), (3000, 1))}
    contents = {
        "empty": b"",
        "html": b"<html>",
        "half": b"\x89PNG\r\n\x1a\n",
        "jpeg head": b"\xff\xd8\xff\xe0" + bytes(50),
        "gif": b"GIF89a" + bytes(20),
        "bmp": b"BM" + bytes(60),
        "zeros": bytes(5000),
        "ppm": b"P6 9999999 9999999 255\n",
        "tiff": b"II*\x00" + struct.pack("<I", 8) + b"\xff" * 30,
        "webp": b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    }
    modes |= {f"bytes {name}": lambda p, b=b: p.write_bytes(b) for name, b in contents.items()}
    modes |= {f"thing {kind}": lambda p, kind=kind: put(kind, p) for kind in THINGS}
    names = [
        "\u00e9",
        "e\u0301",
        "a b",
        "A_B",
        "{}",
        "%s",
        "x" * 250,
        "\u202egnp",
        "\U0001f600",
        "a\nb",
        "\x1b[31m",
        "'",
        '"',
        "=1",
        "$x$",
        b"\xff\xfe",
        ".hidden",
        "-rf",
        "ant ",
        "Ant",
    ]
    lists = [
        b"",
        b"[]",
        b"{}",
        b"null",
        b"[1]",
        b'[["ant/0.png"]]',
        b'[["ant/0.png", 1]]',
        b'[["/etc/passwd","a"],["bee/0.png","b"]]',
        b'[["../x.png","a"],["bee/0.png","b"]]',
        b'[["ant/0.png","a\\ud800"],["bee/0.png","b"]]',
        b"[" * 100_000,
        b'[["ant/0.png",NaN]]',
        b'[["ant/0.png","a","x"]]',
        b'[["ant/0.png","a"],["bee/0.png","b","test"]]',
        b'{"train": [], "test": []}',
        b'{"train": [["ant/0.png",0,"a"]], "test": [["bee/0.png",7,"b"]]}',
        b'[["ant/0.png","a"],["ant/0.png","a"],["bee/0.png","b"]]',
        b'[["ant/0.png\\u0000","a"],["bee/0.png","b"]]',
        b'[{"path":"ant/0.png"}]',
        b"9" * 6000,
    ]
    csvs = [
        b"",
        b"path,class\n",
        b"path,class\nant/0.png,a\nbee/0.png,b\n",
        b'"',
        b"a,b,c,d\n",
        b"\xff\xfe",
        b"ant/0.png,=1\nbee/0.png,b\n",
        b"path,class\r\nant/0.png,a\rbee/0.png,b",
        b"ant/0.png;a\n",
        b"\x00,\x00\n",
    ]
    classes = [
        b"",
        b"ant\n",
        b"ant red ant\nbee honey bee\n",
        b"ant\nant\n",
        b"x y\nz w\n",
        b"\xff",
        b"ant \x1b[31m\nbee b\n",
        b"\n\n\n",
    ]

    def of_image(make: Callable) -> Callable[[Path], str | None]:
        def do(home: Path) -> str | None:
            path = folders(home) / "ant" / "9.png"
            make(path)
            return looked_at(home / "mine", home)

        return do

    def of_name(name: str | bytes) -> Callable[[Path], str | None]:
        def do(home: Path) -> str | None:
            base = os.fsencode(folders(home))
            os.rename(base + b"/ant", base + b"/" + os.fsencode(name))
            return looked_at(home / "mine", home)

        return do

    def of_file(name: str, content: bytes, path: str) -> Callable[[Path], str | None]:
        def do(home: Path) -> str | None:
            (folders(home) / name).write_bytes(content)
            return looked_at(home / "mine" / path, home)

        return do

    def of_thing(name: str, kind: str, path: str) -> Callable[[Path], str | None]:
        def do(home: Path) -> str | None:
            put(kind, folders(home) / name)
            return looked_at(home / "mine" / path, home)

        return do

    found = [(name, of_image(make)) for name, make in modes.items()]
    found += [(f"class {name!r}", of_name(name)) for name in names]
    found += [(f"list {content[:30]!r}", of_file("list.json", content, "list.json")) for content in lists]
    found += [(f"csv {content[:30]!r}", of_file("list.csv", content, "list.csv")) for content in csvs]
    found += [(f"classes.txt {content!r}", of_file("classes.txt", content, "")) for content in classes]
    found += [
        (f"{name} {kind}", of_thing(name, kind, path))
        for name, path in (("classes.txt", ""), ("list.csv", "list.csv"), ("cat", ""))
        for kind in THINGS
    ]
    return found


# --- checkpoints and downloads ----------------------------------------------------------------------------------------


def checkpoints(top: Path) -> list[Case]:
    configs = top.parent / "configs"
    configs.mkdir()
    facts = {"embed_dim": 16, "text_cfg": TEXT} | odd.SMALL[odd.NAME]
    (configs / f"{odd.NAME}.json").write_text(json.dumps(facts))
    odd.open_clip.add_model_config(configs)
    whole = odd.weights(odd.NAME)

    def refused(name: str, make: Callable[[Path], None]) -> Callable[[Path], str | None]:
        def do(home: Path) -> str | None:
            make(home / name)
            try:
                backbones.load(Backbone(architecture=odd.NAME, weights=str(home / name)))
            except UserError as error:
                assert str(error).count("\n") == 0
                assert not Path("PWNED").exists()
                return None
            return "taken in silence"

        return do

    found = [(kind, refused("x.pt", lambda p, change=change: torch.save(change(whole), p))) for kind, change in odd.ODD.items()]
    for name in ("x.pt", "x.safetensors"):
        found += [(f"{kind} {name}", refused(name, lambda p, b=b: p.write_bytes(b(whole)))) for kind, b in odd.BYTES.items()]
        found += [(f"{kind} {name}", refused(name, lambda p, kind=kind: put(kind, p))) for kind in THINGS]
    return found


def downloads(top: Path) -> list[Case]:
    good = strangers.tar(**{"dtd/images/x": b"x" * 5000})
    evil = [
        *strangers.BAD,
        strangers.tar(**{"/abs": b"x"}),
        strangers.tar(**{"dtd/images/" + "x" * 300: b"x"}),
        b"",
        good[:500],
        good[::-1],
    ]
    wrong = [
        ({}, 200, good + b"more"),
        ({"Content-Length": "99"}, 200, good[:50]),
        ({}, 404, b""),
        ({}, 416, b""),
        ({}, 500, b"x"),
        ({"Content-Range": "bytes 7-9/10"}, 206, good),
        ({"Content-Encoding": "gzip"}, 200, b"\x1f\x8b"),
    ]
    wrong += [({"Content-Length": length}, 200, good) for length in ("many", "-1", "1e9", "9" * 30, "99999999999", "")]
    wrong += [
        ({"Location": to, "Content-Length": "0"}, 302, b"") for to in ("ftp://127.0.0.1/x", "file:///etc/passwd", "", "?", "//")
    ]

    def case(headers: dict, status: int, body: bytes, part: str = "", endless: bool = False, checksum: str = ""):
        def do(home: Path) -> str | None:
            liar = strangers.Liar
            liar.headers_sent, liar.status, liar.body, liar.endless = headers, status, body, endless
            ARCHIVES["DTD"] = [Archive(f"{address}/toy.tar.gz", checksum or md5(body).hexdigest(), "dtd/images")]
            (home / "root").mkdir()
            if part:
                put(part, home / "root" / ".toy.tar.gz.part")
            try:
                fetch("DTD", home / "root")
            except UserError as error:
                assert str(error).count("\n") == 0
            inside = {str(path.relative_to(home / "root")) for path in (home / "root").rglob("*")}
            allowed = {"dtd", "dtd/images", "dtd/images/x", ".toy.tar.gz.part", "nowhere"} - ({"nowhere"} if part else set())
            return f"wrote {sorted(inside - allowed)}" if inside - allowed else None

        return do

    import http.server
    import threading

    from lamm_cl.data import fetch as module

    module.LARGEST = 3_000_000
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), strangers.Liar)
    server.daemon_threads = True
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    length = {"Content-Length": str(len(good))}
    found = [("good", case(length, 200, good)), ("endless", case({}, 200, b"", endless=True, checksum="0" * 32))]
    found += [(f"archive {i}", case({"Content-Length": str(len(body))}, 200, body)) for i, body in enumerate(evil)]
    found += [
        (f"answer {headers} {status}", case(headers, status, body, checksum=md5(good).hexdigest()))
        for headers, status, body in wrong
    ]
    found += [(f".part {kind}", case(length, 200, good, part=kind)) for kind in THINGS]
    return found


PARTS = {"faults": faults, "readings": readings, "own data": own, "checkpoints": checkpoints, "downloads": downloads}


def report(parts: list[Part]) -> str:
    lines = [f"| part | cases | {' | '.join(KINDS)} |", f"|---|---:|{'---:|' * len(KINDS)}"]
    lines += [f"| {part.name} | {part.cases} | {' | '.join(str(len(part.counted[kind])) for kind in KINDS)} |" for part in parts]
    return "\n".join(lines)


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--most", type=int, default=10**9, metavar="N", help="cases of each part")
    args = parser.parse_args()
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    names = args.only or list(PARTS)
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "here").mkdir()
        os.chdir(Path(folder) / "here")
        os.environ["XDG_CACHE_HOME"] = f"{folder}/default-cache"
        for name in names:
            top = Path(folder) / name.replace(" ", "-") / "top"
            top.mkdir(parents=True)
            part = Part(name)
            parts.append(part)
            cases = PARTS[name](top)
            start = time.monotonic()
            share = args.minutes * 60 / len(names)
            campaign(part, cases[: args.most], start + share, top)
            print(f"{name}: {part.cases} of {len(cases)} cases in {time.monotonic() - start:.0f} s", flush=True)
            for kind, found in part.counted.items():
                print("".join(f"  {kind}: {text}\n" for text in found[:20]), end="", flush=True)
        os.chdir("/")
    print(report(parts))
    return int(any(found for part in parts for found in part.counted.values()))


if __name__ == "__main__":
    sys.exit(run())
