"""Our streams and methods with Avalanche's strategies, and their strategies in our tables."""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import warnings
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics, bwt_metrics, forgetting_metrics
from avalanche.models import IncrementalClassifier
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import DER, EWC, Cumulative, GDumb, LwF, Naive, Replay

import lamm_cl
from lamm_cl.learner.shown import Images
from lamm_cl.reports import metrics
from lamm_cl.results.file import read_record
from lamm_cl.sweeping.verify import problems

pytestmark = pytest.mark.filterwarnings("ignore")
STRATEGIES = {
    "naive": lambda **k: Naive(**k),
    "replay": lambda **k: Replay(mem_size=40, **k),
    "ewc": lambda **k: EWC(ewc_lambda=10.0, **k),
    "lwf": lambda **k: LwF(alpha=1.0, temperature=2.0, **k),
    "cumulative": lambda **k: Cumulative(**k),
    "der": lambda **k: DER(mem_size=40, **k),
    "gdumb": lambda **k: GDumb(mem_size=40, **k),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def features(cache):
    return lamm_cl.stream("demo", dataset="digits", backbone="scenario", cache=cache)


@pytest.fixture(scope="module")
def images(cache):
    return lamm_cl.stream("demo", dataset="digits", shots=4, cache=cache)


@pytest.fixture(scope="module")
def pixels(cache):
    return lamm_cl.stream("demo", dataset="digits", shots=4, transform="backbone", cache=cache)


def strategy(kind, model, criterion=None, epochs=10, rate=1.0, evaluator=None):
    with warnings.catch_warnings(action="ignore"):
        evaluator = evaluator or EvaluationPlugin()
    return STRATEGIES[kind](model=model, optimizer=torch.optim.SGD(model.parameters(), lr=rate),
                            criterion=criterion or torch.nn.CrossEntropyLoss(), train_mb_size=32, train_epochs=epochs,
                            eval_mb_size=256, evaluator=evaluator)  # fmt: skip


def linear(stream, seed=1):
    torch.manual_seed(seed)
    return torch.nn.Linear(stream.train_stream[0].dataset[0][0].numel(), stream.n_classes)


class Convolutional(torch.nn.Module):
    def __init__(self):
        super().__init__()
        layers = [torch.nn.Conv2d(3, 8, 5, 4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(968, 10)]
        self.body = torch.nn.Sequential(*layers)

    def forward(self, x):
        return self.body(x)


# Streams


def test_a_stream_tells_its_classes_by_arrival_and_its_items_carry_task_labels(features):
    assert features.class_names[:2] == ["zero", "one"] and features.class_order == [*range(10)] and features.n_classes == 10
    for i, experience in enumerate(features.train_stream):
        assert set(experience.classes_in_this_experience) == set(features.experiences[i])
        assert experience.task_label == 0 and len(experience.dataset) == len(experience.samples) == 80
        assert [y for _, y, _ in experience.dataset] == experience.targets.tolist()


def test_features_of_a_stream_are_what_a_run_is_trained_on(features, pixels, cache):
    x = torch.stack([pixels.test_stream[0].dataset[i][0] for i in range(8)])
    learner = lamm_cl.model("coop", pixels).learner
    theirs = learner.clip.image(x)
    ours = torch.stack([features.test_stream[0].dataset[i][0] for i in range(8)])
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_scenarios_order_is_that_of_the_stream(cache):
    reversed_ = lamm_cl.stream("demo-reversed", dataset="digits", cache=cache)
    assert reversed_.class_order == [*range(9, -1, -1)] and reversed_.class_names[0] == "nine"


def test_a_transform_of_ones_own_is_applied_to_training_images_alone_if_another_is_given(cache):
    made = lamm_cl.stream("demo", dataset="digits", cache=cache, transform=lambda image: torch.zeros(1),
                          test_transform=lambda image: torch.ones(1))  # fmt: skip
    assert made.train_stream[0].dataset[0][0] == 0 and made.test_stream[0].dataset[0][0] == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dataset": "digit"}, "did you mean 'digits'"),
        ({"transform": "clip"}, "transform: expected a function or 'backbone', got 'clip'"),
        ({"transform": torch.tensor, "backbone": "scenario"}, "transform: is for images"),
    ],
)
def test_a_mistake_in_a_stream_is_told_in_one_line(options, told, cache):
    with pytest.raises(lamm_cl.UserError, match=told):
        lamm_cl.stream("demo", cache=cache, **{"dataset": "digits"} | options)


# Their strategies, a model of one's own


@pytest.mark.parametrize("kind", STRATEGIES)
def test_their_strategy_trains_a_head_on_our_features(kind, features, tmp_path):
    found = lamm_cl.record(strategy(kind, linear(features)), features, method=f"linear-{kind}", results=tmp_path)
    own, joint = found.accuracy("own"), found.accuracy("joint")
    assert np.isnan(own[0]).all() and np.isnan(own[1, 1]) and own[1, 0] > 60 and own[2, 1] > 60
    assert joint[1, 0] == own[1, 0] and (joint[2] <= own[2]).all()
    assert read_record(tmp_path / f"demo/runs/digits/linear-{kind}/shots16-seed1/record.json") == found


