"""Runs on a cluster of Ray: one plain task a run, placed by Ray, while the disk says what is done (records, states, locks).

Only this file knows Ray, an extra (`lamm-cl[ray]`), and imports it when a cluster is asked for. A task that loses its worker
or node is repeated by Ray and goes on from its saved state; whatever we raise ourselves is an Event, and never repeated.
"""

import os
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import ModuleType

from lamm_cl.errors import UserError
from lamm_cl.sweeping import code, locks
from lamm_cl.sweeping.execute import PATIENCE, Event, Events, Place, Settings, Train, outcome
from lamm_cl.sweeping.plan import Run

AUTO = "auto"
RETRIES = 3  # of a run whose worker or node went away
AGAIN = 10  # seconds before a run that another process does is placed again: a slot would be held for nothing
TELL = 0.5  # seconds between two positions of a run
GONE = 10  # seconds within which Ray knows that a node went away
ANSWER = 60  # seconds that a node has to say what it sees
NO_NODE = "--ray: no node of the cluster has a CPU for runs"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # no telemetry; no GPU unless asked for


@dataclass(frozen=True)
class Node:
    """What a node says of itself."""

    versions: dict[str, str]
    code: dict[str, str]  # file -> hash
    sees: tuple[bool, ...]  # each of the places it was asked for


def address_of(wanted: str, told: str | None) -> tuple[str, int]:
    """Where the cluster listens: HOST:PORT, or for "auto" what is `told` ($RAY_ADDRESS) or what Ray noted on this machine.

    Raises UserError where nobody listens: Ray itself would go on trying for minutes.
    """
    text = wanted
    if wanted == AUTO:
        noted = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
        text = told or (noted.read_text().strip() if noted.is_file() else "")
        if not text:
            raise UserError("--ray: no Ray runs here; start one with 'ray start --head', or give its ADDRESS (HOST:PORT)")
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdecimal() and "/" not in host):
        raise UserError(f"--ray: expected HOST:PORT, got {text!r}")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "no answer"
        raise UserError(f"--ray: no Ray at {text} ({reason}); start one there with 'ray start --head'") from None
    return host, int(port)


def connect(address: tuple[str, int]) -> None:
    """Join the cluster, in silence. Raises UserError where that is no Ray, or another version of it."""
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    ray = _ray()
    with suppress(AttributeError):  # "(raylet) Task do failed ..." comes through here whatever is asked for, across our screen
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
    told = {"env_vars": {"OMP_NUM_THREADS": "1", **QUIET}}
    try:
        ray.init(address=f"{address[0]}:{address[1]}", log_to_driver=False, logging_level="CRITICAL", runtime_env=told)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"--ray: {address[0]}:{address[1]} is no Ray to join ({' '.join(str(error).split())[:200]})") from None


def leave() -> None:
    with suppress(Exception):  # of a cluster that is gone
        _ray().shutdown()


def gpus() -> float:
    """Of all nodes together."""
    return _ray().cluster_resources().get("GPU", 0)


def check_nodes(runs: Sequence[Run], results: Path, data: Sequence[Path]) -> int:
    """How many nodes there are for runs. Raises UserError, in one line, unless each has our versions and code, and sees the
    results folder and the data. One that goes away meanwhile is no reason to stop."""
    ray = _ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    nodes = _nodes()
    if not nodes:
        raise UserError(NO_NODE)
    results.mkdir(parents=True, exist_ok=True)
    token = results / f".ray.{locks.name()}"
    try:
        token.touch()
        for left in locks.abandoned(results, ".ray", token.stat().st_mtime):  # by who was killed meanwhile
            left.unlink(missing_ok=True)
        ask = ray.remote(num_cpus=0, max_retries=0)(_node)
        places = (token, *data)
        asked = [ask.options(scheduling_strategy=On(node["NodeID"], soft=False)).remote(os.getcwd(), places, runs[0].card)
                 for node in nodes]  # fmt: skip
        ray.wait(asked, num_returns=len(asked), timeout=ANSWER)
        answers = list(map(_answer, asked))
    finally:
        token.unlink(missing_ok=True)
    there = staying(nodes, answers, _nodes)
    if not there:
        raise UserError(NO_NODE)
    wrong = [refused(node, answer, runs[0], (results, *data)) for node, answer in there]
    if told := [each for each in wrong if each]:
        raise UserError(told[0] + (f"; {len(told) - 1} more of {len(nodes)} nodes cannot work either" if told[1:] else ""))
    return len(there)


