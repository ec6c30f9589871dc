"""The command line: parses, calls, prints. The only owner of the screen and the only reader of the environment.

Exit status: 0 done; 1 some runs failed; 2 the user's mistake, told in one line; 130 or 143 interrupted.
"""

import argparse
import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.files import refusal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lamm_cl.config import Card, Scenario
    from lamm_cl.estimate import Sizes
    from lamm_cl.sweep import Event, Run, Settings

# Heavy imports stay inside the commands: `--help`, `list` and `show` answer at once.

RESULTS = "results folder of a scenario, as results/demo"
KINDS = (
    *("degradation", "degradation-per-dataset", "incremental", "base-to-new", "ablation", "domain-generalisation"),
    *("cost", "few-shot"),
)
LOGS = ("csv", "tensorboard", "wandb")
FIGURES = ("forgetting", "incremental", "matrix", "few-shot", "class-drops", "cost")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command -> its exit status."""
    args = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return args.command(args)
    except UserError as error:
        _complain(str(error))
        return 2
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of our output went away: lamm-cl list | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if (told := refusal(error)) is None:
            raise
        _complain(told)
        return 2
    except KeyboardInterrupt:
        _complain("interrupted; finished runs are kept, the same command goes on from here")
        return 128 + signal.SIGINT
    except _Terminated:
        _complain("terminated; finished runs are kept, the same command goes on from here")
        return 128 + signal.SIGTERM


class _Terminated(BaseException):
    """SIGTERM, on its way up through the same clean-up as Ctrl-C."""


def _terminated(signum: int, frame: object) -> NoReturn:
    raise _Terminated


def _complain(message: str) -> None:
    print(f"lamm-cl: {_plain(message)}", file=sys.stderr)


def _plain(text: str) -> str:
    """One line; what a terminal would obey comes escaped: it may come from somebody's file."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))


# --- what can be asked ------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        near = ""
        if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            near = did_you_mean(found[1], re.findall(r"[\w+-]+", found[2]))
        _complain(f"{message}{near} (see {self.prog} --help)")
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="lamm-cl",
        description="Continual learning with CLIP prompt learners: every method through one loop, on one stream.",
        epilog="Begin with: lamm-cl run demo",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _run_parser(commands)
    _table_parser(commands)
    _plot_parser(commands)
    _compare_parser(commands)
    _report_parser(commands)
    _verify_parser(commands)
    _list_parser(commands)
    _show_parser(commands)
    _data_parser(commands)
    _bench_parser(commands)
    _bank_parser(commands)
    return parser


def _run_parser(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser(
        "run",
        help="run a scenario",
        description="Run a scenario. Finished runs are skipped and unfinished ones go on: the same command is always "
        "safe. METHOD, DATASET, SEED and K replace the scenario's lists; give an option again for several.",
    )
    run.add_argument("scenario", metavar="SCENARIO", help="a name from 'lamm-cl list scenarios', or a path (.yaml)")
    many = {"action": "append", "default": []}
    run.add_argument("--method", **many, metavar="METHOD", help="a method, or a card's path (.yaml)")
    run.add_argument("--dataset", **many, metavar="DATASET", help="a dataset")
    run.add_argument("--seed", **many, type=_seed, metavar="SEED", help="a seed")
    run.add_argument("--shots", **many, type=_shots, metavar="K", help="training images per class, or full")
    run.add_argument(
        "--backbone",
        metavar="ARCH[:WEIGHTS]",
        help="instead of the scenario's; WEIGHTS: a tag from 'lamm-cl list backbones' (default: openai) or a file; "
        "or hf-hub:OWNER/NAME",
    )
    run.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="of the frozen towers (default: fp32)")
    run.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the datasets (default: $LAMM_CL_DATA)")
    run.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    run.add_argument(
        "--cache", type=Path, metavar="DIR", help="of features and generated images (default: ~/.cache/lamm-cl)"
    )
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    run.add_argument("--jobs", type=_positive, default=1, metavar="N", help="processes, one thread each (default: 1)")
    run.add_argument("--report", action="store_true", help="at the end, also write the page of 'lamm-cl report'")
    run.add_argument(
        "--save-every",
        type=_seconds,
        default=30,
        metavar="SECONDS",
        help="least time between saved states of a run; a kill costs that much and an epoch (default: 30)",
    )
    run.add_argument("--dry-run", action="store_true", help="print what would be done, write nothing")
    text = "also write training curves, to logs/ in each run's folder; wandb: offline"
    run.add_argument("--log", **many, choices=LOGS, help=text)
    run.add_argument("--checkpoint-activations", action="store_true", help="recompute blocks: less memory, the same values")
    run.set_defaults(command=_run)


