"""How commands start and end: nothing is imported that they do not use, nothing is lost by it, and they leave at once."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lamm_cl.bench import speed

DEMO = Path(__file__).parent.parent / "results/reference/demo"
HEAVY = {"scipy", "torchmetrics", "wandb", "gdown", "tensorboard", "sympy", "timm.models", "qpsolvers.problem"}


def python(code: str) -> str:
    """What a fresh process says that runs the code."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_trains_imports_no_package_that_it_does_not_use_and_every_name_of_theirs_is_there_when_it_is_asked_for():
    """One process, since it costs seconds: first a step of an optimizer, then the names, then torch's compiler."""
    told = python(f"""if True:
        import sys
        from lamm_cl.training import run, stream
        import torch
        weight = torch.nn.Parameter(torch.ones(2))
        step = torch.optim.SGD([weight], lr=0.5)
        weight.sum().backward()
        step.step()
        assert weight.tolist() == [0.5, 0.5]
        print(sorted({HEAVY!r} & {{*sys.modules}}))
        from avalanche.benchmarks import SplitMNIST
        from avalanche.evaluation.metrics import topk_acc_metrics, accuracy_metrics
        from avalanche.logging import TensorboardLogger, WandBLogger
        from avalanche.training import Naive, Replay
        from avalanche.training.supervised import EWC
        import torchvision.models, torchvision.ops
        assert torchvision.models.resnet18 and torchvision.ops.nms and issubclass(Replay, Naive.__mro__[1])
        try:
            from avalanche.benchmarks import SplitMnist
        except ImportError as error:
            print(error)
        double = torch.compile(lambda x: 2 * x, backend="eager")
        assert double(torch.ones(1)).tolist() == [2] and "sympy" in sys.modules
    """).splitlines()

    assert told[0] == "[]"
    assert told[1].startswith("cannot import name 'SplitMnist' from 'avalanche.benchmarks'")


def test_what_was_imported_before_stays_what_it_is():
    code = "import qpsolvers; from lamm_cl import deferred; deferred.defer(); import qpsolvers; print(type(qpsolvers).__name__)"
    assert python(code) == "module\n"


LEAVES = """if True:
    import atexit, os, sys, tempfile, threading, time
    from lamm_cl.leaving import at_once
    folder = tempfile.TemporaryDirectory()
    print(folder.name)
    atexit.register(lambda: print("registered"))
    class Late:
        def __del__(self, write=os.write): write(2, b"taken apart")
    kept = Late()
    threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
    {before}
    at_once(7)
"""


@pytest.mark.parametrize(("before", "last"), [("", ""), ("sys.setprofile(lambda *_: None)", "taken apart")])
def test_a_process_leaves_when_threads_have_ended_and_all_is_done_and_said(before, last):
    done = subprocess.run([sys.executable, "-c", LEAVES.format(before=before)], capture_output=True, text=True, timeout=60)

    folder, *said = done.stdout.split("\n")[:-1]
    assert (done.returncode, done.stderr) == (7, last)
    assert said == ["thread", "registered"] and not Path(folder).exists()


def test_what_cannot_be_said_is_told_with_its_status():
    """A table into a full disk, a pipe that nobody reads: what was buffered is looked at before the process leaves."""
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "lamm_cl", "table", str(DEMO), "--format", "csv"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)

    assert done.returncode == 2 and done.stderr.startswith("lamm-cl: ") and "No space left on device" in done.stderr


# --- the speed of a machine -------------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch):
    """How often it was measured."""
    times = []

    def once(*what: object) -> speed.Speed:
        times.append(what)
        return speed.Speed(10.0, 20.0, 64)

    monkeypatch.setattr(speed, "speed", once)
    return times


def test_a_speed_is_measured_once_for_its_machine_architecture_and_precision(measured, tmp_path):
    today = datetime.now(UTC).date()
    first = speed.known(tmp_path, "ViT-B-16", "fp32", "cpu")

    assert first == speed.known(tmp_path, "ViT-B-16", "fp32", "cpu") == (speed.Speed(10.0, 20.0, 64), today)
    assert len(measured) == 1
    speed.known(tmp_path, "ViT-B-16", "bf16", "cpu")
    speed.known(tmp_path, "ViT-B-32", "fp32", "cpu")
    assert len(measured) == 3


@pytest.mark.parametrize("content", ["old", "tomorrow", "{", '{"speed": {"images": 0}}', ""])
def test_a_speed_that_is_old_or_damaged_is_measured_again(measured, tmp_path, content):
    speed.known(tmp_path, "ViT-B-16", "fp32", "cpu")
    (path,) = tmp_path.rglob("*.json")
    days = {"old": speed.DAYS, "tomorrow": -2}.get(content)
    facts = json.loads(path.read_text())
    if days is not None:
        content = json.dumps(facts | {"date": (datetime.now(UTC).date() - timedelta(days)).isoformat()})
    path.write_text(content)

    assert speed.known(tmp_path, "ViT-B-16", "fp32", "cpu")[1] == datetime.now(UTC).date()
    assert len(measured) == 2 and json.loads(path.read_text()) == facts


def test_the_first_line_of_a_run_is_there_before_anything_heavy_is_imported(tmp_path):
    """Told as the time of the processor, of which a busy machine changes less: 0.4 s were asked for, twice that is allowed."""
    code = ("import os, resource, sys, lamm_cl.cli.screen as screen\n"
            "def say(*lines):\n"
            "    used = resource.getrusage(resource.RUSAGE_SELF)\n"
            "    os.write(1, f'{used.ru_utime + used.ru_stime} {\"torch\" in sys.modules}'.encode()); os._exit(0)\n"
            "screen.say = say\n"
            "from lamm_cl.cli.main import main\n"
            f"main(['run', 'demo', '--dry-run', '--results', {str(tmp_path)!r}, '--cache', {str(tmp_path)!r}])")  # fmt: skip
    seconds, heavy = python(code).split()

    assert float(seconds) < 0.8 and heavy == "False"
