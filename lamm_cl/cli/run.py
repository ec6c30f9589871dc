"""run: a scenario's runs, those that are not finished, then the tables and figures of all.

All that a person can have got wrong is looked at before the first run: names, folders, extras, data.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lamm_cl.cli import arguments, choice, dry_run, results
from lamm_cl.cli.datasets import Datasets
from lamm_cl.cli.progress import Bars, Lines
from lamm_cl.cli.screen import complain, console, say
from lamm_cl.errors import UserError
from lamm_cl.files import refusal

if TYPE_CHECKING:
    from lamm_cl.config.schema import Scenario
    from lamm_cl.data.dataset import Dataset
    from lamm_cl.sweeping.execute import Event, Place, Settings
    from lamm_cl.sweeping.plan import Run
    from lamm_cl.sweeping.same import Made

DERIVING = {"table": "tables", "plot": "figures", "report": "the page"}
MANY = 1000  # runs whose figures are drawn when they are asked for
LOGS = ("csv", "tensorboard", "wandb")


def add(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser(
        "run",
        help="run a scenario",
        description="Run a scenario. Finished runs are skipped and unfinished ones go on: the same command is always "
        "safe. METHOD, DATASET, SEED and K replace the scenario's lists; give an option again for several.",
    )
    choice.add(run)
    arguments.add_cache(run, of="features and generated images")
    arguments.add_device(run)
    run.add_argument("--jobs", type=arguments.positive, default=1, metavar="N", help="processes, one thread each (default: 1)")
    text = "do the runs on a cluster of Ray: HOST:PORT, or the one that this machine is part of; needs lamm-cl[ray]"
    run.add_argument("--ray", nargs="?", const="auto", metavar="ADDRESS", help=text)
    text = "with --ray: share of a GPU for each run (default: 1 where the cluster has GPUs, else 0)"
    run.add_argument("--gpus-per-run", type=arguments.share, metavar="SHARE", help=text)
    run.add_argument("--report", action="store_true", help="at the end, also write the page of 'lamm-cl report'")
    run.add_argument(
        "--save-every",
        type=arguments.seconds,
        default=30,
        metavar="SECONDS",
        help="least time between saved states of a run; a kill costs that much and an epoch (default: 30)",
    )
    text = "also where records.csv has counts whose records are gone, which are lost then"
    run.add_argument("--replace", action="store_true", help=text)
    text = "keep finished runs though the file of their method changed since"
    run.add_argument("--other-code", action="store_true", help=text)
    run.add_argument("--dry-run", action="store_true", help="print what would be done, write nothing")
    text = "also write training curves, to logs/ in each run's folder; wandb: offline"
    run.add_argument("--log", action="append", default=[], choices=LOGS, help=text)
    text = "also write what is predicted for each test image, to predictions.csv.gz in each run's folder; a finished run " \
        "without it is done again for it, its record stays"  # fmt: skip
    run.add_argument("--predictions", action="store_true", help=text)
    text = "frozen linear layers packed for the processor, as torch computes them, or what a self-check finds faster (auto)"
    run.add_argument("--linears", choices=("auto", "packed", "plain"), default="auto", help=text)
    run.add_argument("--checkpoint-activations", action="store_true", help="recompute blocks: less memory, the same values")
    run.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    from lamm_cl.cli import doors
    from lamm_cl.extras import check_logs
    from lamm_cl.results.predictions import are_there
    from lamm_cl.sweeping.execute import Settings
    from lamm_cl.sweeping.plan import made, unfinished
    from lamm_cl.sweeping.publish import check_kept, tidy

    address = _cluster_of(args)
    root, cache = arguments.data_root(args), arguments.cache(args)
    everything = choice.planned(args)
    runs = choice.chosen(everything, args)
    if not runs:
        say(f"nothing to do: of {len(everything)} runs none is in shard {choice.shard(args.shard)}")
        return 0
    folder = args.results / runs[0].scenario.name
    check_writable(folder)
    if args.report:
        from lamm_cl.reports.page import page

        page.check_installed()  # told now, not after hours
    if args.log:
        check_logs(args.log)
    done = made(runs)
    todo = [run for run in runs if run.folder not in done or (args.predictions and not are_there(run.folder))]
    check_kept(runs, args.replace)
    datasets = Datasets(runs[0].scenario, root, cache)
    check_same(runs, done, datasets, cache, other_code=args.other_code, tell=say)
    check_data(todo, datasets, tell=say)
    if args.dry_run:
        return dry_run.tell(runs, todo, args, datasets)
    try:
        tidy([run for run in runs if run.folder in done], doors.derived, say, cache)
    except (UserError, OSError) as error:
        if not todo:
            raise
        complain(f"reports are not up to date: {error}")  # which keeps no run from being done
    if not todo:
        say(f"nothing to do: all {len(runs)} runs are finished")
        if len(runs) < len(everything) and unfinished(everything):
            return 0
        fresh = _derived_is_fresh(folder) and (not args.report or _is_newer(folder / "report.html", folder))
        return 0 if fresh else _derive(runs[0].scenario, folder, args.report)
    for name in dict.fromkeys(run.dataset for run in todo):
        datasets(name).fingerprint  # noqa: B018  its images are read here once, and not by every worker
    jobs = min(args.jobs, len(todo))
    wanted = tuple(dict.fromkeys(args.log))
    settings = Settings(root, cache, args.device, jobs, args.save_every, args.checkpoint_activations, wanted,
                        args.predictions, args.linears)  # fmt: skip
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here or in a worker; see towers/devices.py
    with _placed(address, todo, settings, args) as place:
        failures, finished, unpublished = _execute(todo, len(runs), settings, place)
    if not finished and all(event.mistake for event in failures):
        raise UserError(failures[0].text)
    if unpublished:
        complain(f"{unpublished.text}; the records are whole, the same command tries again")
    if finished and not unpublished and len(runs) < len(everything) and (left := unfinished(everything)):
        say(f"{len(left)} of {len(everything)} runs are not finished; who finishes the last one draws the figures")
        finished = 0
    status = _derive(runs[0].scenario, folder, args.report) if finished and not unpublished else 0
    return _print_failures(failures) if failures else 2 if unpublished else status


def check_writable(folder: Path) -> None:
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not nearest.is_dir():
        raise UserError(f"{nearest}: is in the way; expected a folder for results")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{nearest}: no permission to write; choose another --results folder")


def check_data(runs: "list[Run]", datasets: "Datasets", tell: Callable[[str], None]) -> None:
    """Load each dataset once before anything is written: what is missing is told now; generated images are cached."""
    from lamm_cl.data import fewshot, orders
    from lamm_cl.data.dataset import check_learnable
    from lamm_cl.data.features import check_backbone
    from lamm_cl.sweeping.plan import in_order

    for name in dict.fromkeys(run.dataset for run in runs):
        tell(f"preparing {name}")
        dataset = datasets(name)
        check_backbone(dataset, runs[0].scenario.backbone.architecture)
        for order in dict.fromkeys(run.order for run in runs if run.dataset == name):
            orders.arrival(in_order(runs[0].scenario, order), dataset)
        check_learnable(dataset, name)
        shots = sorted({run.shots for run in runs if run.dataset == name} - {"full"})
        few = (fewshot.too_few(part.train.labels, part.classes, k) for part in dataset.parts for k in shots)
        for note in (*dataset.notes, *few):
            if note:
                tell(f"  note: {note}")


def check_same(runs: "list[Run]", done: "Made", datasets: "Datasets", cache: Path, *, other_code: bool,
               tell: Callable[[str], None]) -> None:  # fmt: skip
    """What finished runs were made with, against what is here now."""
    from lamm_cl.data import catalogue
    from lamm_cl.sweeping import same

    todo = {run.dataset for run in runs if run.folder not in done}

    def load(name: str) -> "Dataset | None":
        if not catalogue.is_embedded(name):
            tell(f"comparing {name} with what its finished runs saw")  # of very many images that takes a while
        try:
            return datasets(name)
        except UserError:
            if name in todo:
                raise
            return None  # finished on another machine, perhaps

    for note in same.check(runs, done, load, cache, other_code=other_code):
        tell(f"note: {note}")


def _cluster_of(args: argparse.Namespace) -> tuple[str, int] | None:
    """Where the cluster listens, told before anything is looked at; what tasks in other folders need is made absolute."""
    if args.ray is None:
        if args.gpus_per_run is not None:
            raise UserError("--gpus-per-run: goes with --ray only; expected --ray [ADDRESS] too")
        return None
    if args.jobs != 1 or ":" in args.device:
        given = "--jobs" if args.jobs != 1 else f"--device {args.device}"
        raise UserError(f"{given}: with --ray the cluster places the runs; leave it out")
    from lamm_cl.extras import check_ray
    from lamm_cl.sweeping import cluster

    check_ray()
    args.results, args.cache = args.results.absolute(), arguments.cache(args).absolute()
    args.data_root = root.absolute() if (root := arguments.data_root(args)) else None
    return cluster.address_of(args.ray, os.environ.get("RAY_ADDRESS"))


@contextmanager
def _placed(address: tuple[str, int] | None, todo: "list[Run]", settings: "Settings",
            args: argparse.Namespace) -> "Iterator[Place | None]":  # fmt: skip
    """Where runs are done: on the nodes of a cluster, each looked at first, or here (None)."""
    if address is None:
        yield None
        return
    from lamm_cl.data import catalogue
    from lamm_cl.sweeping import cluster

    cluster.connect(address)
    try:
        named = [*(run.dataset for run in todo), todo[0].scenario.train_on or "", todo[0].scenario.backbone.weights]
        named = [each for name in named for each in catalogue.members(name) or [name]]
        own = [Path(name) for name in dict.fromkeys(named) if catalogue.is_path(name) and Path(name).expanduser().exists()]
        data = [*([settings.data_root] if settings.data_root else []), *own]
        nodes = cluster.check_nodes(todo, args.results, data)
        say(f"Ray at {address[0]}:{address[1]}: {nodes} node{'s' if nodes > 1 else ''}")
        share = args.gpus_per_run
        if share is None:
            share = 1.0 if args.device != "cpu" and cluster.gpus() else 0.0
        yield cluster.place(share)
    finally:
        cluster.leave()


def _execute(todo: "list[Run]", planned: int, settings: "Settings",
             place: "Place | None") -> "tuple[list[Event], int, Event | None]":  # fmt: skip
    """-> the events of the runs that failed, how many finished, and what keeps their reports from being up to date."""
    from lamm_cl.cli import doors
    from lamm_cl.sweeping.execute import execute

    screen = Bars(todo, planned) if console().is_terminal else Lines(todo, planned)
    with screen:
        failures = execute(todo, settings, screen.report, train=doors.train, publish=doors.publish, place=place)
    return failures, len(todo) - len(failures), screen.unpublished


def _print_failures(failures: "list[Event]") -> int:
    for event in failures:
        where = "" if event.mistake else f" (see {event.run.folder / 'traceback.txt'})"
        complain(f"failed: {event.run}: {event.text.strip().splitlines()[-1]}{where}")
    complain(f"{len(failures)} runs failed; the same command tries them again")
    return 1


def _derive(scenario: "Scenario", folder: Path, with_page: bool) -> int:
    """Tables and figures from the records, once and in this process: a new one would take longer to start than they take."""
    from lamm_cl.sweeping import locks

    at_once = "few-shot" if len(scenario.shots) > 1 else "ablation"  # one experience: nothing can degrade
    at_once = "domain-generalisation" if scenario.train_on else at_once
    kind = {1: at_once, "datasets": "chain"}.get(scenario.experiences, "degradation")
    commands = [["table", "--write", "--kind", kind], ["plot"], *([["report"]] if with_page else [])]
    if "plot" in _left_to_ask_for(folder):
        commands.remove(["plot"])
    parser = argparse.ArgumentParser()
    results.add(parser.add_subparsers())

    def write(lock: locks.Lock) -> int:
        for words in commands:
            say(f"writing {DERIVING[words[0]]}")
            lock.check()
            args = parser.parse_args([*words, str(folder)])
            try:
                status = args.command(args)
            except (UserError, OSError) as error:
                if (told := refusal(error) if isinstance(error, OSError) else str(error)) is None:
                    raise
                complain(told)
                return 2
            if status:
                return status
        return 0

    status = locks.under(folder, write, say)  # another process that ends now would write them too
    say(*_left_to_ask_for(folder).values())
    return status


def _left_to_ask_for(folder: Path) -> dict[str, str]:
    """What nobody wants to wait for unasked -> a line that says how to ask."""
    from lamm_cl.results.stored import stored

    runs = len(stored(folder))
    text = f"figures of {runs:,} runs take a while: 'lamm-cl plot {folder}' draws them"
    return {"plot": text} if runs > MANY else {}


def _derived_is_fresh(folder: Path) -> bool:
    """Of the figures: records.csv and the tables were just brought up to date (publish.tidy). Not where a lock lies: somebody
    draws them now, or was killed while he did; the matrix is drawn last."""
    from lamm_cl.sweeping import locks

    if _left_to_ask_for(folder):
        return True
    figures = [f"figures/{stem}.{end}" for stem in ("forgetting_curves", "accuracy_matrix") for end in ("png", "pdf")]
    return not locks.is_held(folder) and all(_is_newer(folder / name, folder) for name in figures)


def _is_newer(path: Path, folder: Path) -> bool:
    records = folder / "records.csv"
    return path.exists() and records.exists() and path.stat().st_mtime >= records.stat().st_mtime
