"""Two nodes of Ray on loopback alone, in a network of their own, and commands that are run beside them, with training played.

    unshare -n python tests/ray_nodes.py WHAT WORDS... [-- WHAT WORDS...]

WORDS are those of lamm-cl, in which ADDRESS becomes the cluster's. WHAT happens once a run is in progress: nothing, interrupt
or kill (the command), worker or node (which does the run, is killed). Its status, what it says and how long it took from then
on are written to stdout as JSON, a line each.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = 90  # that a command may take
COMMAND = """import sys, played
from lamm_cl.cli import doors, main
main.run._derive = lambda *_: 0  # figures are of no interest here
doors.train = played.train
sys.exit(main.main())"""


def main(words: list[str]) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        for call in " ".join(words).split(" -- "):
            what, *command = call.replace("ADDRESS", cluster.address).split()
            sys.stdout.write(json.dumps(called(cluster, what, command)) + "\n")
            sys.stdout.flush()
    finally:
        cluster.shutdown()


def called(cluster, what: str, words: list[str]) -> dict:
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if what != "nothing":
            happen(cluster, what, process)
        start = time.monotonic()
        out, err = process.communicate(timeout=SECONDS)
    except BaseException:
        process.kill()
        raise
    return {"status": process.returncode, "out": out, "err": err, "seconds": time.monotonic() - start}


def happen(cluster, what: str, process: subprocess.Popen) -> None:
    """Once a run lies still: played runs say so."""
    end = time.monotonic() + SECONDS
    while not (tried := [*Path().glob("*/demo/runs/*/*/*/tried")]):
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.1)
    [owner] = (tried[0].parent / "lock").iterdir()
    worker = int(owner.name.split(".")[-2])
    time.sleep(0.5)
    if what in ("interrupt", "kill"):
        process.send_signal({"interrupt": signal.SIGINT, "kill": signal.SIGKILL}[what])
    elif what == "worker":
        os.kill(worker, signal.SIGKILL)
    else:
        parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
        [node] = [each for each in cluster.worker_nodes if each.all_processes["raylet"][0].process.pid == parent]
        cluster.remove_node(node, allow_graceful=False)
    if what in ("interrupt", "kill"):
        process.wait(SECONDS)
        tried[0].unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
