"""Two nodes of Ray on loopback alone, in a network of their own, and commands that are run beside them.

    unshare -n python tests/ray_nodes.py WORDS... [-- WORDS...]

ADDRESS in the words becomes the cluster's. Each list of words is a call of tests/played.py, as lamm-cl is called; its status
and what it says are written to stdout as JSON, a line each.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def main(words: list[str]) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        for call in " ".join(words).split(" -- "):
            command = [sys.executable, str(HERE / "played.py"), *call.replace("ADDRESS", cluster.address).split()]
            start = time.monotonic()
            done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
            told = {"status": done.returncode, "out": done.stdout, "err": done.stderr, "seconds": time.monotonic() - start}
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