def _nodes() -> list[dict]:
    """Those with a CPU for runs that Ray takes for alive."""
    return [node for node in _ray().nodes() if node["Alive"] and node["Resources"].get("CPU")]


def staying(nodes: Sequence[dict], answers: Sequence[Node | str], alive: Callable[[], list[dict]]
            ) -> list[tuple[dict, Node | str]]:  # fmt: skip
    """Nodes with their answers, without those that gave none because they went away: Ray hears of that some seconds later."""
    there = list(zip(nodes, answers, strict=True))
    deadline = time.monotonic() + GONE
    while any(isinstance(answer, str) for _, answer in there):
        known = {node["NodeID"] for node in alive()}
        there = [(node, answer) for node, answer in there if not isinstance(answer, str) or node["NodeID"] in known]
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return there


def _node(folder: str, places: Sequence[Path], card: object) -> Node:
    """On a node: what is there."""
    with suppress(OSError):
        os.chdir(folder)  # where relative places begin
    return Node(_versions(), code.of_card(card), tuple(Path(place).expanduser().exists() for place in places))


def _versions() -> dict[str, str]:
    found = {}
    for name in ("lamm-cl", "torch"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _answer(asked: object) -> Node | str:
    """What a node says, or why it does not."""
    ray = _ray()
    try:
        return ray.get(asked, timeout=0.1)
    except ray.exceptions.GetTimeoutError:
        return f"did not answer within {ANSWER} s"
    except ray.exceptions.RayError as error:
        return f"cannot work ({str(error).strip().splitlines()[-1][:200]})"


def refused(node: dict, answer: Node | str, run: Run, places: Sequence[Path]) -> str:
    where = f"--ray: node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    if isinstance(answer, str):
        return f"{where}: {answer}"
    for name, here in _versions().items():
        if (there := answer.versions.get(name)) != here:
            return f"{where}: {name} {there or 'is not installed'}, here {here}; install the same version there"
    ours = code.of_card(run.card)
    if differs := sorted(name for name in ours.keys() | answer.code.keys() if ours.get(name) != answer.code.get(name)):
        return f"{where}: other code of lamm-cl ({', '.join(differs[:3])}); install the same version there"
    for place, seen in zip(places, answer.sees, strict=True):
        if not seen:
            return f"{where}: does not see {place}; expected a folder that all nodes share"
    return ""


def _mailbox() -> type:
    class Mailbox:
        """What tasks tell, kept until the driver asks; and what the driver has to say: whether to stop."""

        def __init__(self) -> None:
            self.mail: list[tuple] = []
            self.stopping = False

        def put(self, *mail: object) -> bool:
            self.mail.append(mail)
            return self.stopping

        def take(self) -> list[tuple]:
            mail, self.mail = self.mail, []
            return mail

        def stop(self) -> None:
            self.stopping = True

    return Mailbox


def do(run: Run, settings: Settings, train: Train, mailbox: object, folder: str) -> Event:
    """On a node: one run."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # Ray has its own, without our clean-up
    with suppress(OSError):
        os.chdir(folder)  # a worker begins in a folder of Ray's
    last = 0.0

    def tell(event: Event) -> None:
        nonlocal last
        if event.kind != "progress" or time.monotonic() - last > TELL:
            last = time.monotonic()
            if _ask(mailbox, str(run.folder), event.kind, event.share, event.text):
                raise KeyboardInterrupt  # cancelling a task on another host is not always heard

    try:
        tell(Event(run, "started"))
        return outcome(run, settings, train, tell)
    except KeyboardInterrupt:
        return Event(run, "elsewhere", text="stopped")


def _ask(mailbox: object, *mail: object) -> bool:
    """Whether to stop; also where the one to tell is gone."""
    ray = _ray()
    try:
        return ray.get(mailbox.put.remote(*mail), timeout=PATIENCE)
    except ray.exceptions.RayError:
        return True


def place(gpus_per_run: float, retries: int = RETRIES) -> Place:
    """Runs as tasks of the cluster that was joined."""
    return lambda runs, settings, train: _in_ray(runs, settings, train, gpus_per_run, retries)


def _in_ray(runs: Sequence[Run], settings: Settings, train: Train, gpus_per_run: float, retries: int) -> Events:
    ray = _ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    here = On(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(num_cpus=0, max_restarts=0)(_mailbox()).options(scheduling_strategy=here).remote()
    task = ray.remote(max_retries=retries, retry_exceptions=False, max_calls=0, num_cpus=1, num_gpus=gpus_per_run)(do)
    shared = [ray.put(each) for each in (settings, train)]
    folder = os.getcwd()

    def submit(run: Run) -> object:
        return task.remote(run, *shared, mailbox, folder)

    refs = {submit(run): run for run in runs}
    active = {str(run.folder): run for run in runs}
    begun: set[str] = set()  # a repeated task begins again, and is one run on the screen
    later: deque[tuple[float, Run]] = deque()
    try:
        while refs or later:
            while later and later[0][0] <= time.monotonic():
                run = later.popleft()[1]
                refs[submit(run)] = run
            done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0.2, fetch_local=False) if refs else ([], [])
            if not refs:
                time.sleep(0.2)
            for name, kind, share, text in ray.get(mailbox.take.remote()):
                if kind == "started" and name not in begun:
                    begun.add(name)
                    yield Event(active[name], "started")
                elif kind in ("progress", "note") and name in begun:
                    yield Event(active[name], kind, share, text)
            for ref in done:
                run = refs.pop(ref)
                if str(run.folder) not in begun:
                    yield Event(run, "started")
                begun.discard(str(run.folder))
                event = _ended(run, ref)
                if event.kind == "elsewhere":
                    later.append((time.monotonic() + AGAIN, run))
                yield event
    finally:
        _stop(mailbox, list(refs))


def _ended(run: Run, ref: object) -> Event:
    ray = _ray()
    try:
        return replace(ray.get(ref), run=run)
    except ray.exceptions.RayError as error:  # its worker or node was lost once too often, or out of memory
        first = (str(error).strip().splitlines() or [""])[0]
        hint = "; fewer runs a node need less memory" if isinstance(error, ray.exceptions.OutOfMemoryError) else ""
        return Event(run, "failed", text=f"{type(error).__name__}: {first}{hint}\n")


def _stop(mailbox: object, refs: list) -> None:
    """What is queued is called off, what runs is told to stop, and killed when it does not listen."""
    ray = _ray()
    if not refs:
        return
    with suppress(ray.exceptions.RayError):
        ray.get(mailbox.stop.remote(), timeout=1)
    for force in (False, True):
        for ref in refs:
            with suppress(ray.exceptions.RayError, ValueError):
                ray.cancel(ref, force=force)
        _, refs = ray.wait(refs, num_returns=len(refs), timeout=PATIENCE, fetch_local=False)
        if not refs:
            break
    with suppress(ray.exceptions.RayError):
        ray.kill(mailbox)


def _ray() -> ModuleType:
    try:
        import ray
    except ImportError:
        raise UserError("--ray: needs the package ray; pip install 'lamm-cl[ray]'") from None
    return ray
