"""Packages that are imported on the way and that no run uses: each is executed when a name in it is first asked for.

Two thirds of a short command went into them.  Avalanche's and torchvision's packages import everything that lies in them, and
with it scipy, torchmetrics, wandb, gdown and tensorboard; open_clip asks timm for a few layers, and torch's optimizers ask its
compiler to leave them alone.  Here such a module is found, but not run: it stands in `sys.modules`, holds its own submodules, and
becomes the real one at the first use.  What was imported before is left alone, and nobody loses a name:
`avalanche.benchmarks.SplitMNIST`, `torchvision.models.resnet18` and `torch.compile` are there as ever, a second later.
"""

import importlib.abc
import importlib.machinery
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from types import ModuleType

COMPILER = "torch._dynamo"
DEFERRED = {  # what it is good for, or what it would bring
    COMPILER: "torch.compile; sympy, and the distributed half of torch",
    "torchvision.models": "networks that nothing here builds",
    "torchvision.ops": "boxes; the compiler. open_clip asks its submodule `misc` for one layer",
    "timm": "towers of other architectures; wandb",
    "qpsolvers": "Avalanche's GEM; scipy, and a warning where no solver is installed",
    "avalanche.benchmarks.classic": "data sets with downloads of their own; gdown",
    "avalanche.evaluation.metrics.acc_matrix": "nothing; but it asks for strategies, which ask for metrics",
    "avalanche.evaluation.metrics.confusion_matrix": "wandb",
    "avalanche.evaluation.metrics.topk_acc": "torchmetrics, and with it scipy.signal and scipy.stats",
    "avalanche.logging.tensorboard_logger": "tensorboard",
    "avalanche.logging.wandb_logger": "wandb",
    "avalanche.training.supervised": "strategies, one of which wants timm",
}
_running = threading.RLock()


class Deferred(ModuleType):
    """A module that was found and not run. A name that it does not have yet runs it; a star takes nothing."""

    def __getattr__(self, name: str) -> object:
        if name == "__version__":
            return metadata.version(self.__name__)
        if name.startswith("__"):  # what Python itself asks of any module: no reason to run one
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        run(self)
        return getattr(self, name)


def run(module: ModuleType) -> None:
    """Execute it, unless that was done, or is being done by who asks: then what is there so far is there."""
    with _running:
        if type(module) is not Deferred:
            return
        module.__class__ = ModuleType
        try:
            with warnings.catch_warnings(action="ignore"):  # of packages that are missing, by who would have used them
                module.__spec__.loader.of.exec_module(module)
        except BaseException:
            module.__class__ = Deferred  # the next who asks hears it too
            raise


class _Loader(importlib.abc.Loader):
    def __init__(self, of: importlib.abc.Loader):
        self.of = of

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.of.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = Deferred
        package, _, _ = module.__name__.rpartition(".")
        if module.__name__ == COMPILER:
            vars(module).update(graph_break=_nothing, disable=_left_alone(module))
        elif package.startswith("avalanche") and package in sys.modules:
            _forward(sys.modules[package], module)

    def __getattr__(self, name: str) -> object:
        return getattr(self.of, name)  # source and resources, as of any module


def _nothing(*_: object) -> None:
    """A step of an optimizer tells the compiler to stop here."""


def _left_alone(compiler: ModuleType) -> Callable:
    def disable(function: Callable | None = None, *args: object, **kwargs: object) -> Callable:
        """Functions of torch itself that the compiler must not look at: it is not here to look."""
        if function is not None and function.__module__.startswith("torch."):
            return function
        run(compiler)
        return compiler.disable(function, *args, **kwargs)

    return disable


def _forward(package: ModuleType, module: ModuleType) -> None:
    """Names that a package takes from its module with a star are looked for there when the package is asked for them."""
    before = vars(package).get("__getattr__")

    def found(name: str) -> object:
        if not name.startswith("__"):
            run(module)
            if name in getattr(module, "__all__", vars(module)):
                return getattr(module, name)
        if before is not None:
            return before(name)
        raise AttributeError(f"module {package.__name__!r} has no attribute {name!r}")

    vars(package)["__getattr__"] = found


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
                  ) -> importlib.machinery.ModuleSpec | None:  # fmt: skip
        if name.startswith(f"{COMPILER}."):
            run(sys.modules[COMPILER])  # its rooms want the whole house
        if name not in DEFERRED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def defer() -> None:
    """From now on; a second call does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