def _table_parser(commands: argparse._SubParsersAction) -> None:
    table = commands.add_parser(
        "table",
        help="print a table of results",
        description="Print a table of the finished runs, in %%, mean and standard deviation over seeds; in rows of "
        "their own, what the papers published on the same datasets.",
    )
    table.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help=RESULTS)
    table.add_argument("--kind", default="degradation", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    table.add_argument("--format", default="terminal", choices=("terminal", "md", "csv", "tex", "html"), help="how")
    table.add_argument("--write", action="store_true", help="also write the files of RESULTS/tables")
    table.set_defaults(command=_table)


def _plot_parser(commands: argparse._SubParsersAction) -> None:
    plot = commands.add_parser(
        "plot",
        help="draw results",
        description="Draw curves, matrices, class drops and costs as PNG, SVG and PDF; several RESULTS in one figure.",
    )
    plot.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help=RESULTS)
    plot.add_argument("--kind", choices=FIGURES, metavar="KIND", help=f"{', '.join(FIGURES)}; default: all that fit")
    plot.add_argument("--label-space", choices=("own", "joint"), help="default: the figure's, if scored")
    plot.add_argument("--shots", type=_shots, metavar="K", help="where there are several (default: the most)")
    plot.add_argument("--output", type=Path, metavar="DIR", help="default: RESULTS/figures, of several ./figures")
    plot.set_defaults(command=_plot)


def _compare_parser(commands: argparse._SubParsersAction) -> None:
    compare = commands.add_parser(
        "compare",
        help="tell whether a difference is one",
        description="Paired differences per dataset and seed, with a bootstrap interval and the numbers of wins, ties "
        "and losses: of one RESULTS' methods to a baseline, or of several RESULTS to the first.",
    )
    compare.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help=RESULTS)
    compare.add_argument("--baseline", metavar="METHOD", help="a method of the first RESULTS (alone: its first)")
    compare.add_argument("--format", default="terminal", choices=("terminal", "md", "csv", "tex", "html"), help="how")
    compare.set_defaults(command=_compare)


def _report_parser(commands: argparse._SubParsersAction) -> None:
    report = commands.add_parser(
        "report",
        help="write one HTML page about results",
        description="Write one HTML file with tables, curves, definitions and provenance, which asks no network for "
        "anything. Needs: pip install 'lamm-cl[report]'.",
    )
    report.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help=RESULTS)
    report.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: RESULTS/report.html")
    report.set_defaults(command=_report)


def _verify_parser(commands: argparse._SubParsersAction) -> None:
    text = "Check that every file of the finished runs is whole and that tables follow from the records; do a run again "
    verify = commands.add_parser("verify", help="check results, repeat a run", description=text + "and compare.")
    verify.add_argument("results", type=Path, metavar="RESULTS", help=RESULTS)
    name = "DATASET/METHOD/shotsK-seedS"
    verify.add_argument("--run", action="append", default=[], metavar=name, help="a run to do again; give it again for several")
    verify.add_argument("--recompute", type=_number, default=1, metavar="N", help="else N random runs; 0: none (default: 1)")
    verify.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the datasets (default: $LAMM_CL_DATA)")
    verify.add_argument("--cache", type=Path, metavar="DIR", help="default: ~/.cache/lamm-cl")
    verify.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    verify.set_defaults(command=_verify)


def _list_parser(commands: argparse._SubParsersAction) -> None:
    lists = {
        "scenarios": _list_scenarios,
        "methods": _list_methods,
        "datasets": _list_datasets,
        "backbones": _list_backbones,
    }
    text = "list scenarios, methods, datasets or backbones"
    listing = commands.add_parser("list", help=text, description=f"{text.capitalize()}: the names that scenarios use.")
    listing.add_argument("what", choices=lists, metavar="|".join(lists))
    listing.set_defaults(command=lambda args: lists[args.what]())


def _show_parser(commands: argparse._SubParsersAction) -> None:
    text = "Print a method card: its settings, the source of every number, departures, published results."
    show = commands.add_parser("show", help="print a method card", description=text)
    show.add_argument("method", metavar="METHOD", help="a name from 'lamm-cl list methods', or a card's path (.yaml)")
    show.set_defaults(command=_show)


