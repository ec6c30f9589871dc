"""Kills workers, nodes and the command of `lamm-cl run --ray` at random moments, and compares the end with an uninterrupted run.

    unshare -n python tests/soak_ray.py --kills 10 --minutes 30 -- demo --dataset digits --seed 1
    unshare -n python tests/soak_ray.py --played 1000

Two nodes of one core in a network that has nothing but loopback. Worker, node and command take turns until each was killed
`--kills` times; a node that was killed is replaced by a new one, the command is started again. Whenever all runs are finished,
records, tensors and tables are compared with those of `--jobs 2`, and a new round begins. Exit status 1 if anything differs.
`--played`: that many runs of no work, one after another on one core of the cluster; milliseconds a run, by Ray and in a process.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml
from soak_kill import differences, fresh

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
               "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}  # fmt: skip
WHAT = ("worker", "node", "command")
PLAYED = """import sys, played
from lamm_cl.cli import doors, main
main.run._derive = lambda *_: 0  # figures are of no interest here
doors.train = played.train
sys.exit(main.main())"""


class Soak:
    def __init__(self, cluster, words: list[str], folder: Path, longest: float, seed: int):
        self.cluster, self.words, self.folder, self.longest = cluster, words, folder, longest
        self.random, self.kills, self.rounds, self.mismatches = random.Random(seed), Counter(), 0, []
        self.nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]

    def start(self, results: Path, where: list[str]) -> subprocess.Popen:
        command = [sys.executable, "-m", "lamm_cl", "run", *self.words, *where, "--save-every", "0", "--results", str(results)]
        with (results.parent / "log").open("a") as log:
            return subprocess.Popen([*command, "--cache", str(results.parent / "cache")], stdout=log, stderr=log,
                                    env=os.environ | ENVIRONMENT, start_new_session=True)  # fmt: skip

    def on_ray(self, results: Path) -> subprocess.Popen:
        return self.start(results, ["--ray", self.cluster.address])

    def round(self, kills: int, deadline: float, whole: Path) -> None:
        """Kill one after another until all runs are finished; compare."""
        self.rounds += 1
        results = fresh(self.folder / f"round{self.rounds}")
        process = self.on_ray(results)
        while process.poll() is None:
            try:
                process.wait(self.random.uniform(0, self.longest))
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline + 300:  # what is left was given time to finish
                    process.kill()
                    self.mismatches.append(f"round {self.rounds}: no end")
                elif time.monotonic() < deadline and (todo := [what for what in WHAT if self.kills[what] < kills]):
                    process = self.kill(min(todo, key=self.kills.__getitem__), process, results)
        if process.returncode != 0:
            self.mismatches.append(f"round {self.rounds}: exit status {process.returncode}: {tail(results.parent / 'log')}")
        self.mismatches += [f"round {self.rounds}: {text}" for text in differences(whole, results)]

    def kill(self, what: str, process: subprocess.Popen, results: Path) -> subprocess.Popen:
        """-> the command that is running afterwards."""
        if what == "command":
            process.kill()
            process.wait()
            process = self.on_ray(results)
        elif what == "node":
            lost = self.nodes.pop(self.random.randrange(len(self.nodes)))
            self.cluster.remove_node(lost, allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=1))
        else:
            owners = [int(owner.name.split(".")[-2]) for owner in results.glob("*/runs/*/*/*/lock/*")]
            if not owners:
                return process  # nothing is being done in this moment
            try:
                os.kill(self.random.choice(owners), signal.SIGKILL)
            except ProcessLookupError:
                return process
        self.kills[what] += 1
        return process


def tail(path: Path) -> str:
    return path.read_text()[-2000:]


def played(cluster, runs: int, folder: Path) -> str:
    """The time between the first and the last record, a run."""
    cluster.add_node(num_cpus=1)
    scenario = yaml.safe_load((HERE.parent / "scenarios" / "demo.yaml").read_text())
    seeds = list(range(1000, 1000 + runs))  # none of those that played runs take for more than a number
    scenario |= {"name": "trivial", "datasets": ["species"], "methods": ["coop"], "seeds": seeds}
    (folder / "trivial.yaml").write_text(yaml.safe_dump(scenario))
    found = {}
    for name, where in {"in a process": [], "by Ray": ["--ray", cluster.address]}.items():
        results = fresh(folder / name.replace(" ", "-"))
        command = [sys.executable, "-c", PLAYED, "run", str(folder / "trivial.yaml"), *where, "--results", str(results)]
        with (results.parent / "log").open("w") as log:
            done = subprocess.run(command, env=os.environ | ENVIRONMENT, stdout=log, stderr=log, cwd=folder)
        times = sorted(path.stat().st_mtime for path in results.glob("*/runs/*/*/*/record.json"))
        if done.returncode or len(times) != runs:
            return f"{name}: exit status {done.returncode}, {len(times)} records: {tail(results.parent / 'log')}"
        found[name] = 1000 * (times[-1] - times[0]) / (runs - 1)
    return f"{runs} played runs, one core: " + ", ".join(f"{ms:.1f} ms a run {name}" for name, ms in found.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10, help="of each kind")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--longest", type=float, default=25, help="seconds between two kills at most")
    parser.add_argument("--random-seed", type=int, default=1)
    parser.add_argument("--played", type=int, help="measure this many runs of no work instead")
    parser.add_argument("words", nargs="*", default=["demo", "--dataset", "digits", "--seed", "1"], help="of lamm-cl run")
    args = parser.parse_args()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ |= ENVIRONMENT
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        with tempfile.TemporaryDirectory() as folder:
            if args.played:
                print(played(cluster, args.played, Path(folder)), flush=True)
                return 0
            soak = Soak(cluster, args.words, Path(folder), args.longest, args.random_seed)
            whole = fresh(Path(folder) / "whole")
            assert soak.start(whole, ["--jobs", "2"]).wait() == 0, tail(whole.parent / "log")
            deadline = time.monotonic() + 60 * args.minutes
            while not soak.mismatches and time.monotonic() < deadline and min(soak.kills[what] for what in WHAT) < args.kills:
                soak.round(args.kills, deadline, whole)
                counts = ", ".join(f"{what} {soak.kills[what]}" for what in WHAT)
                print(f"{soak.rounds} rounds, kills: {counts}; {len(soak.mismatches)} mismatches", flush=True)
            print("\n".join(soak.mismatches), flush=True)
    finally:
        cluster.shutdown()
    return 1 if soak.mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
