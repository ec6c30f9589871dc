"""run --dry-run: which runs are to do, and what they will cost."""

import argparse
from typing import TYPE_CHECKING

from lamm_cl.cli import arguments
from lamm_cl.cli.screen import duration, say

if TYPE_CHECKING:
    from lamm_cl.cli.datasets import Datasets
    from lamm_cl.sweeping.plan import Run


def tell(runs: "list[Run]", todo: "list[Run]", args: argparse.Namespace, datasets: "Datasets") -> int:
    _print_plan(runs, todo)
    if todo:
        _print_estimate(todo, args, datasets)
    return 0


def _print_plan(runs: "list[Run]", todo: "list[Run]") -> None:
    scenario = runs[0].scenario
    backbone = f"{scenario.backbone.architecture} ({scenario.backbone.weights})"
    say(f"{scenario.name}: {len(runs)} runs, {len(runs) - len(todo)} finished, {len(todo)} to do; backbone {backbone}")
    open_ones = {run.folder for run in todo}
    for run in runs:
        say(f"  {'to do   ' if run.folder in open_ones else 'finished'}  {run}  ->  {run.folder}")


def _print_estimate(todo: "list[Run]", args: argparse.Namespace, datasets: "Datasets") -> None:
    """Images, time and disk, from a speed measured on random weights of the scenario's architecture, now or this month."""
    from lamm_cl.bench.counts import asked_by
    from lamm_cl.bench.speed import known
    from lamm_cl.config.schema import FEATURES, HUB
    from lamm_cl.sweeping.estimate import Sizes, work
    from lamm_cl.towers.devices import device

    scenario = todo[0].scenario
    if scenario.backbone.architecture == FEATURES:
        say("images to encode: none, the data are features")
        return
    here = {run.dataset: datasets(run.dataset) for run in todo}
    sizes = {
        name: Sizes(len(data.classes), len(data.train), len(data.test), tuple(len(part.classes) for part in data.chain))
        for name, data in here.items()
    }
    needed = work(todo, sizes, asked_by)
    say(f"images to encode: {needed.encoded:,} once for all methods; {needed.prompted:,} passes of images with prompts")
    backbone = scenario.backbone
    if backbone.architecture.startswith(HUB):
        say("no estimate of time: the architecture is in the repository")
        return
    where = device(args.device)
    measured, when = known(arguments.cache(args), backbone.architecture, backbone.precision, where)
    say(
        f"measured here on {when} ({where}, one thread, {backbone.architecture} with random weights, {backbone.precision}): "
        f"{measured.images:.1f} images/s, {measured.prompts:.1f} prompts/s forward and backward"
    )
    parts = [duration(seconds) for seconds in needed.seconds(measured)]
    say(
        f"time in one process: about {duration(sum(needed.seconds(measured)))} (encoding images {parts[0]}, images with "
        f"prompts {parts[1]}, learning text prompts {parts[2]}); reading images and testing come on top"
    )
    stored = {"fp32": 4, "fp16": 2}[backbone.features]
    say(f"disk: about {needed.encoded * measured.D * stored / 1e9:.2f} GB of features in {arguments.cache(args) / 'features'}")
