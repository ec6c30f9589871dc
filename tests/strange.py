"""Strange things in the place of files, and commands that may meet them: each must end soon and in one line."""

import errno
import os
import signal
import socket
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import played
from test_bad_input import called

from lamm_cl.cli import doors
from lamm_cl.config.cards import load_scenario
from lamm_cl.results.file import read_record, write_record
from lamm_cl.sweeping.execute import Settings, execute
from lamm_cl.sweeping.plan import plan

RUN = "runs/species/coop/shots16-seed1"  # of `played_results`
ERRNOS = (errno.EIO, errno.ENOSPC, errno.EINTR, errno.ESTALE, errno.EMFILE, errno.EFBIG)
ESCAPE = "\x1b[31m"


class Hang(BaseException):
    """A command that does not end."""


class soon:
    """The block ends within so many seconds, or fails the test."""

    def __init__(self, seconds: float = 20):
        self.seconds = seconds

    def __enter__(self) -> None:
        def ring(*_):
            raise Hang(f"not done after {self.seconds} s")

        self.before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)


def told(*words: object, statuses: tuple[int, ...] = (2,)) -> str:
    """What a command says on stderr: one line, without a traceback."""
    with soon():
        status, said = called(*words)
    assert status in statuses, (status, said)
    assert said.count("\n") == 1 and said[:-1].isprintable() and "Traceback" not in said, said
    return said


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path)


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def folder(path: Path) -> None:
    path.mkdir()


def endpoint(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


def enormous(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 41)


THINGS = {each.__name__: each for each in (fifo, device, loop, dangling, folder, endpoint, enormous)}


def played_results(folder: Path) -> Path:
    """The results of one played run, whole."""
    [run] = plan(load_scenario("demo"), folder, datasets=["species"], methods=["coop"], seeds=[1])
    settings = Settings(None, folder, "cpu", 1)
    assert execute([run], settings, lambda event: None, train=played.train, publish=lambda *_: None) == []
    (run.folder / "learned.safetensors").write_bytes(b"tensors")
    facts = replace(read_record(run.folder / "record.json"), files={"learned.safetensors": sha256(b"tensors").hexdigest()})
    write_record(facts, run.folder)
    doors.publish(run)
    return run.folder.parents[3]


def put(thing: str, path: Path) -> Path:
    """Put a thing in the place of whatever lies there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    THINGS[thing](path)
    return path
