"""Cold caches: processes that start together make each entry of the bank once."""

import threading
import time

import numpy as np
import pytest

from lamm_cl.sweeping import locks
from lamm_cl.sweeping.execute import _position
from lamm_cl.sweeping.plan import Progress
from lamm_cl.training import bank

FACTS = {"weights": "w", "samples": "s"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(bank, "PAUSE", 0.01)


def test_who_starts_together_makes_an_entry_once(tmp_path):
    made, got = [], []

    def make():
        made.append(1)
        time.sleep(0.3)
        return np.arange(6)

    threads = [threading.Thread(target=lambda: got.append(bank.get(tmp_path, FACTS, make))) for _ in range(5)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert len(made) == 1 and len(got) == 5 and all((each == np.arange(6)).all() for each in got)
    assert sorted(path.suffix for path in tmp_path.glob("*/*")) == [".json", ".npy"]  # and no lock


def test_entries_that_are_there_are_read_without_a_lock(tmp_path, monkeypatch):
    bank.get(tmp_path, FACTS, lambda: np.arange(6))
    monkeypatch.setattr(locks, "waited", None)

    assert (bank.get(tmp_path, FACTS, lambda: 1 / 0) == np.arange(6)).all()


def test_sets_of_entries_that_overlap_do_not_wait_in_a_circle(tmp_path):
    wanted = {name: FACTS | {"kind": name} for name in "abc"}

    def make(names):
        time.sleep(0.05)
        return {name: np.full(3, ord(name)) for name in names}

    got = []
    orders = [("a", "b"), ("b", "c"), ("c", "a"), ("b", "a")]
    threads = [
        threading.Thread(target=lambda o=o: got.append(bank.get_all(tmp_path, {n: wanted[n] for n in o}, lambda: make(o))))
        for o in orders
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)

    assert len(got) == 4 and all((array == ord(name)).all() for each in got for name, array in each.items())


def test_waiting_for_an_entry_tells_for_whom(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WORD", 0.1)
    heard = []
    place = bank.place(tmp_path, FACTS).with_suffix(".making")

    with locks.held(place):
        waiting = threading.Thread(target=lambda: bank.get(tmp_path, FACTS, lambda: np.arange(6), heard.append))
        waiting.start()
        time.sleep(0.5)
    waiting.join(20)

    assert len(heard) == 1 and "waiting for its lock (done by process" in heard[0]
    assert _position(Progress(0, 2, 1, 5, "test", waits="waits"))[1] == "untrained, test; waits"


def test_the_lock_of_a_process_that_was_killed_is_taken_over(tmp_path):
    place = bank.place(tmp_path, FACTS).with_suffix(".making")
    with locks.held(place) as lock:
        dead = lock.file.name.split(".")
    dead[-2] = "999999999"  # no process has this number
    (place / "lock").mkdir(parents=True)
    (place / "lock" / ".".join(dead)).touch()

    assert (bank.get(tmp_path, FACTS, lambda: np.arange(6)) == np.arange(6)).all()
