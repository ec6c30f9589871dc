"""Runs on a cluster of Ray. What needs none is told without it; the rest runs on two nodes with loopback addresses only."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from strange import soon, told
from test_sweep import bytes_below, planned

from lamm_cl.config.cards import load_scenario
from lamm_cl.errors import UserError
from lamm_cl.results.file import read_record
from lamm_cl.sweeping import cluster, code, locks

HERE = Path(__file__).parent
DRIVEN = "run demo --dataset species --method coop --cache cache --results ray --ray ADDRESS --gpus-per-run 0"


def may_be_alone() -> bool:
    """Whether a process may have a network of its own, in which nothing but loopback is."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    return subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode == 0


# --- without a cluster -----------------------------------------------------------------------------------------------


def test_where_nobody_listens_that_is_told_at_once(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    with soon(10), pytest.raises(UserError, match=f"--ray: no Ray at 127.0.0.1:{port} .*'ray start --head'"):
        cluster.address_of(f"127.0.0.1:{port}", None)


@pytest.mark.parametrize("word", ["nowhere", "ray://host:1", ":6379", "host:", "host:port"])
def test_an_address_is_a_host_and_a_port(word):
    with pytest.raises(UserError, match="--ray: expected HOST:PORT"):
        cluster.address_of(word, None)


def test_without_an_address_a_cluster_must_run_here(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: str(tmp_path))

    with pytest.raises(UserError, match="--ray: no Ray runs here; start one with 'ray start --head'"):
        cluster.address_of("auto", None)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--gpus-per-run", "1"], "--gpus-per-run: goes with --ray only"),
        (["--ray", "127.0.0.1:1", "--jobs", "2"], "--jobs: with --ray the cluster places the runs"),
        (["--ray", "127.0.0.1:1", "--device", "cuda:1"], "--device cuda:1: with --ray the cluster places the runs"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, line, tmp_path):
    assert line in told("run", "demo", "--results", tmp_path / "results", *words)
    assert not (tmp_path / "results").exists()


@pytest.fixture
def run(tmp_path):
    return planned(load_scenario("demo"), tmp_path, seeds=[1])[0]


NODE = {"NodeManagerHostname": "two", "NodeManagerAddress": "10.0.0.2"}


@pytest.mark.parametrize(
    ("versions", "other", "sees", "line"),
    [
        ({"torch": "1.0"}, {}, (True, True), "torch 1.0, here .*; install the same version there"),
        ({"lamm-cl": "0.0.1"}, {}, (True, True), "lamm-cl 0.0.1, here "),
        ({}, {"towers/clip.py": "0" * 16}, (True, True), r"other code of lamm-cl \(towers/clip.py\)"),
        ({}, {}, (False, True), "does not see results; expected a folder that all nodes share"),
        ({}, {}, (True, False), "does not see data; "),
        ({}, {}, (True, True), ""),
    ],
)
def test_a_node_that_cannot_work_is_told_in_one_line(run, monkeypatch, versions, other, sees, line):
    here = {"lamm-cl": "0.1.0", "torch": "2.0"}
    monkeypatch.setattr(cluster.metadata, "version", here.__getitem__)
    answer = cluster.Node(here | versions, code.of_card(run.card) | other, sees)

    said = cluster.refused(NODE, answer, run, (Path("results"), Path("data")))

    if line:
        assert said.startswith("--ray: node two (10.0.0.2): ") and "\n" not in said
        assert re.search(line, said)
    else:
        assert said == ""


def test_a_node_that_went_away_while_it_was_asked_is_left_out_and_one_that_stays_silent_is_not(monkeypatch):
    answer = cluster.Node({}, {}, (True,))
    nodes = [NODE | {"NodeID": i} for i in range(3)]
    known = iter([nodes, nodes[1:], nodes[1:], nodes[1:]])  # that one is gone is known a little later
    monkeypatch.setattr(cluster, "GONE", 0.3)

    there = cluster.staying(nodes, ["cannot work", "did not answer", answer], lambda: next(known))

    assert there == [(nodes[1], "did not answer"), (nodes[2], answer)]


def test_what_a_killed_command_left_is_removed_and_what_a_living_one_needs_is_not(tmp_path):
    mine, dead = (tmp_path / f".ray.{locks.name()}" for _ in range(2))
    dead = dead.with_name(dead.name.replace(f".{os.getpid()}.", ".999999999."))
    for path in (mine, dead, tmp_path / ".ray.else"):
        path.touch()

    assert list(locks.abandoned(tmp_path, ".ray", mine.stat().st_mtime)) == [dead]


# --- on two nodes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    """What several commands in turn said, on one cluster of two nodes, and where."""
    if find_spec("ray") is None:
        pytest.skip("needs Ray: pip install 'lamm-cl[ray]'")
    if not may_be_alone():
        pytest.skip("needs 'unshare -n' and 'ip': the cluster is to have no network but loopback")
    folder = tmp_path_factory.mktemp("two")
    calls = [
        "nothing run demo --dataset species --method coop --cache cache --results jobs --jobs 2 --seed 1 --seed 2 --seed 3",
        f"nothing {DRIVEN} --seed 1 --seed 2 --seed 3 --seed 88",
        f"worker {DRIVEN} --seed 55",
        f"interrupt {DRIVEN} --seed 99",
        f"kill {DRIVEN} --seed 99",
        f"nothing {DRIVEN} --seed 4 --seed 5",
        f"node {DRIVEN} --seed 55 --method maple",
    ]
    path = os.pathsep.join([str(HERE.parent), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        ["unshare", "-n", sys.executable, str(HERE / "ray_nodes.py"), *" -- ".join(calls).split()],
        cwd=folder, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=400)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    told = [json.loads(line) for line in out.splitlines() if line.startswith('{"status"')]
    assert len(told) == len(calls), err[-3000:]
    return folder, dict(zip(("jobs", "ray", "worker", "interrupt", "kill", "after", "node"), told, strict=True))


def test_a_cluster_writes_the_same_bytes_as_two_jobs(two_nodes):
    folder, told = two_nodes
    assert told["jobs"]["status"] == 0

    for seed in (1, 2, 3):
        run = f"demo/runs/species/coop/shots16-seed{seed}"
        assert bytes_below(folder / "ray" / run) == bytes_below(folder / "jobs" / run)
    assert told["ray"]["out"].count(": finished") == 3 and ": 2 nodes\n" in told["ray"]["out"]


def test_a_run_that_kills_its_worker_again_and_again_fails_alone(two_nodes):
    _, told = two_nodes

    assert told["ray"]["status"] == 1
    assert "failed: species / coop / shots 16 / seed 88: WorkerCrashedError" in told["ray"]["err"]


@pytest.mark.parametrize(("lost", "method"), [("worker", "coop"), ("node", "maple")])
def test_a_run_that_lost_its_worker_or_node_is_done_all_the_same(two_nodes, lost, method):
    folder, told = two_nodes

    assert told[lost]["status"] == 0, told[lost]
    assert read_record(folder / f"ray/demo/runs/species/{method}/shots16-seed55/record.json").run.seed == 55


def test_an_interrupt_ends_the_tasks_and_another_sweep_finds_the_nodes_free(two_nodes):
    folder, told = two_nodes

    assert told["interrupt"]["status"] == 130 and told["kill"]["status"] == -signal.SIGKILL
    assert told["after"]["status"] == 0 and told["after"]["out"].count(": finished") == 2
    with locks.held(folder / "ray/demo/runs/species/coop/shots16-seed99"):
        pass  # whoever held it is gone


def test_nothing_of_rays_reaches_the_screen_but_its_warning_of_being_offline(two_nodes):
    _, told = two_nodes

    for each in told.values():
        lines = [line for line in each["err"].splitlines() if "network_util.cc" not in line]
        assert all(line.startswith("lamm-cl: ") for line in lines), lines
        assert "(raylet)" not in each["out"] and "\x1b" not in each["out"]


def test_what_a_sweep_on_a_cluster_leaves_is_what_any_sweep_leaves(two_nodes):
    folder, _ = two_nodes

    assert not [path for path in folder.rglob("*") if path.name.startswith((".ray-", ".lock"))]
