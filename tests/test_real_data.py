"""The papers' datasets from their folders to a record: zero-shot CLIP and LAMM on miniatures, through the one loop."""

import numpy as np
import pytest
import torch
from generated import tiny_clip
from layouts import EXPECTED, ORIGINALS, picture, write

from lamm_cl.bench.counts import asked_by
from lamm_cl.cli import main
from lamm_cl.config.cards import card_for, load_scenario, scenario_names
from lamm_cl.config.schema import Scenario
from lamm_cl.data import catalogue
from lamm_cl.data.dataset import Files, Split, learned_from
from lamm_cl.data.orders import class_counts, class_order
from lamm_cl.errors import UserError
from lamm_cl.sweeping import estimate
from lamm_cl.sweeping.estimate import Sizes
from lamm_cl.sweeping.plan import Run, plan
from lamm_cl.training import features
from lamm_cl.training import run as training
from lamm_cl.training.features import Augmentation, Features, Pixels
from lamm_cl.training.run import dataset_in

TEST_ONLY = ("ImageNetV2", "ImageNet-Sketch", "ImageNet-A", "ImageNet-R")
OVERRIDES = {"lamm": {"training": {"epochs": 2, "batch": 4, "augmentation": "none"}}}


def scenario(dataset: str, **changes) -> Scenario:
    facts = dict(name="mini", version=1, backbone={"architecture": "lamm-cl-mini", "weights": "embedded"}, datasets=[dataset],
                 experiences="halves", shots=4, seeds=[1], methods=["zero-shot", "lamm"], overrides=OVERRIDES)  # fmt: skip
    return Scenario(**(facts | changes))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """One run on the miniatures below tmp_path/data, with the tiny CLIP -> its record."""
    monkeypatch.setattr(training, "backbone_on", lambda *_: tiny_clip())
    dataset_in.cache_clear()

    def call(measured: Scenario, method: str):
        dataset = measured.datasets[0]
        one = Run(measured, dataset, method, card_for(measured, method), measured.shots[0], 1, tmp_path / f"{dataset}-{method}")
        return training.do(one, data_root=tmp_path / "data", cache=tmp_path / "cache", device="cpu", progress=lambda at: None)

    return call


