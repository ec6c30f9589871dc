"""Options and fixtures of all tests.  One torch thread: two on shared cores can collapse."""

import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import pytest  # noqa: E402

REFERENCE = Path(__file__).parent / "fidelity"


def pytest_addoption(parser):
    parser.addoption("--fidelity-cases", default=str(REFERENCE), help="a folder with cases.json and its .npz files")


@pytest.fixture(scope="session")
def fidelity(request):
    """(cases.json, name -> its arrays)."""
    folder = Path(request.config.getoption("--fidelity-cases"))

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    return json.loads((folder / "cases.json").read_text()), load


def pytest_generate_tests(metafunc):
    if "case_name" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--fidelity-cases"))
        metafunc.parametrize("case_name", sorted(json.loads((folder / "cases.json").read_text())["cases"]))


def pytest_terminal_summary(terminalreporter):
    import sys

    counted = getattr(sys.modules.get("test_fidelity"), "COUNTED", None)
    if counted and counted["arrays"]:
        terminalreporter.write_line(
            f"fidelity: {counted['cases']} cases and {counted['arrays']} arrays compared with the authors' released code,"
            f" {counted['skipped']} optional arrays not computed"
        )
