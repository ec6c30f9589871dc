"""model: a method for any Avalanche strategy; load, predict, export: what a finished run learned."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lamm_cl.sweeping.plan import Run
    from lamm_cl.training.benchmarks import Benchmark
    from lamm_cl.training.modules import Module
    from lamm_cl.training.reload import Reloaded

Image = str | Path


def model(method: str | Path, stream: "Benchmark", *, backbone: str | None = None, label_space: str | None = None,
          device: str = "auto") -> "Module":  # fmt: skip
    """A method of ours as an nn.Module for any Avalanche strategy on `stream`.

    method: a name that `lamm-cl list methods` shows, or a card's path.  backbone: "ARCH[:WEIGHTS]"; default: the one whose
    features the stream holds, else the scenario's.  label_space: which classes compete in training: experience or seen;
    default: the card's, or the scenario's; replay, DER and LwF need "seen".

    forward: x (B, D) unit features, or (B, 3, H, W) as `stream(..., transform="backbone")` gives them -> logits (B, C) of all
    classes; in training those out of play are at -1e4.  `criterion` is the method's own loss; with another one its extra terms
    are lost.  The optimizer may be made at once: the first experience has begun.  Raises UserError for a method that needs what
    the stream does not hold.

    >>> import lamm_cl, torch
    >>> stream = lamm_cl.stream("demo", dataset="digits", backbone="scenario")
    >>> lamm = lamm_cl.model("lamm", stream)
    >>> x = torch.stack([stream.test_stream[0].dataset[i][0] for i in range(4)])
    >>> tuple(lamm.eval()(x).shape), sum(p.numel() for p in lamm.parameters() if p.requires_grad)
    ((4, 10), 320)
    """
    from lamm_cl.config.cards import backbone_named, with_card
    from lamm_cl.errors import UserError
    from lamm_cl.sweeping.plan import plan
    from lamm_cl.towers.devices import device as resolved
    from lamm_cl.training.modules import Module
    from lamm_cl.training.run import backbone_on, prepare

    origin, key = stream.origin, str(method)
    scenario = origin.scenario
    if backbone is not None:
        other = backbone_named(backbone)
        if origin.backbone is not None and other != origin.backbone:
            raise UserError(f"backbone: the stream holds features of {origin.backbone.architecture}, not of {backbone}")
        scenario = scenario.model_copy(update={"backbone": other})
    if label_space is not None:
        if label_space not in ("experience", "seen"):
            raise UserError(f"label_space: expected experience or seen, got {label_space!r}")
        scenario = scenario.model_copy(update={"train_label_space": label_space})
    if key.endswith(".yaml"):
        scenario, key = with_card(scenario, key)
    (run,) = [one for one in plan(scenario, Path("results"), datasets=[origin.named], methods=[key], shots=[origin.shots],
                                  seeds=[origin.seed]) if "@" not in one.method and one.order == origin.order]  # fmt: skip
    if label_space is not None and run.card.label_space:
        run = _with_label_space(run, label_space)
    frozen = backbone_on(scenario.backbone, resolved(origin.device if device == "auto" else device))
    prepared = prepare(run, frozen, origin.dataset, origin.cache)
    return Module(prepared.model, prepared.sources)


def _with_label_space(run: "Run", label_space: str) -> "Run":
    from dataclasses import replace

    return replace(run, card=run.card.model_copy(update={"label_space": label_space}))


def load(run: str | Path, *, device: str = "auto") -> "Reloaded":
    """The model of a finished run, as it was at its end: `.learner` (an nn.Module in evaluation), `.names` (classes by arrival),
    `.record`.

    run: its folder.  Needs the CLIP's weights, and no image.  Raises UserError for what is no finished run, for tensors or
    weights that are not those of the record.

    >>> import lamm_cl
    >>> lamm_cl.load("results/demo/runs/digits/zero-shot/shots16-seed1").names[:3]
    ('zero', 'one', 'two')
    """
    from lamm_cl.training.reload import reload

    return reload(Path(run), device)


def predict(run: "str | Path | Reloaded", images: Sequence[Image], *, device: str = "auto") -> list[dict[str, float]]:
    """For each image file its classes with their probabilities (0..1, all classes learned compete), the most probable first.

    run: a run's folder, or what `load` gave.  Raises UserError for a file that is no image, and as `load`.

    >>> import lamm_cl
    >>> from PIL import Image
    >>> Image.new("L", (48, 48)).save("black.png")
    >>> (found,) = lamm_cl.predict("results/demo/runs/digits/zero-shot/shots16-seed1", ["black.png"])
    >>> len(found), round(sum(found.values()), 3)
    (10, 1.0)
    """
    from lamm_cl.errors import UserError
    from lamm_cl.training.reload import logits

    if isinstance(images, str | Path):
        raise UserError(f"images: expected a list, got {str(images)!r}")
    model = load(run, device=device) if isinstance(run, str | Path) else run
    if not images:
        return []
    found = logits(model, [Path(image) for image in images]).softmax(dim=-1).tolist()
    return [dict(sorted(zip(model.names, each, strict=True), key=lambda pair: -pair[1])) for each in found]


def export(run: "str | Path | Reloaded", output: str | Path, *, device: str = "auto") -> list[Path]:
    """Write what a run learned for use elsewhere -> [output/model.safetensors, output/model.json].

    Unit text features `text` (C, D) of the classes and the `scale` of their cosines, where images are scored so; else the
    method's learned tensors. The JSON names the classes, the CLIP and how to score.

    >>> import lamm_cl
    >>> [path.name for path in lamm_cl.export("results/demo/runs/digits/zero-shot/shots16-seed1", "exported")]
    ['model.safetensors', 'model.json']
    """
    from lamm_cl.training.reload import export_to

    return export_to(Path(output), load(run, device=device) if isinstance(run, str | Path) else run)