# --- the fifteen --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["zero-shot", "lamm"])
@pytest.mark.parametrize("name", ORIGINALS)
def test_each_of_the_fifteen_runs_from_its_folder_to_a_record(tmp_path, run, name, method):
    write(name, tmp_path / "data")
    source = "ImageNet" if name in TEST_ONLY else None
    if source:
        write(source, tmp_path / "data")

    record = run(scenario(name, train_on=source), method)

    expected = EXPECTED[name]
    C = len(expected.classes)
    assert record.dataset.classes == expected.classes and sum(record.dataset.test_images) == C * expected.test
    assert sum(record.dataset.train_images) == C * 4
    cells = {(c.trained, c.tested) for c in record.counts if c.label_space == "own" and c.correct is not None}
    assert cells == {(i, j) for i in range(3) for j in (1, 2)}
    assert record.model.trainable[0] == (0 if method == "zero-shot" else record.model.label_tokens * 32 * -(-C // 2))
    assert record.dataset.notes == ((f"learned from the training images of {source}",) if source else ())


@pytest.mark.parametrize("name", TEST_ONLY)
def test_what_has_test_images_only_is_not_learned_without_saying_from_where(tmp_path, run, name):
    write(name, tmp_path / "data")

    with pytest.raises(UserError, match=f"mini: {name}: has test images only; learn its classes from another dataset"):
        run(scenario(name), "lamm")


def test_a_class_with_fewer_images_than_shots_gives_all_it_has_and_the_record_says_so(tmp_path, run):
    home = write("FGVCAircraft", tmp_path / "data")
    lines = (home / "images_variant_train.txt").read_text().splitlines()
    (home / "images_variant_train.txt").write_text("\n".join(lines[2:]) + "\n")  # two of class 707-320 less

    record = run(scenario("FGVCAircraft", shots=5), "lamm")

    assert sum(record.dataset.train_images) == 4 + 3 * 5
    assert record.dataset.notes == ("1 of 4 classes have fewer than 5 training images, which are all taken: '707-320' has 4",)


def test_a_class_name_that_does_not_fit_into_the_text_tower_is_told_with_its_tokens(tmp_path, run):
    for name in ("cat", " ".join("abcdefghij" * 9)):
        for i in range(4):
            picture(tmp_path / "data" / "mine" / name / f"{i}.jpg")

    with pytest.raises(UserError, match="tokens, but the text tower takes 77"):
        run(scenario("mine"), "lamm")


# --- learned from another dataset ---------------------------------------------------------------------------------------


def test_a_part_of_the_classes_is_learned_from_their_training_images_by_name(tmp_path):
    for name in ("ImageNet", "ImageNet-A"):
        write(name, tmp_path)
    whole, part = (catalogue.load(name, tmp_path, tmp_path / "cache") for name in ("ImageNet", "ImageNet-A"))

    joined = learned_from(part, whole)

    assert joined.classes == part.classes == ("tench", "great white shark") and joined.test is part.test
    folders = [path.parent.name for path in joined.train.images]
    assert [{0: "n01440764", 1: "n01484850"}[label] for label in joined.train.labels.tolist()] == folders
    assert joined.fingerprint not in (part.fingerprint, whole.fingerprint)


def test_the_same_classes_share_the_training_features_of_their_source(tmp_path):
    for name in ("ImageNet", "ImageNetV2"):
        write(name, tmp_path)
    whole, part = (catalogue.load(name, tmp_path, tmp_path / "cache") for name in ("ImageNet", "ImageNetV2"))

    joined = learned_from(part, whole)

    assert joined.train is whole.train and joined.train_fingerprint == whole.fingerprint


def test_a_dataset_with_a_class_of_its_own_cannot_be_learned_from_another(tmp_path):
    for name in ("ImageNet", "DTD"):
        write(name, tmp_path)
    whole, other = (catalogue.load(name, tmp_path, tmp_path / "cache") for name in ("ImageNet", "DTD"))

    with pytest.raises(UserError, match="DTD cannot be learned from ImageNet, which has no class 'banded'"):
        learned_from(other, whole)


# --- worker processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path, monkeypatch) -> Split:
    """Files that are worth a worker."""
    monkeypatch.setattr(features, "MANY", 8)
    for i in range(20):
        picture(tmp_path / "many" / f"{i:02d}{'x' * i}.png", (20 + i, 30))
    names = sorted(path.name for path in (tmp_path / "many").iterdir())
    return Split(Files(tmp_path / "many", names), np.zeros(20, np.int64))


@pytest.mark.parametrize("augmentation", [None, Augmentation(3)])
def test_the_features_do_not_depend_on_the_number_of_workers(tmp_path, monkeypatch, many, augmentation):
    def encoded(cpus: int) -> np.ndarray:
        monkeypatch.setattr(features, "CPUS", cpus)
        return Features(Pixels(many, tiny_clip(), augmentation), torch.arange(20), {}, tmp_path).encode(1)["unit"]

    alone, helped = encoded(1), encoded(3)

    assert alone.tobytes() == helped.tobytes() and len(np.unique(alone, axis=0)) > 10


def test_workers_leave_the_global_generator_alone(monkeypatch, many):
    monkeypatch.setattr(features, "CPUS", 2)
    before = torch.get_rng_state()

    list(Pixels(many, tiny_clip()).batches([torch.arange(20)], 0))

    assert torch.equal(torch.get_rng_state(), before)


def test_an_image_that_a_worker_cannot_read_is_told_in_one_line(tmp_path, monkeypatch, many):
    monkeypatch.setattr(features, "CPUS", 2)
    many.images[11].write_bytes(b"no image")

    with pytest.raises(UserError) as caught:
        list(Pixels(many, tiny_clip()).batches([torch.arange(20)], 0))

    assert str(caught.value).startswith(f"{many.images[11]}: not a readable image") and "\n" not in str(caught.value)


# --- what it costs ------------------------------------------------------------------------------------------------------


def test_the_work_of_a_sweep_by_hand(tmp_path):
    measured = scenario("DTD", seeds=[1, 2], methods=["zero-shot", "coop", "lamm", "maple"], overrides={
        "coop": {"training": {"epochs": 3, "batch": 2, "augmentation": "none"}},
        "lamm": {"training": {"epochs": 3, "batch": 2, "augmentation": "random_resized_crop+flip"}},
        "maple": {"training": {"epochs": 3, "batch": 2}},
    })  # fmt: skip
    runs = plan(measured, tmp_path)

    work = estimate.work(runs, {"DTD": Sizes(classes=5, train=100, test=50)}, asked_by)

    images = 5 * 4  # 4 shots
    assert work.encoded == 50 + 2 * images + 2 * 3 * images  # test; two seeds; the augmented ones anew in each epoch
    assert work.prompted == 2 * (3 * images * 3 + 3 * 50)  # forward and backward; tested before and after both experiences
    steps = {3: 3 * 6, 2: 3 * 4}  # classes -> epochs x batches of two
    assert work.prompts == 2 * 3 * (3 * steps[3] + 2 * steps[2])  # three methods learn


def test_the_work_of_methods_inside_the_towers_by_hand(tmp_path):
    """CLIP-LoRA asks nothing of the bank, L2P its queries there and no texts, SimpleCIL neither."""
    small = {"training": {"epochs": 3, "batch": 2, "augmentation": "none"}}
    measured = scenario("DTD", seeds=[1], methods=["cliplora", "l2p", "simplecil"], overrides={
        "cliplora": {"training": {"steps_per_shot": 2, "batch": 2}}, "l2p": small,
    })  # fmt: skip

    work = estimate.work(plan(measured, tmp_path), {"DTD": Sizes(classes=5, train=100, test=50)}, asked_by)

    images, tested, steps = 5 * 4, 3 * 50, 2 * 4  # steps: per shot x shots
    assert work.encoded == 50 + images
    assert work.prompted == 2 * steps * 2 * 3 + tested + images * 3 * 3 + tested - 50  # a linear head is not tested untrained
    assert work.prompts == steps * (3 + 2)


def test_table_2_has_the_papers_runs(tmp_path):
    runs = plan(load_scenario("lamm-table2"), tmp_path)

    assert len(runs) == 11 * 4 * 3
    assert {run.scenario.backbone.weights for run in runs} == {"openai"}


OWN = {"./my-data", "imagenet100"}  # folders that the user has


@pytest.mark.parametrize("name", [name for name in scenario_names() if load_scenario(name).backbone.architecture == "ViT-B-16"])
def test_the_scenarios_of_real_data_name_datasets_that_there_are(name):
    measured = load_scenario(name)
    known = {info.name for info in catalogue.names()}

    named = {each for name in measured.names for each in catalogue.members(name) or [name]}
    weights = {"openai", "laion400m_e32"} if name.startswith("field-") else {"openai"}

    assert named <= known | OWN and measured.train_on in {None, "ImageNet"}
    assert measured.backbone.weights in weights


@pytest.mark.parametrize(("name", "counts"), [("cifar100-b0-inc10", [10] * 10), ("cifar100-b50-inc10", [50] + [10] * 5)])
def test_the_fields_protocols_have_its_order_and_its_experiences(name, counts):
    measured = load_scenario(name)

    assert class_counts(measured.experiences, 100, name) == counts
    assert class_order(measured.order, 100)[:10] == [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]  # iCaRL's, as in its followers' code
    assert measured.shots == ("full",)


@pytest.mark.parametrize("root", [None, "empty"])
def test_a_dry_run_tells_what_data_is_missing(root, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("LAMM_CL_DATA", raising=False)
    (tmp_path / "empty").mkdir()
    words = ["--data-root", str(tmp_path / root)] if root else []

    words += ["--results", str(tmp_path / "r"), "--cache", str(tmp_path / "c")]
    status = main.main(["run", "lamm-table2", "--dry-run", *words])

    told = capsys.readouterr().err
    assert status == 2 and told.count("\n") == 1
    assert told.startswith("lamm-cl: ImageNet: no folder " if root else "lamm-cl: ImageNet needs --data-root")
    assert not (tmp_path / "r").exists()


# --- lamm-cl data -------------------------------------------------------------------------------------------------------


def told(capsys, *words) -> tuple[int, str, str]:
    status = main.main(["data", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_data_list_shows_where_each_dataset_is_expected(tmp_path, capsys):
    write("DTD", tmp_path)

    status, out, _ = told(capsys, "list", "--data-root", tmp_path)

    rows = {line.split()[0]: line for line in out.splitlines() if line.split()}
    assert status == 0 and set(info.name for info in catalogue.names()) <= set(rows)
    assert "DATA_ROOT/dtd" in rows["DTD"] and rows["DTD"].split()[-1] == "yes" and rows["SUN397"].split()[-1] == "no"


def test_data_check_tells_what_is_there_and_what_is_not(tmp_path, capsys):
    write("DTD", tmp_path)

    status, out, _ = told(capsys, "check", "--data-root", tmp_path, "--cache", tmp_path / "cache")

    assert status == 0
    assert "note     DTD: 3 classes, 18 train and 9 test images; published: 47 classes" in out
    assert "absent   SUN397: get the images from" in out and "1 datasets checked, 0 problems" in out


def test_data_check_has_status_1_where_a_run_would_fail(tmp_path, capsys):
    home = write("DTD", tmp_path)
    next((home / "images" / "banded").glob("*.jpg")).write_bytes(b"no image")

    status, out, _ = told(capsys, "check", "DTD", "SUN397", "--data-root", tmp_path, "--cache", tmp_path / "cache")

    assert status == 1 and "problem  DTD: " in out and "unreadable" in out and "problem  SUN397: " in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["check", "Food102", "--data-root", "."], "no dataset 'Food102'; did you mean 'Food101'?"),
        (["check"], "give NAMEs, or a folder with --data-root"),
        (["check", "--data-root", "no/such/folder"], "no/such/folder: no such folder"),
        (["fetch", "DTD"], "give a folder with --data-root"),
        (["fetch", "SUN397", "--data-root", "."], "SUN397 cannot be fetched, only"),
    ],
)
def test_a_mistake_in_data_is_one_line_with_status_2(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAMM_CL_DATA", raising=False)

    status, out, err = told(capsys, *words)

    assert (status, out) == (2, "") and line in err and err.count("\n") == 1


def test_data_fetch_of_what_is_there_does_nothing(tmp_path, capsys):
    write("CIFAR-10", tmp_path)

    assert told(capsys, "fetch", "cifar10", "--data-root", tmp_path)[:2] == (0, "nothing to do: CIFAR-10 is there\n")