def _bench_parser(commands: argparse._SubParsersAction) -> None:
    text = "Measure the fast paths against the released amount of work, in one process, interleaved; minutes at ViT-B/16."
    bench = commands.add_parser("bench", help="measure speed and memory as ratios", description=text)
    bench.add_argument("--backbone", default="ViT-B-16-quickgelu", metavar="ARCH", help="open_clip architecture, random weights")
    bench.add_argument("--classes", type=_positive, default=50, metavar="N", help="classes of the training steps (default 50)")
    bench.add_argument("--repeats", type=_positive, default=2, metavar="N", help="turns; the least time counts (default 2)")
    groups = ("text", "steps", "growth", "images", "experiences", "memory")
    bench.add_argument("--only", action="append", choices=groups, help="measure this group; give it again for several")
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write {name, value, unit, ratio, target, met} entries")
    bench.set_defaults(command=_bench)


def _data_parser(commands: argparse._SubParsersAction) -> None:
    text = "list, check or download datasets"
    data = commands.add_parser("data", help=text, description=f"{text.capitalize()}.")
    verbs = data.add_subparsers(metavar="list|check|fetch", required=True)
    listing = verbs.add_parser("list", help="what there is, and where it is expected")
    check = verbs.add_parser("check", help="what is there, what is missing, which images cannot be read, what to do")
    check.add_argument("name", nargs="*", metavar="NAME", help="a dataset, or a path (default: all of the data root)")
    check.add_argument("--jobs", type=_positive, default=1, metavar="N", help="processes (default: 1)")
    check.add_argument("--cache", type=Path, metavar="DIR", help="of listings (default: ~/.cache/lamm-cl)")
    fetch = verbs.add_parser("fetch", help="download and unpack a dataset, where its licence allows it")
    fetch.add_argument("name", metavar="NAME", help="a dataset")
    for verb, command in ((listing, _data_list), (check, _data_check), (fetch, _data_fetch)):
        verb.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the datasets (default: $LAMM_CL_DATA)")
        verb.set_defaults(command=command)


def _bank_parser(commands: argparse._SubParsersAction) -> None:
    text = "The bank of image features: how large it is, whether every entry is whole, and what can go."
    bank = commands.add_parser("cache", help="size, check or prune the feature bank", description=text)
    bank.add_argument("action", choices=("size", "verify", "prune"), help="prune removes damaged and old entries")
    bank.add_argument("--older-than", type=float, default=30, metavar="DAYS", help="age at which prune removes (default 30)")
    bank.add_argument("--cache", type=Path, metavar="DIR", help="default: ~/.cache/lamm-cl")
    bank.set_defaults(command=_bank)


