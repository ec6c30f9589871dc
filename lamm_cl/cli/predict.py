"""predict, export: what a finished run learned, used on images, or elsewhere."""

import argparse
from pathlib import Path

from lamm_cl.cli import arguments
from lamm_cl.cli.screen import plain, say
from lamm_cl.errors import UserError

RUN = "folder of a finished run, as results/demo/runs/digits/lamm/shots16-seed1"


def add(commands: argparse._SubParsersAction) -> None:
    predict = commands.add_parser(
        "predict",
        help="classes of images, by a finished run",
        description="Classes and probabilities of image files, by the model of a finished run; all classes that it learned "
        "compete.",
    )
    predict.add_argument("run", type=Path, metavar="RUN", help=RUN)
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image file")
    predict.add_argument("--top", type=arguments.positive, default=3, metavar="N", help="classes an image (default: 3)")
    arguments.add_device(predict)
    predict.set_defaults(command=_predict)
    export = commands.add_parser(
        "export",
        help="write what a run learned, for use elsewhere",
        description="Write the text features of a run's classes, or what its head learned, as model.safetensors and model.json.",
    )
    export.add_argument("run", type=Path, metavar="RUN", help=RUN)
    export.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where to")
    arguments.add_device(export)
    export.set_defaults(command=_export)


def _predict(args: argparse.Namespace) -> int:
    from lamm_cl.training.reload import logits, reload

    if absent := [path for path in args.images if not path.is_file()]:
        raise UserError(f"{absent[0]}: no such image file")
    model = reload(args.run, args.device)
    for path, probabilities in zip(args.images, logits(model, args.images).softmax(dim=-1), strict=True):
        best = probabilities.topk(min(args.top, len(model.names)))
        told = ", ".join(f"{model.names[c]} {100 * p:.1f} %" for p, c in zip(best.values.tolist(), best.indices.tolist()))
        say(plain(f"{path}: {told}"))
    return 0


def _export(args: argparse.Namespace) -> int:
    from lamm_cl.training.reload import export_to, reload

    for path in export_to(args.output, reload(args.run, args.device)):
        say(f"wrote {path}")
    return 0
