"""stream: our class-incremental streams as Avalanche benchmarks; features: a dataset through a frozen CLIP, as arrays."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from lamm_cl.library.running import Library
    from lamm_cl.training.benchmarks import Benchmark


def stream(scenario: str | Path, *, dataset: str | None = None, shots: int | str | None = None, seed: int | None = None,
           backbone: str | None = None, transform: "Callable[[Any], Any] | str | None" = None,
           test_transform: "Callable[[Any], Any] | None" = None, device: str = "auto",
           data_root: str | Path | None = None, cache: str | Path | None = None, library: "Library" = ()
           ) -> "Benchmark":  # fmt: skip
    """The stream of a scenario as an Avalanche benchmark: `train_stream` and `test_stream` for any strategy of Avalanche.

    scenario: a name or a path; library: folders with more of them, as in `run`.  dataset, shots, seed: default the scenario's
    first; the seed decides which images are shown.

    Items are (x, y, 0): y the class id by arrival (experience 1 brings 0, 1, ...), 0 the task label.  x is
    - an image, where backbone is None: `transform(image)` of a Pillow image in RGB (test images: `test_transform`, or the
      same); by default (3, H, W) in 0..1 as stored; "backbone": preprocessed as the scenario's CLIP wants it;
    - unit features (D,) of backbone: "ARCH[:WEIGHTS]", or "scenario" for the scenario's own; computed once, kept in the cache.

    Beside the streams: class_names, class_order (the dataset's own ids by arrival), experiences (class ids of each), n_classes.
    Raises UserError for an unknown name, data that are missing, or a transform of features.

    >>> import lamm_cl
    >>> images = lamm_cl.stream("demo", dataset="digits")
    >>> [len(experience.dataset) for experience in images.train_stream]  # 5 classes of 16 images each
    [80, 80]
    >>> x, y, task = images.train_stream[0].dataset[0]
    >>> tuple(x.shape), y, task, images.class_names[y]
    ((3, 48, 48), 0, 0, 'zero')
    >>> features = lamm_cl.stream("demo", dataset="digits", backbone="scenario")
    >>> tuple(features.train_stream[1].dataset[0][0].shape), features.experiences
    ((64,), [range(0, 5), range(5, 10)])
    """
    from lamm_cl.cli import choice
    from lamm_cl.errors import UserError
    from lamm_cl.library.running import opened, places
    from lamm_cl.training import benchmarks

    root, kept = places(data_root, cache)
    lists: dict[str, list] = {"datasets": [dataset] if dataset else [], "methods": [], "shots": [shots] if shots else [],
             "seeds": [] if seed is None else [seed]}  # fmt: skip
    named = None if backbone in (None, "scenario") else backbone
    chosen = choice.listed(str(scenario), lists, Path("results"), root, named, library=opened(library))[0]
    of = chosen.scenario.backbone if backbone else None
    origin = benchmarks.origin_of(chosen.scenario, chosen.dataset, chosen.shots, chosen.seed, data_root=root, cache=kept,
                                  device=device, backbone=of, order=chosen.order)  # fmt: skip
    if isinstance(transform, str):
        if transform != "backbone":
            raise UserError(f"transform: expected a function or 'backbone', got {transform!r}")
        return benchmarks.benchmark(origin, benchmarks.frozen_of(origin).preprocess, test_transform)
    return benchmarks.benchmark(origin, transform, test_transform)


def features(dataset: str, backbone: str = "lamm-cl-mini", *, device: str = "auto", data_root: str | Path | None = None,
             cache: str | Path | None = None) -> "dict[str, np.ndarray]":  # fmt: skip
    """A dataset through a frozen CLIP: train_x (N, D) before they are normalised, train_y (N,), test_x, test_y, val_x and val_y
    where there is such a split, text (C, D) unit features of the class names under the dataset's template, names (C,), origin.

    backbone: "ARCH[:WEIGHTS]".  `numpy.savez(path, **arrays)` writes the file that a scenario's `datasets` may name.

    >>> import lamm_cl
    >>> arrays = lamm_cl.features("digits")
    >>> arrays["text"].shape, arrays["names"][0].item()
    ((10, 64), 'zero')
    """
    import io

    import numpy as np

    from lamm_cl.config.cards import backbone_named
    from lamm_cl.data import catalogue
    from lamm_cl.library.running import places
    from lamm_cl.towers.devices import device as resolved
    from lamm_cl.training.export import export

    root, kept = places(data_root, cache)
    content = export(catalogue.load(dataset, root, kept), backbone_named(backbone), kept, resolved(device))
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)
