"""The fast paths against the released amount of work: equal for every method, and what `lamm-cl bench` measures is there."""

import json

import pytest
import torch
import toy
from generated import TINY, frozen_clip, images

from lamm_cl.bench import heads, workloads
from lamm_cl.bench.yardstick import Plain, as_released
from lamm_cl.cli import main
from lamm_cl.config.cards import card_names, load_card, load_scenario, resolve
from lamm_cl.learner.build import build
from lamm_cl.learner.shown import Images

LONGEST = "the context limit"
NAMES = {
    "odd lengths": ["cat", "golden retriever", "a", "Boeing 737-300", "forget-me-not"],
    "one class": ["golden retriever", "cat"],
    LONGEST: ["x " * 68 + "x", "cat", "x"],
}


def card_of(key: str):
    return resolve(load_card(key), toy.OVERRIDES.get(key, {}))


def learning(key: str, names: list[str], precision: str, released: bool):
    """A model in its last experience, its parameters moved away from their start as learning would."""
    frozen = frozen_clip(TINY)
    frozen.compute(precision)
    half = (len(names) + 1) // 2
    model = build(card_of(key), frozen, names, [range(half), range(half, len(names))], shots=4, seed=1)
    model = as_released(model) if released else model
    model.train()
    draw = torch.Generator().manual_seed(2)
    for i in range(2):
        model.begin(i)
        for p in model.parameters():
            if p.requires_grad:
                p.data += 0.02 * torch.randn(p.shape, generator=draw)
    model.refresh()
    return model


def computed(key: str, names: list[str], precision: str, released: bool) -> dict[str, torch.Tensor]:
    """Loss and gradients of a training step, and logits of all classes."""
    model = learning(key, names, precision, released)
    x = Images(pixels=images(1, 4, TINY["image"]))
    loss = sum(model.loss(x, torch.tensor(([*model.in_play] * 4)[:4]))[1].values())
    if loss.requires_grad:
        loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        return found | {"loss": loss.detach(), "logits": model.eval()(x)}


LONG = ("coop-16", "zero-shot-", "prograd", "promptsrc")  # contexts or references that leave no room for the longest name
READ = [  # a head of its own has nothing that the yardstick would slow, its texts know no additions, and nothing is remembered
    key for key in card_names() if not (load_card(key).head or load_card(key).tower or load_card(key).memory)
]
CASES = [(key, names) for key in READ for names in NAMES if not (names == LONGEST and key.startswith(LONG))]


@pytest.mark.parametrize(("key", "names"), CASES)
def test_every_method_has_the_loss_gradients_and_logits_of_the_released_amount_of_work(key, names):
    ours, plain = (computed(key, NAMES[names], "fp32", released) for released in (False, True))
    assert ours.keys() == plain.keys()
    for name, value in plain.items():
        rounding = 1e-4 if name == "loss" else 1e-7  # logits are a hundred times a cosine, and a loss may be near 0
        near = 3e-5 if key == "vpt" and name not in ("loss", "logits") else 1e-5  # over five seeds 2.3e-5 there
        assert (ours[name] - value).abs().max() <= near * value.abs().max() + rounding, name


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(
    ("key", "names"),  # one whose texts alone learn, two that prompt images too, one text an image; odd ends of text once
    [("coop+lamm", "odd lengths"), ("coop+lamm", "one class"), ("lamm", LONGEST), ("maple", "odd lengths"),
     ("comma", "odd lengths"), ("cocoop", "odd lengths")],
)  # fmt: skip
def test_under_autocast_the_fast_path_is_as_near_to_fp32_as_the_released_amount_of_work(key, names, precision):
    """Their roundings differ, so they are not compared with each other."""
    true = computed(key, NAMES[names], "fp32", True)
    ours, plain = (computed(key, NAMES[names], precision, released) for released in (False, True))
    off, off_plain = ({name: (found[name] - true[name]).norm() for name in true} for found in (ours, plain))
    assert off["logits"] <= 2 * off_plain["logits"] + 1e-3 * true["logits"].norm()
    gradients = [torch.stack([each[name] for name in true if name != "logits"]).norm() for each in (off, off_plain)]
    assert gradients[0] <= 3 * gradients[1] + 1e-3


def test_the_yardstick_keeps_nothing_and_takes_nothing_but_images():
    plain = learning("lamm", NAMES["odd lengths"], "fp32", released=True)

    assert plain.needs_pixels and isinstance(plain.reference, Plain)
    plain.eval()
    assert plain.texts.kept == plain.reference.kept == {}


def test_bench_prints_a_table_and_writes_an_entry_for_every_target(tmp_path, capsys, monkeypatch):
    """On the embedded CLIP, where it takes seconds: what it measures is told in docs/speed.md."""
    monkeypatch.setattr(workloads, "COUNTS", (2, 3))
    monkeypatch.setattr(workloads, "METHODS", ("zero-shot", "lamm"))
    monkeypatch.setattr(workloads, "EXPERIENCES", 4)
    demo = load_scenario("demo")
    quick = demo.model_copy(update={"overrides": demo.overrides | {"lamm": {"training": {"epochs": 2, "warmup": None}}}})
    monkeypatch.setattr(workloads, "load_scenario", lambda name: quick)
    for name, small in {"CLASSES": 20, "IMAGES": 120, "EXPERIENCES": 5, "M": 300, "STREAMED": 20}.items():
        monkeypatch.setattr(heads, name, small)
    path = tmp_path / "speed.json"
    status = main.main(["bench", "--backbone", "lamm-cl-mini", "--classes", "4", "--repeats", "1", "--json", str(path)])

    found = {entry["name"]: entry for entry in json.loads(path.read_text())}
    assert status == 0
    assert {"name", "value", "unit", "ratio", "target", "met"} == set(found["text_tower"])
    targets = {"text_tower", "lamm_step", "coop_step", "maple_step", "cocoop_step", "lamm_memory", "image_encoding",
               "shared_features", "experience_growth", "demo", "ranpac_observe", "ranpac_scores"}  # fmt: skip
    assert {name for name, entry in found.items() if entry["target"]} == targets
    assert {"lamm_step_3", "lamm_memory_3", "lamm_run", "zero-shot_run", "bank_read", "fecam_stream"} <= set(found)
    assert all(entry["value"] > 0 for entry in found.values())
    for name in targets:
        entry = found[name]
        sign, bound = entry["target"].split()
        met = entry["ratio"] <= float(bound) if sign == "<=" else entry["ratio"] >= float(bound)
        assert entry["met"] == met or name in ("text_tower", "maple_step")  # these have a second condition
