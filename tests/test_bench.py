"""The fast paths against the released amount of work: equal for every method, and what `lamm-cl bench` measures is there."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
import toy
from generated import TINY, frozen_clip, images

from lamm_cl.bench import folders, heads, limit, page, processes, workloads
from lamm_cl.bench.instruments import Measure
from lamm_cl.bench.yardstick import AsReleased, Plain, as_released
from lamm_cl.cli import bench, main
from lamm_cl.config.cards import card_names, load_card, load_scenario, resolve
from lamm_cl.errors import UserError
from lamm_cl.learner.build import build
from lamm_cl.learner.shown import Images
from lamm_cl.towers.linears import Layer, Linear

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


@pytest.fixture
def small(monkeypatch):
    """Everything the bench measures, small, and no process of it started: what it measures is told in docs/speed.md."""
    monkeypatch.setattr(workloads, "COUNTS", (2, 3))
    monkeypatch.setattr(workloads, "METHODS", ("zero-shot", "lamm"))
    monkeypatch.setattr(workloads, "EXPERIENCES", 4)
    monkeypatch.setattr(workloads, "AT_ONCE", {"plain": 2, "packed": 2})
    monkeypatch.setattr(limit, "SECONDS", 0.001)
    demo = load_scenario("demo")
    quick = demo.model_copy(update={"overrides": demo.overrides | {"lamm": {"training": {"epochs": 2, "warmup": None}}}})
    monkeypatch.setattr(workloads, "load_scenario", lambda name: quick)
    monkeypatch.setattr(folders, "RUNS", (10,))
    for name, less in {"CLASSES": 20, "IMAGES": 120, "EXPERIENCES": 5, "M": 300, "STREAMED": 20}.items():
        monkeypatch.setattr(heads, name, less)
    started = []
    for name in ("finished", "first_line"):
        monkeypatch.setattr(processes, name, lambda words: (started.append(words), subprocess.run(["true"], check=True)))
    return started


BENCH = ["bench", "--backbone", "lamm-cl-mini", "--classes", "4", "--repeats", "1"]


def entries(path) -> dict[str, dict]:
    return {entry["name"]: entry for entry in json.loads(path.read_text())}


def test_bench_prints_a_table_and_writes_an_entry_for_every_target(tmp_path, capsys, small):
    """On the embedded CLIP, where it takes seconds."""
    path, manual = tmp_path / "speed.json", tmp_path / "speed.md"
    manual.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    status = main.main([*BENCH, "--json", str(path), "--page", str(manual)])

    found = entries(path)
    assert status == 0
    assert {"name", "value", "unit", "ratio", "target", "met", "note", "group"} == set(found["text_tower"])
    limits = {f"{what}_limit_fp32" for what in ("lamm", "coop", "maple", "encoding")}
    starts = {f"start_{what}" for what in ("import", "first_line", "dry_run", "first_step")}
    targets = {"text_tower", "lamm_step", "coop_step", "maple_step", "cocoop_step", "lamm_memory", "image_encoding",
               "shared_features", "experience_growth", "demo", "ranpac_observe", "ranpac_scores", "publishing_10", *limits,
               *starts}  # fmt: skip
    assert {name for name, entry in found.items() if entry["target"]} == targets
    assert {"lamm_step_3", "lamm_memory_3", "lamm_run", "zero-shot_run", "bank_read", "fecam_stream"} <= set(found)
    assert {"lamm_limit_bf16", "encoding_limit_bf16", "comma_command", "bench"} <= set(found)
    assert all(entry["value"] > 0 for entry in found.values())
    for name in targets:
        entry = found[name]
        sign, bound = entry["target"].split()
        met = entry["ratio"] <= float(bound) if sign == "<=" else entry["ratio"] >= float(bound)
        assert entry["met"] == met or name in ("text_tower", "maple_step")  # these have a second condition
    assert {entry["group"] for entry in found.values()} == {*bench.GROUPS, "bench"}
    assert manual.read_text() == f"before\n{page.BEGIN}\n\n{page.tables(page.read(path))}\n\n{page.END}\nafter\n"


def test_the_short_form_measures_its_groups_and_nothing_as_released_but_the_text_tower(tmp_path, capsys, small, monkeypatch):
    monkeypatch.setattr(workloads, "step", only_ours(workloads.step))
    path = tmp_path / "quick.json"
    assert main.main([*BENCH, "--quick", "--json", str(path)]) == 0

    found = entries(path)
    assert {entry["group"] for entry in found.values()} == {*bench.QUICK, "bench"}
    named = {group: {name for name, entry in found.items() if entry["group"] == group} for group in bench.QUICK}
    assert named["limit"] == {f"{what}_limit_fp32" for what in ("lamm", "coop", "maple", "encoding")}
    assert named["commands"] == {"zero-shot_command", "maple_command"}


def only_ours(step):
    def checked(model, x, targets):
        assert not isinstance(model, AsReleased)
        step(model, x, targets)

    return checked


def test_processes_share_a_cache_that_is_filled_before_a_turn_counts_and_no_results(tmp_path, small):
    names = [m.name for m in processes.start(tmp_path, "cpu", 2)]
    assert names == ["start_import", "start_first_line", "start_dry_run", "start_first_step"]
    turns = [words[:2] for words in small]
    assert len(turns) == 12 and turns[:4] == turns[4:8] == turns[8:]
    del small[:]
    assert [m.name for m in processes.commands(tmp_path, "cpu", ["zero-shot", "maple"], 2)] == [
        "zero-shot_command",
        "maple_command",
    ]
    assert [words[words.index("--method") + 1] for words in small] == ["zero-shot", "zero-shot", "maple", "zero-shot", "maple"]

    def after(option: str) -> list[str]:
        return [words[words.index(option) + 1] for words in small]

    assert len(set(after("--cache"))) == 1 and len(set(after("--results"))) == len(small)


def test_a_command_that_is_to_end_behind_its_first_step_does(tmp_path):
    """One process, for real."""
    words = [*processes.DIGITS, "--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    processes.finished(["-c", processes.FIRST_STEP, *words])

    assert (tmp_path / "cache").exists() and not list(tmp_path.rglob("record.json"))


def test_a_process_that_fails_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="status 3: no luck$"):
        processes.finished(["-c", "import sys; print('trouble\\nno luck', file=sys.stderr); sys.exit(3)"])
    with pytest.raises(UserError, match="said nothing$"):
        processes.first_line(["-c", ""])


# --- the limit --------------------------------------------------------------------------------------------------------


def test_the_operations_of_a_step_are_those_of_its_shapes():
    """A frozen text tower, forward and backward to its input: 2MKN a product, and as many for the gradient of its input; of
    attention two products forward and five backward, the scores once more among them."""
    frozen = frozen_clip(TINY)
    N, L, d = 3, 9, frozen.d
    prompts = torch.randn(N, L, d, requires_grad=True)
    linear, attention = frozen.depth * N * L * 2 * d * (3 * d + d + 4 * d + 4 * d), frozen.depth * 2 * N * L * L * 2 * d

    forward = limit.counted(lambda: frozen.tokens(prompts.detach()))
    both = limit.counted(lambda: frozen.tokens(prompts).sum().backward())

    assert forward.flops == linear + attention
    assert both.flops == 2 * linear + attention + 5 * attention // 2
    assert set(both.products) == {(N * L, a * d, b * d) for i, o in ((1, 3), (1, 1), (1, 4)) for a, b in ((i, o), (o, i))}


def test_images_are_counted_with_their_patches():
    frozen = frozen_clip(TINY)
    one, four = (limit.counted(torch.no_grad()(lambda n=n: frozen.image(images(1, n, TINY["image"])))).flops for n in (1, 4))
    v = frozen.model.visual
    assert four == 4 * one > 2 * v.conv1.weight.numel() * (v.positional_embedding.shape[0] - 1)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_packed_layers_count_as_plain_ones():
    x, weight, bias = torch.randn(2, 5, 16, requires_grad=True), torch.randn(48, 16), torch.randn(48)
    plain = limit.counted(lambda: torch.nn.functional.linear(x, weight, bias).sum().backward())

    assert plain == limit.counted(lambda: Linear.apply(x, Layer(weight, bias, torch.float32)).sum().backward())
    assert plain == limit.Work(2 * 2 * 10 * 16 * 48, ((10, 16, 48), (10, 48, 16)))


def test_the_limit_is_the_best_rate_of_any_call(monkeypatch):
    monkeypatch.setattr(limit, "SECONDS", 0.001)
    best = limit.Limit([(8, 16, 32), (64, 64, 64)], torch.float32, torch.device("cpu"))
    best.turn()
    first = dict(best.rates)
    best.turn()

    assert best.best == max(best.rates.values()) > 0
    assert "F.linear" in first and all(best.rates[name] >= rate for name, rate in first.items())


# --- the page ---------------------------------------------------------------------------------------------------------

TOP = Path(__file__).parent.parent


def test_the_tables_of_the_page_on_speed_are_those_of_its_measures():
    """Never typed: `lamm-cl bench --from docs/speed.json --page docs/speed.md` writes them again."""
    path = TOP / "docs/speed.md"
    assert path.read_text() == page.with_tables(path, page.read(TOP / "docs/speed.json"))


def test_every_group_has_a_title_on_the_page():
    assert set(page.TITLES) == set(bench.GROUPS) > set(bench.QUICK)


def test_what_was_missed_is_named_above_the_tables():
    found = [Measure("a_step", 1, "s", 2, ">= 3", False, "x|y", "steps"), Measure("b_step", 1, "s", 4, ">= 3", True, "", "steps")]
    text = page.tables(found)
    assert "Targets met: 1 of 2; not met: `a_step`." in text
    assert "| a_step | 1 s | 2 | >= 3 | no | x\\|y |" in text


BAD = {
    "{": "is not JSON; expected what 'lamm-cl bench --json' writes",
    "{}": "expected a list of measures, as 'lamm-cl bench --json' writes it",
    '[{"name": "a"}]': "entry 1: expected the keys name, value, unit, ratio, target, met, note, group, got {'name': 'a'}",
    '[{"name": "a", "value": NaN, "unit": "s", "ratio": null, "target": null, "met": null, "note": "", "group": ""}]':
        "entry 1: value: nan cannot be it",
}  # fmt: skip


@pytest.mark.parametrize("content", BAD)
def test_a_file_that_holds_no_measures_is_told_in_one_line(tmp_path, capsys, content):
    path = tmp_path / "speed.json"
    path.write_text(content)
    assert main.main(["bench", "--from", str(path)]) == 2
    assert capsys.readouterr().err == f"lamm-cl: {path}: {BAD[content]}\n"


REFUSED = {
    "--quick --only growth": "--only growth: is not in the short form; expected one of limit, text, start, commands, counts, "
    "or no --quick",
    "--from x.json --quick": "--quick: nothing is measured with --from; expected one of the two",
    "--from nowhere.json": "nowhere.json: no such file; expected what 'lamm-cl bench --json' writes",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_does_not_go_together_is_told_in_one_line(tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert main.main(["bench", *words.split()]) == 2
    assert capsys.readouterr().err == f"lamm-cl: {REFUSED[words]}\n"


def test_a_page_without_a_place_for_tables_is_told_before_anything_is_measured(tmp_path, capsys, small):
    (path := tmp_path / "page.md").write_text("no marks")
    assert main.main([*BENCH, "--page", str(path)]) == 2
    assert not small and "expected the lines" in capsys.readouterr().err


def test_a_group_spelt_wrong_is_told_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["bench", "--only", "limits"])
    assert end.value.code == 2 and "did you mean 'limit'?" in capsys.readouterr().err
