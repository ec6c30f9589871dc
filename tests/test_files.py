"""Files are whole or absent, whatever hits their writer."""

import os
import signal

import pytest

from lamm_cl import files


class Terminated(BaseException):
    pass


@pytest.fixture
def terminating(monkeypatch):
    """SIGTERM raises, as in a run."""

    def handler(number, frame):
        raise Terminated

    before = signal.signal(signal.SIGTERM, handler)
    yield handler
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("sent", "heard"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
@pytest.mark.parametrize("moment", ["fsync", "chmod", "replace"])
def test_an_interrupt_waits_until_the_write_in_progress_is_finished(tmp_path, monkeypatch, terminating, sent, heard, moment):
    path = tmp_path / "record.json"
    path.write_text("old")
    real = getattr(os, moment)

    def interrupted(*arguments):
        os.kill(os.getpid(), sent)
        return real(*arguments)

    monkeypatch.setattr(os, moment, interrupted)
    with pytest.raises(heard):
        files.write_atomic(path, "new")

    assert path.read_text() == "new" and [each.name for each in tmp_path.iterdir()] == ["record.json"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and signal.getsignal(signal.SIGTERM) is terminating


def test_writes_that_belong_together_are_finished_together(tmp_path, terminating):
    def work():
        files.write_atomic(tmp_path / "records.csv", "1")
        os.kill(os.getpid(), signal.SIGINT)
        files.write_atomic(tmp_path / "tables.csv", "1")

    with pytest.raises(KeyboardInterrupt):
        files.uninterrupted(work)

    assert (tmp_path / "tables.csv").exists()


def test_a_write_that_fails_leaves_the_old_file_and_hears_interrupts_again(tmp_path, monkeypatch, terminating):
    path = tmp_path / "record.json"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", lambda *names: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        files.write_atomic(path, "new")

    assert path.read_text() == "old" and [each.name for each in tmp_path.iterdir()] == ["record.json"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