def test_what_keeps_old_images_forgets_less_than_what_does_not(features, tmp_path):
    kinds = ("naive", "replay", "cumulative")
    found = {kind: lamm_cl.record(strategy(kind, linear(features)), features, method=kind, results=tmp_path) for kind in kinds}
    last = {kind: one.accuracy("joint")[2, 0] for kind, one in found.items()}
    assert last["naive"] < last["replay"] <= last["cumulative"] + 5


def test_a_strategy_gives_the_same_counts_twice_whatever_was_drawn_before(features, tmp_path):
    one = lamm_cl.record(strategy("replay", linear(features)), features, method="replay", results=tmp_path / "one")
    model = linear(features)
    torch.rand(7)
    two = lamm_cl.record(strategy("replay", model), features, method="replay", results=tmp_path / "two")
    assert one.facts() == two.facts() and one.code == two.code


def test_a_model_on_images_stands_beside_our_methods_in_every_table(images, cache, tmp_path):
    lamm_cl.run("demo", methods=["zero-shot"], datasets=["digits"], seeds=[1], shots=[4], results=tmp_path, cache=cache)
    torch.manual_seed(1)
    found = lamm_cl.record(strategy("ewc", Convolutional(), epochs=2, rate=0.1), images, method="cnn-ewc", name="CNN + EWC",
                           results=tmp_path)  # fmt: skip
    again = replace(images.origin, seed=2)
    torch.manual_seed(2)  # other weights, and the same rows
    images.origin, before = again, images.origin
    try:
        lamm_cl.record(strategy("ewc", Convolutional(), epochs=2, rate=0.1), images, method="cnn-ewc", name="CNN + EWC",
                       results=tmp_path)  # fmt: skip
    finally:
        images.origin = before
    assert found.backbone.hash == "" and found.backbone.architecture.endswith("Convolutional")
    for kind in ("degradation", "incremental", "cost"):
        rows = lamm_cl.table(tmp_path / "demo", kind).index.get_level_values("method")
        assert {"zero-shot", "cnn-ewc"} <= set(rows)
    assert lamm_cl.table(tmp_path / "demo", "incremental", "seeds").loc[("digits", "joint", "cnn-ewc"), "last"] == 2
    assert lamm_cl.plot_incremental(tmp_path / "demo", tmp_path / "curves")[0].exists()
    assert problems(tmp_path / "demo", _derived) == []


def _derived(folder):
    from lamm_cl.reports.derived import derived_files

    return derived_files(folder)


def test_the_record_says_what_ran(features, tmp_path):
    found = lamm_cl.record(strategy("ewc", linear(features)), features, method="linear-ewc", results=tmp_path)
    told = found.card["provenance"]
    assert told["strategy"] == "avalanche.training.supervised.strategy_wrappers.EWC(train_epochs=10, train_mb_size=32)"
    assert "EWCPlugin(" in told["plugins"] and "ewc_lambda=10.0" in told["plugins"]
    assert told["model"] == "torch.nn.modules.linear.Linear" and "lr=1.0" in told["optimizer"]
    assert found.code["strategy"].startswith("avalanche 0.6") and found.code["model"].startswith("torch ")
    assert found.backbone.architecture == "lamm-cl-mini"  # whose features they are


def test_a_record_that_is_there_is_given_back_and_another_strategys_is_not_replaced(features, tmp_path):
    first = lamm_cl.record(strategy("naive", linear(features)), features, method="mine", results=tmp_path)
    model = linear(features)
    before = model.weight.clone()
    assert lamm_cl.record(strategy("naive", model), features, method="mine", results=tmp_path) == first
    assert torch.equal(model.weight, before)
    with pytest.raises(lamm_cl.UserError, match="the record of another strategy, model or optimizer; remove it"):
        lamm_cl.record(strategy("ewc", linear(features)), features, method="mine", results=tmp_path)


def test_logits_of_other_classes_than_the_streams_are_refused_and_nothing_is_written(features, tmp_path):
    with pytest.raises(lamm_cl.UserError, match=r"expected logits \(B, 10\) of the stream's classes, got \(250, 12\)"):
        lamm_cl.record(strategy("naive", torch.nn.Linear(64, 12)), features, method="wide", results=tmp_path)
    assert not list(tmp_path.rglob("record.json"))


