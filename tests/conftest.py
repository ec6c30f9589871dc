"""Options and fixtures of all tests.  One torch thread: two on shared cores can collapse."""

import json
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what it puts in the background with Ctrl-C ignored

import numpy as np  # noqa: E402
import pytest  # noqa: E402

REFERENCE = Path(__file__).parent / "fidelity"
FROM_WORKERS: list[tuple[dict[str, int], dict[str, list]]] = []  # what each process of `pytest -n 2` counted


def pytest_addoption(parser):
    parser.addoption("--fidelity-cases", help="a folder with cases.json and its .npz files, instead of tests/fidelity*/")
    parser.addoption("--fidelity-closeness", action="store_true", help="also tell, per method, how close the values came")
    parser.addoption("--linears", choices=("plain", "packed"), default="plain", help="how generated CLIPs compute")


def pytest_configure(config):
    import generated

    generated.LINEARS = config.getoption("--linears")


def cases_in(folder: Path):
    """(cases.json, name -> its arrays)."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    return json.loads((folder / "cases.json").read_text()), load


@pytest.fixture(scope="session")
def fidelity(request):
    """(cases.json, name -> its arrays) of the folder asked for, or of the prompt learners."""
    return cases_in(Path(request.config.getoption("--fidelity-cases") or REFERENCE))


@pytest.fixture
def fidelity_case(request):
    """(cases.json, name -> its arrays, name of one case)."""
    folder, name = request.param
    return *cases_in(folder), name


def pytest_generate_tests(metafunc):
    if "fidelity_case" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--fidelity-cases")
        folders = [Path(asked)] if asked else sorted(path.parent for path in REFERENCE.parent.glob("fidelity*/cases.json"))
        named = [(folder, name) for folder in folders for name in sorted(cases_in(folder)[0]["cases"])]
        ids = [name if asked or folder == REFERENCE else f"{folder.name}-{name}" for folder, name in named]
        metafunc.parametrize("fidelity_case", named, indirect=True, ids=ids)


def counted() -> tuple[dict[str, int], dict[str, list]]:
    """What test_fidelity.py compared in this process: cases and arrays, and per method how close they came."""
    module = sys.modules.get("test_fidelity")
    if not module:
        return {}, {}
    plain = {method: [(float(share), *where) for share, *where in shares] for method, shares in module.CLOSENESS.items()}
    return module.COUNTED, plain


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # one of several processes: what it counted goes to the one that tells
        session.config.workeroutput["fidelity"] = counted()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    FROM_WORKERS.append(getattr(node, "workeroutput", {}).get("fidelity", ({}, {})))


def pytest_terminal_summary(terminalreporter, config):
    found = [*FROM_WORKERS, counted()]
    cases, arrays, skipped = (sum(each.get(key, 0) for each, _ in found) for key in ("cases", "arrays", "skipped"))
    if not arrays:
        return
    terminalreporter.write_line(
        f"fidelity: {cases} cases and {arrays} arrays compared with the authors' released code,"
        f" {skipped} optional arrays not computed"
    )
    if config.getoption("--fidelity-closeness"):
        for method in dict.fromkeys(method for _, each in found for method in each):
            shares = [tuple(share) for _, each in found for share in each.get(method, ())]
            worst, case, array = max(shares)
            cases = len({case for _, case, _ in shares})
            terminalreporter.write_line(
                f"| {method} | {cases} | {len(shares)} | {100 * worst:.0f}% ({case}, {array.removeprefix('eval/')}) |"
                f" {100 * sorted(share for share, _, _ in shares)[len(shares) // 2]:.1f}% |"
            )