def _positive(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def _number(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"expected seconds, 0 or more, got {text!r}")
    return float(text)


def _seed(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**32 - 1}, got {text!r}")
    return int(text)


def _shots(text: str) -> int | str:
    return "full" if text == "full" else _positive(text)


# --- run --------------------------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    from lamm_cl import sweep

    runs = _planned(args)
    folder = args.results / runs[0].scenario.name
    _check_writable(folder)
    if args.report:
        from lamm_cl import page

        page.check_installed()  # told now, not after hours
    if args.log:
        from lamm_cl import logs

        logs.check_installed(args.log)
    todo = sweep.unfinished(runs)
    if args.dry_run:
        return _print_plan(runs, todo) or _print_estimate(todo, args)
    sweep.tidy([run for run in runs if run not in todo])
    if not todo:
        _say(f"nothing to do: all {len(runs)} runs are finished")
        fresh = _derived_is_fresh(folder) and (not args.report or _is_newer(folder / "report.html", folder))
        return 0 if fresh else _derive(runs[0].scenario, folder, args.report)
    jobs = min(args.jobs, len(todo))
    wanted = tuple(dict.fromkeys(args.log))
    settings = sweep.Settings(
        _data_root(args), _cache(args), args.device, jobs, args.save_every, args.checkpoint_activations, wanted
    )
    _check_data(todo, settings)
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here or in a worker; see sweep._one_thread
    failures, finished = _execute(todo, len(runs), settings)
    if not finished and all(event.mistake for event in failures):
        raise UserError(failures[0].text)
    status = _derive(runs[0].scenario, folder, args.report) if finished else 0
    return _print_failures(failures) if failures else status


def _planned(args: argparse.Namespace) -> "list[Run]":
    from lamm_cl import config, sweep

    scenario = config.load_scenario(args.scenario)
    methods = []
    for method in args.method:
        if method.endswith(".yaml"):
            scenario, method = config.with_card(scenario, method)
        methods.append(method)
    if args.backbone or args.precision:
        scenario = config.replace_backbone(scenario, args.backbone, args.precision)
    lists = {"datasets": args.dataset, "methods": methods, "shots": args.shots, "seeds": args.seed}
    runs = sweep.plan(scenario, args.results, **{name: list(dict.fromkeys(given)) for name, given in lists.items()})
    names = [*(run.dataset for run in runs), *filter(None, [scenario.train_on])]
    _check_names(f"{scenario.name}: datasets", names, _data_root(args))
    return runs


def _check_names(where: str, names: Iterable[str], data_root: Path | None) -> None:
    from lamm_cl import data

    known = [info.name for info in data.names()]
    for name in dict.fromkeys(names):
        own = Path(name).expanduser().exists() or (data_root and (data_root / name).exists())
        if data.canonical(name) not in known and not own:
            raise UserError(f"{where}: no dataset {name!r}{did_you_mean(name, known)}")


def _check_writable(folder: Path) -> None:
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not nearest.is_dir():
        raise UserError(f"{nearest}: is in the way; expected a folder for results")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{nearest}: no permission to write; choose another --results folder")


def _check_data(runs: "list[Run]", settings: "Settings") -> None:
    """Load each dataset once before anything is written: what is missing is told now; generated images are cached."""
    from lamm_cl import data

    for name in dict.fromkeys(run.dataset for run in runs):
        _say(f"preparing {name}")
        dataset = data.load(name, settings.data_root, settings.cache)
        if train_on := runs[0].scenario.train_on:
            dataset = data.learned_from(dataset, data.load(train_on, settings.data_root, settings.cache))
        if not len(dataset.train):
            others = "learn its classes from another dataset, with train_on in the scenario, as in lamm-table1"
            raise UserError(f"{name}: has test images only; {others}")
        shots = {run.shots for run in runs if run.dataset == name} - {"full"}
        for note in (*dataset.notes, *(data.too_few(dataset.train.labels, dataset.classes, k) for k in sorted(shots))):
            if note:
                _say(f"  note: {note}")


def _data_root(args: argparse.Namespace) -> Path | None:
    return args.data_root or (Path(os.environ["LAMM_CL_DATA"]) if os.environ.get("LAMM_CL_DATA") else None)


def _cache(args: argparse.Namespace) -> Path:
    return args.cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lamm-cl"


def _execute(todo: "list[Run]", planned: int, settings: "Settings") -> "tuple[list[Event], int]":
    """-> the events of the runs that failed, and how many finished."""
    from lamm_cl import sweep

    screen = _Bars(todo, planned) if _console().is_terminal else _Lines(todo, planned)
    with screen:
        failures = sweep.execute(todo, settings, screen.report)
    return failures, len(todo) - len(failures)


def _print_plan(runs: "list[Run]", todo: "list[Run]") -> int:
    scenario = runs[0].scenario
    backbone = f"{scenario.backbone.architecture} ({scenario.backbone.weights})"
    _say(f"{scenario.name}: {len(runs)} runs, {len(runs) - len(todo)} finished, {len(todo)} to do; backbone {backbone}")
    for run in runs:
        _say(f"  {'to do   ' if run in todo else 'finished'}  {run}  ->  {run.folder}")
    return 0


def _print_estimate(todo: "list[Run]", args: argparse.Namespace) -> int:
    """Images, time and disk, from a speed measured now on random weights of the scenario's architecture."""
    if not todo:
        return 0
    from lamm_cl import estimate, sweep
    from lamm_cl.config import HUB

    scenario = todo[0].scenario
    sizes = {name: _sizes(name, scenario.train_on, args) for name in dict.fromkeys(run.dataset for run in todo)}
    work = estimate.work(todo, sizes)
    _say(f"images to encode: {work.encoded:,} once for all methods; {work.prompted:,} passes of images with prompts")
    backbone = scenario.backbone
    if backbone.architecture.startswith(HUB):
        _say("no estimate of time: the architecture is in the repository")
        return 0
    device = sweep.device(args.device)
    speed = estimate.speed(backbone.architecture, backbone.precision, device)
    _say(
        f"measured here ({device}, one thread, {backbone.architecture} with random weights, {backbone.precision}): "
        f"{speed.images:.1f} images/s, {speed.prompts:.1f} prompts/s forward and backward"
    )
    parts = [_duration(seconds) for seconds in work.seconds(speed)]
    _say(
        f"time in one process: about {_duration(sum(work.seconds(speed)))} (encoding images {parts[0]}, images with "
        f"prompts {parts[1]}, learning text prompts {parts[2]}); reading images and testing come on top"
    )
    stored = {"fp32": 4, "fp16": 2}[backbone.features]
    _say(f"disk: about {work.encoded * speed.D * stored / 1e9:.2f} GB of features in {_cache(args) / 'features'}")
    return 0


def _sizes(name: str, train_on: str | None, args: argparse.Namespace) -> "Sizes":
    """Of the dataset as it lies there, else as published."""
    from lamm_cl import data
    from lamm_cl.estimate import Sizes

    published = {info.name: info for info in data.names()}
    try:
        dataset = data.load(name, _data_root(args), _cache(args))
        if train_on:
            dataset = data.learned_from(dataset, data.load(train_on, _data_root(args), _cache(args)))
        return Sizes(len(dataset.classes), len(dataset.train), len(dataset.test))
    except UserError:
        if (info := published.get(data.canonical(name))) is None:
            raise
        source = published.get(data.canonical(train_on or name), info)
        return Sizes(info.classes, source.train, info.test)


def _print_failures(failures: "list[Event]") -> int:
    for event in failures:
        where = "" if event.mistake else f" (see {event.run.folder / 'traceback.txt'})"
        _complain(f"failed: {event.run}: {event.text.strip().splitlines()[-1]}{where}")
    _complain(f"{len(failures)} runs failed; the same command tries them again")
    return 1


def _derived(folder: Path) -> list[Path]:
    tables = [f"tables/degradation.{end}" for end in ("csv", "md", "tex")]
    figures = [f"figures/{stem}.{end}" for stem in ("forgetting_curves", "accuracy_matrix") for end in ("png", "pdf")]
    return [folder / name for name in (*tables, *figures)]


def _derived_is_fresh(folder: Path) -> bool:
    """Not where a lock lies: somebody writes them now, or was killed while he did. The figures named are the last drawn."""
    return not (folder / "lock").exists() and all(_is_newer(path, folder) for path in _derived(folder))


def _is_newer(path: Path, folder: Path) -> bool:
    records = folder / "records.csv"
    return path.exists() and records.exists() and path.stat().st_mtime >= records.stat().st_mtime


def _derive(scenario: "Scenario", folder: Path, with_page: bool) -> int:
    """Tables and figures from the records. In processes of their own: what trains and what draws share files only."""
    from lamm_cl import locks

    at_once = "few-shot" if len(scenario.shots) > 1 else "ablation"  # one experience: nothing can degrade
    at_once = "domain-generalisation" if scenario.train_on else at_once
    kind = at_once if scenario.experiences == 1 else "degradation"
    commands = [["table", "--write", "--kind", kind], ["plot"], *([["report"]] if with_page else [])]
    with locks.waited(folder):  # another process that ends now would write them too
        for command in commands:
            done = subprocess.run([sys.executable, "-m", "lamm_cl", *command, str(folder)], check=False)
            if done.returncode:
                return done.returncode
    return 0


# --- progress ---------------------------------------------------------------------------------------------------------


class _Progress:
    """What is done of a sweep, as a share of all its runs, and the time that is left at this pace."""

    def __init__(self, todo: "list[Run]", planned: int):
        self.total, self.skipped = len(todo), planned - len(todo)
        self.start = time.monotonic()
        self.done = 0
        self.shares: dict[Path, float] = {}

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def report(self, event: "Event") -> None:
        ended = event.kind in ("finished", "failed")
        self.done += ended
        self.shares[event.run.folder] = 1.0 if ended else event.share
        self.show(event)

    def show(self, event: "Event") -> None:
        raise NotImplementedError

    @property
    def share(self) -> float:
        return sum(self.shares.values()) / self.total

    def left(self) -> str:
        if self.share <= 0:
            return "?"
        return _duration((time.monotonic() - self.start) * (1 - self.share) / self.share)

    def summary(self, failed: int) -> str:
        skipped = f", {self.skipped} were finished before" if self.skipped else ""
        took = _duration(time.monotonic() - self.start)
        return f"{self.done - failed} of {self.total} runs finished in {took}{skipped}"


class _Lines(_Progress):
    """Plain lines, for files and pipes: each run's end, and every half minute where a long run is."""

    EVERY = 30  # seconds

    def __enter__(self) -> "_Lines":
        self.failed, self.last = 0, self.start
        skipped = f", {self.skipped} finished before" if self.skipped else ""
        _say(f"{self.total} runs to do{skipped}")
        return self

    def __exit__(self, *_: object) -> None:
        _say(self.summary(self.failed))

    def show(self, event: "Event") -> None:
        self.failed += event.kind == "failed"
        if event.kind == "started" or (event.kind in ("progress", "elsewhere") and time.monotonic() - self.last < self.EVERY):
            return
        self.last = time.monotonic()
        what = event.text if event.kind in ("progress", "elsewhere") else event.kind
        clock = time.strftime("%H:%M:%S")
        _say(f"{clock} {self.share:4.0%}  {self.done}/{self.total}  {event.run}: {what}; {self.left()} left")


class _Bars(_Progress):
    """A live display, for terminals: all runs, and below them the runs in progress."""

    def __enter__(self) -> "_Bars":
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        what, where = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[at]}"))
        self.bars = Progress(what, BarColumn(), TaskProgressColumn(), where, console=_console(), transient=True)
        self.failed = 0
        self.bars.__enter__()
        self.overall = self.bars.add_task(f"0/{self.total} runs", total=1.0, at="")
        self.tasks: dict[Path, int] = {}
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.__exit__(None, None, None)
        _say(self.summary(self.failed))

    def show(self, event: "Event") -> None:
        folder = event.run.folder
        if event.kind == "started":
            self.tasks[folder] = self.bars.add_task(str(event.run), total=1.0, at="")
        elif event.kind == "progress":
            self.bars.update(self.tasks[folder], completed=event.share, at=event.text)
        else:
            self.failed += event.kind == "failed"
            self.bars.remove_task(self.tasks.pop(folder))
        self.bars.update(
            self.overall, completed=self.share, description=f"{self.done}/{self.total} runs", at=f"{self.left()} left"
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


# --- table, plot ------------------------------------------------------------------------------------------------------


def _table(args: argparse.Namespace) -> int:
    from lamm_cl import report, tables

    shown = tables.tables(args.results, args.kind)
    _print_tables(shown, args.format)
    for folder in args.results if args.write else ():
        for path in report.write_tables(folder):
            _say(f"wrote {path}")
    return 0


def _print_tables(shown: Sequence, form: str) -> None:
    from lamm_cl import report

    if form == "terminal":
        for table in shown:
            _console().print(report.to_terminal(table))
    else:
        sys.stdout.write(report.RENDERERS[form](shown))


def _compare(args: argparse.Namespace) -> int:
    from lamm_cl.compare import compare

    found = compare(args.results, args.baseline)
    if len(args.results) > 1 and args.format == "terminal":
        _say("\n".join(("changed:", *found.changes) if found.changes else ("nothing changed",)))
    _print_tables(found.tables, args.format)
    return 0


def _plot(args: argparse.Namespace) -> int:
    from lamm_cl import plots
    from lamm_cl.records import Unfit, runs_in

    output = args.output or (args.results[0] / "figures" if len(args.results) == 1 else Path("figures"))
    several_shots = any(len(runs_in(folder)) > 1 for folder in args.results)
    kinds = [args.kind] if args.kind else [kind for kind in plots.FIGURES if kind != "few-shot" or several_shots]
    for kind in kinds:
        draw, stem = plots.FIGURES[kind]
        options = {"label_space": args.label_space} | ({} if kind == "few-shot" else {"shots": args.shots})
        suffix = f"_{args.label_space}" if args.label_space else ""
        try:
            paths = draw(args.results, output / f"{stem}{suffix}", **options)
        except Unfit:
            if args.kind:
                raise
            continue
        for path in paths:
            _say(f"wrote {path}")
    return 0


def _report(args: argparse.Namespace) -> int:
    from lamm_cl import page

    several = len(args.results) > 1
    output = args.output or (Path("report.html") if several else args.results[0] / "report.html")
    _say(f"wrote {page.write_page(args.results, output)}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from lamm_cl import sweep, verify

    chosen = verify.choose(args.results, args.run, args.recompute)
    found = verify.problems(args.results)
    finished = verify.runs(args.results)
    _say("\n".join(map(_plain, found)) if found else f"{len(finished)} runs: every file is whole, tables follow from the records")
    os.environ["OMP_NUM_THREADS"] = "1"  # see _run
    settings = sweep.Settings(_data_root(args), _cache(args), args.device, jobs=1)
    for name in chosen:
        _say(f"{name}: doing it again")
        differs = verify.recompute(finished[name], settings, lambda event: None)
        _say(f"{name}: {f'differs: {differs}' if differs else 'the same counts and the same learned tensors'}")
        found += [differs] if differs else []
    return 1 if found else 0


# --- list, show -------------------------------------------------------------------------------------------------------


def _list_scenarios() -> int:
    from lamm_cl import config

    table = _new_table("name", "datasets", "experiences", "shots", "methods", "what")
    for name in config.scenario_names():
        s = config.load_scenario(name)
        experiences = s.experiences if isinstance(s.experiences, int | str) else " + ".join(map(str, s.experiences))
        table.add_row(name, _joined(s.datasets), str(experiences), _joined(s.shots), _joined(s.methods), s.description)
    return _show_table(table)


def _list_methods() -> int:
    from lamm_cl import config

    table = _new_table("key", "name", "paper", "trainable at ViT-B/16", "training")
    for key in config.card_names():
        card = config.load_card(key)
        t = card.training
        training = f"{t.epochs} epochs, batch {t.batch}, lr {t.lr:g}" if t else "none"
        table.add_row(key, card.name, _short_paper(card.paper), card.trainable.partition(" (")[0], training)
    return _show_table(table)


def _list_datasets() -> int:
    from lamm_cl import data

    table = _new_table("name", "classes", "train", "test", "where", "source", "licence")
    for info in data.names():
        where = "embedded" if info.embedded else f"DATA_ROOT/{info.folder}"
        sizes = ["-" if number is None else f"{number:,}" for number in (info.classes, info.train, info.test)]
        table.add_row(info.name, *sizes, where, info.source, info.licence)
    return _show_table(table)


def _list_backbones() -> int:
    from lamm_cl import registry

    table = _new_table("architecture", "kind", "pixels", "weights")
    table.add_row("lamm-cl-mini", "ViT", "48", "embedded (the tiny CLIP inside the package)")
    for name, kind, pixels, tags in registry.architectures():
        quick = "for a file of weights that needs QuickGELU, as OpenAI's" if name.endswith("-quickgelu") else ""
        table.add_row(name, kind, str(pixels), _joined(tags) or quick or "a file")
    _show_table(table)
    _say("All take text prompts; methods that prompt the image tower (maple, comma) need a ViT. Weights may also be")
    _say("a file, --backbone ViT-B-16-quickgelu:path/to/file, or a repository, --backbone hf-hub:OWNER/NAME.")
    return 0


def _bank(args: argparse.Namespace) -> int:
    from lamm_cl import bank

    folder = _cache(args) / "features"
    if args.action == "prune":
        removed = bank.prune(folder, args.older_than)
        _say(f"{folder}: removed {len(removed)} files, {sum(entry.bytes for entry in removed) / 1e6:.1f} MB")
        return 0
    found, left = list(bank.entries(folder, check=args.action == "verify")), bank.leftovers(folder)
    damaged = [entry for entry in found if not entry.whole]
    _say(f"{folder}: {len(found)} entries, {sum(entry.bytes for entry in found) / 1e6:.1f} MB")
    if left:
        size = sum(entry.bytes for entry in left) / 1e6
        _say(f"and {size:.1f} MB in {len(left)} files of writers that were killed; prune removes them")
    for entry in damaged:
        _say(f"damaged: {entry.path}; the next run that needs it makes it again")
    return 1 if damaged else 0


def _bench(args: argparse.Namespace) -> int:
    import json

    from lamm_cl import bench
    from lamm_cl.files import write_atomic

    found = []
    for measure in bench.measure(args.backbone, args.classes, args.repeats, args.only or bench.GROUPS):
        found.append(measure)
        _say(f"{measure.name}: {measure.value:.3g} {measure.unit}  {measure.note}")
    table = _new_table("what", "value", "ratio", "target", "met", "against")
    for m in found:
        ratio = "" if m.ratio is None else f"{m.ratio:.3g}"
        met = {True: "yes", False: "no", None: ""}[m.met]
        table.add_row(m.name, f"{m.value:.3g} {m.unit}", ratio, m.target or "", met, m.note)
    _show_table(table)
    if args.json:
        keys = ("name", "value", "unit", "ratio", "target", "met")
        write_atomic(args.json, json.dumps([{key: getattr(m, key) for key in keys} for m in found], indent=1) + "\n")
    return 0


# --- data -------------------------------------------------------------------------------------------------------------


def _data_list(args: argparse.Namespace) -> int:
    from lamm_cl import data

    table = _new_table("name", "classes", "train", "test", "GB", "licence", "source", "where", "here")
    root = _data_root(args)
    for info in data.names():
        where = "embedded" if info.embedded else f"DATA_ROOT/{info.folder}"
        here = info.embedded or (root and (root / info.folder).is_dir())
        counts = [f"{number:,}" for number in (info.classes, info.train, info.test)]
        table.add_row(
            info.name, *counts, f"{info.gigabytes:g}", info.licence, info.source, where, "yes" if here else "no"
        )
    return _show_table(table)


def _data_check(args: argparse.Namespace) -> int:
    """Without names: all that is there, and a line for what is not. Status 1 where a run would fail."""
    from lamm_cl import data

    root = _data_root(args)
    if root is not None and not root.is_dir():
        raise UserError(f"--data-root {root}: no such folder")
    _check_names("data check", args.name, root)
    names, missing = args.name, []
    if not names:
        files = [info for info in data.names() if not info.embedded]
        if root is None:
            raise UserError("data check: which data? give NAMEs, or a folder with --data-root (or $LAMM_CL_DATA)")
        missing = [info.name for info in files if not (root / info.folder).is_dir()]
        names = [info.name for info in files if info.name not in missing]
    with _checking() as progress:
        findings = data.check(names, root, _cache(args), jobs=args.jobs, progress=progress)
        absent = data.check(missing, root, _cache(args))
    for finding in findings:
        _say(f"{finding.level:<8} {finding.dataset}: {finding.text}" + (f"; {finding.fix}" if finding.fix else ""))
    for finding in absent:
        _say(f"absent   {finding.dataset}: {finding.fix}")
    problems = sum(finding.level == "problem" for finding in findings)
    _say(f"{len(names)} datasets checked, {problems} problems" + (f", {len(missing)} absent" if missing else ""))
    return 1 if problems else 0


@contextmanager
def _checking() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if not _console().is_terminal:
        yield lambda dataset, done, total: None
        return
    from rich.progress import Progress

    with Progress(console=_console(), transient=True) as bars:
        tasks: dict[str, int] = {}

        def show(dataset: str, done: int, total: int) -> None:
            if dataset not in tasks:
                tasks[dataset] = bars.add_task(dataset, total=total)
            if done % 100 == 0 or done == total:
                bars.update(tasks[dataset], completed=done)

        yield show


def _data_fetch(args: argparse.Namespace) -> int:
    from lamm_cl import data

    root = _data_root(args)
    if root is None:
        raise UserError("data fetch: where to? give a folder with --data-root (or $LAMM_CL_DATA)")
    last = [0.0]

    def show(file: str, done: int, total: int | None) -> None:
        if time.monotonic() - last[0] > 5:
            last[0] = time.monotonic()
            of = f" of {total / 1e6:,.0f}" if total else ""
            _say(f"{file}: {done / 1e6:,.0f}{of} MB")

    folders = data.fetch(data.canonical(args.name), root, show)
    for folder in folders:
        _say(f"wrote {folder}")
    if not folders:
        _say(f"nothing to do: {data.canonical(args.name)} is there")
    return 0


def _show(args: argparse.Namespace) -> int:
    from lamm_cl import config

    card = config.load_card(args.method)
    _say(f"{card.name} ({card.key})\n{card.paper}\n{card.repository or ''}".rstrip())
    for part in ("context", "labels", "loss"):
        piece = getattr(card, part)
        options = ", ".join(f"{key}: {_text(value)}" for key, value in piece.options.items()) if piece else ""
        _say(f"\n{part:<10} {f'{piece.use}  {options}' if piece else 'none'}")
    _say(f"\n{'training':<10} {_training(card)}\n\n{'trainable':<10} {card.trainable}")
    _say_section("sources", [f"{key}: {text}" for key, text in card.provenance.items()])
    departures = [text if isinstance(text, str) else _text(text) for text in card.departures]
    _say_section("departures from the authors' code or paper", departures)
    for name, facts in card.published.items():
        rows = (
            [f"{key}: {_text(value, '.2f')}" for key, value in facts.items()]
            if isinstance(facts, dict)
            else [_text(facts)]
        )
        _say_section(f"published: {name}", rows)
    return 0


def _say_section(title: str, rows: list[str]) -> None:
    if rows:
        _say("\n" + title + "".join(f"\n  {row}" for row in rows))


def _training(card: "Card") -> str:
    t = card.training
    if t is None:
        return "none"
    warm = f", warm-up {t.warmup.epochs} at {t.warmup.lr:g}" if t.warmup else ""
    return f"{t.epochs} epochs, batch {t.batch}, {t.optimizer} lr {t.lr:g}, {t.schedule}{warm}, {t.augmentation}"


def _short_paper(paper: str) -> str:
    """ "Zhou et al., A Title, With Commas, IJCV 2022, arXiv:..." -> "Zhou et al., IJCV 2022"."""
    venue = re.search(r"[A-Z][\w-]* (19|20)\d\d", paper)
    return f"{paper.partition(',')[0]}, {venue[0]}" if venue else paper


def _text(value: object, number: str = "") -> str:
    """A fact of a card as people write it; `number` formats floats."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(each, number)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(each, number) for each in value)
    return format(value, number) if isinstance(value, float) else "none" if value is None else str(value)


def _joined(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


# --- the screen -------------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(text, flush=True)


def _console() -> "Console":
    from rich.console import Console

    # A file or a pipe has no width of its own: rich would fold tables at 80 columns.
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def _new_table(*heads: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _show_table(table: "Table") -> int:
    _console().print(table)
    return 0