def test_avalanches_metrics_are_ours_where_both_are_defined(features, tmp_path):
    """Their classifier grows, so that those seen so far compete: our joint label space. Their forgetting is minus our backward
    transfer, since it begins when an experience was learned; with two experiences it is Chaudhry's too where the first was best
    then."""
    accuracy = accuracy_metrics(experience=True, stream=False)
    with warnings.catch_warnings(action="ignore"):
        evaluator = EvaluationPlugin(*accuracy, *forgetting_metrics(experience=True, stream=True), *bwt_metrics(stream=True))
        evaluator.benchmark = features
    torch.manual_seed(1)
    head = torch.nn.Sequential(IncrementalClassifier(64, initial_out_features=2))
    theirs = strategy("replay", head, evaluator=evaluator)
    found = lamm_cl.record(theirs, features, method="growing", results=tmp_path)
    R = found.accuracy("joint")
    told = evaluator.get_all_metrics()
    for j in range(2):
        steps, values = told[f"Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp{j:03d}"]
        assert np.allclose(100 * np.array(values)[1 + j :], R[1 + j :, j])
    forgetting = 100 * told["StreamForgetting/eval_phase/test_stream"][1][-1]
    assert np.isclose(forgetting, metrics.forgetting(R)) and np.isclose(forgetting, R[1, 0] - R[2, 0])
    assert np.isclose(100 * told["StreamBWT/eval_phase/test_stream"][1][-1], metrics.backward_transfer(R))


# Our methods under their strategies


@pytest.mark.parametrize("kind", ["naive", "replay", "ewc", "lwf"])
@pytest.mark.parametrize("method", ["coop", "lamm"])
def test_a_method_of_ours_trains_under_their_strategy(method, kind, features):
    model = lamm_cl.model(method, features, label_space="seen")
    theirs = strategy(kind, model, model.criterion, epochs=1, rate=0.002)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for experience in features.train_stream:
        theirs.train(experience)
    theirs.eval(features.test_stream)
    assert model.learned == 2
    assert any(not torch.equal(before[name], p) for name, p in model.named_parameters() if name in before)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_ewc_holds_a_context_that_all_classes_share(features):
    contexts = {}
    for kind in ("naive", "ewc"):
        model = lamm_cl.model("coop", features, label_space="seen")
        theirs = strategy(kind, model, model.criterion, epochs=2, rate=0.002)
        torch.manual_seed(0)
        for experience in features.train_stream:
            theirs.train(experience)
        contexts[kind] = torch.cat([p.detach().flatten() for p in model.learner.context.parameters()])
    assert not torch.equal(contexts["naive"], contexts["ewc"]) and torch.isfinite(contexts["ewc"]).all()


def test_a_copy_has_tensors_of_its_own_and_shares_images_and_frozen_towers(features):
    """EWC and LwF copy models."""
    model = lamm_cl.model("lamm", features).train()
    x = torch.stack([features.train_stream[0].dataset[i][0] for i in range(4)])
    logits = model(x)
    copied = deepcopy(model)
    assert copied.sources[0] is model.sources[0] and copied.learner.clip is model.learner.clip
    assert copied.criterion.of[0] is copied and torch.equal(copied(x), logits)
    with torch.no_grad():
        for p in copied.learner.labels.parameters():
            p += 1
    assert torch.equal(model(x), logits) and not torch.equal(copied(x), logits)


def test_the_criterion_is_the_methods_own_loss_and_cross_entropy_lacks_its_extra_terms(features):
    model = lamm_cl.model("lamm", features).train()
    some = [features.train_stream[0].dataset[i] for i in range(9)]
    x, y = torch.stack([x for x, *_ in some]), torch.tensor([y for _, y, _ in some])
    with torch.no_grad():
        for p in model.learner.labels.parameters():
            p += 0.05
    logits = model(x)
    _, terms = model.learner.loss(Images(frozen=x), y)
    assert len(terms) > 1 and torch.allclose(model.criterion(logits, y), sum(terms.values()))
    assert not torch.allclose(torch.nn.functional.cross_entropy(logits, y), sum(terms.values()))


def test_under_naive_a_method_of_ours_scores_unseen_classes_as_the_untrained_one_does(features, cache, tmp_path):
    (zero,) = lamm_cl.run("demo", methods=["zero-shot"], datasets=["digits"], seeds=[1], results=tmp_path, cache=cache)
    model = lamm_cl.model("lamm", features)
    found = lamm_cl.record(strategy("naive", model, model.criterion, epochs=1, rate=0.002), features, method="lamm-naive",
                           results=tmp_path)  # fmt: skip
    assert np.array_equal(found.accuracy("own")[0], zero.accuracy("own")[0])
    assert found.accuracy("own")[1, 1] == zero.accuracy("own")[0, 1] and found.backbone == zero.backbone


def test_a_method_that_prompts_the_image_tower_asks_for_images(features, pixels):
    model = lamm_cl.model("maple", features)
    with pytest.raises(lamm_cl.UserError, match="reads pixels: give it a stream of images, not of features"):
        model(torch.zeros(2, 64))
    x = torch.stack([pixels.train_stream[0].dataset[i][0] for i in range(2)])
    assert lamm_cl.model("maple", pixels)(x).shape == (2, 10)
