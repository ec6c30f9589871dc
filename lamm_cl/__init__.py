"""Continual-learning benchmarks for CLIP: every method through one loop, on one class-incremental stream.

The names below are the library; all else is the house's own. Each is imported when it is first asked for: `import lamm_cl`
loads neither torch nor pandas.

    >>> import lamm_cl
    >>> "records" in dir(lamm_cl)
    True
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lamm_cl.library.models import export as export
    from lamm_cl.library.models import load as load
    from lamm_cl.library.models import model as model
    from lamm_cl.library.models import predict as predict
    from lamm_cl.library.results import compare as compare
    from lamm_cl.library.results import plot_class_drops as plot_class_drops
    from lamm_cl.library.results import plot_confusion as plot_confusion
    from lamm_cl.library.results import plot_cost as plot_cost
    from lamm_cl.library.results import plot_critical_difference as plot_critical_difference
    from lamm_cl.library.results import plot_few_shot as plot_few_shot
    from lamm_cl.library.results import plot_forgetting as plot_forgetting
    from lamm_cl.library.results import plot_incremental as plot_incremental
    from lamm_cl.library.results import plot_matrix as plot_matrix
    from lamm_cl.library.results import records as records
    from lamm_cl.library.results import report as report
    from lamm_cl.library.results import table as table
    from lamm_cl.library.running import UserError as UserError
    from lamm_cl.library.running import run as run
    from lamm_cl.library.strategies import record as record
    from lamm_cl.library.streams import features as features
    from lamm_cl.library.streams import stream as stream

    __version__: str

_ROOMS = {  # name -> where it is
    **dict.fromkeys(("run", "UserError"), "running"),
    **dict.fromkeys(("records", "table", "compare", "report"), "results"),
    **dict.fromkeys(("plot_forgetting", "plot_incremental", "plot_matrix", "plot_few_shot", "plot_class_drops"), "results"),
    **dict.fromkeys(("plot_critical_difference", "plot_cost", "plot_confusion"), "results"),
    **dict.fromkeys(("stream", "features"), "streams"),
    **dict.fromkeys(("model", "load", "predict", "export"), "models"),
    "record": "strategies",
}
__all__ = [*_ROOMS, "__version__"]  # noqa: PLE0604  texts all of them


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("lamm-cl")
    if name not in _ROOMS:
        raise AttributeError(f"module 'lamm_cl' has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"lamm_cl.library.{_ROOMS[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
