"""What must happen before torchvision and Avalanche are imported."""

from importlib.util import find_spec
from pathlib import Path

import torch

from lamm_cl.deferred import defer

_definitions: list[torch.library.Library] = []  # an operator lives as long as the Library that defined it


def make_torchvision_importable() -> None:
    """Declare torchvision's `nms` and `qnms` if its compiled operators cannot be loaded.

    The default torchvision wheel is built for CUDA, so beside a CPU torch its operator library does not load.
    torchvision ignores that, and then dies while being imported ("operator torchvision::nms does not exist"), because
    it registers shape functions for these two operators all the same. Nothing here, nor in open_clip, ever calls them:
    declared without an implementation they let the image transforms, which are plain torch and Pillow, be imported.
    Where the library loads, and on every later call, nothing is done.
    """
    package = find_spec("torchvision")
    if package is None:
        return
    for library in Path(package.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            pass  # the case described above
    if hasattr(torch.ops.torchvision, "nms"):
        return
    definitions = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        definitions.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _definitions.append(definitions)


# Our only import-time effects: whoever imports torchvision or Avalanche imports this first.
defer()
make_torchvision_importable()
