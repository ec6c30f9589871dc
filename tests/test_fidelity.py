"""Every method against the values of its authors' released code, through the pieces a run uses.

    pytest tests/test_fidelity.py [--fidelity-cases DIR]        DIR: other cases in the format of one of tests/fidelity*/

A case becomes a method card, and the card a model by lamm_cl/learner/build.py; optimizer, learning rates, loss and steps are
those of lamm_cl/training.  Prompt learners (tests/fidelity/README.md) are read here, other families in fidelity_readers/.
Nothing of a case may be left out: an array that no rule computes fails the test.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import cases_in
from fidelity_readers.steps import clip_of, gradient_of, parameter_of, training_of
from generated import clip_tensor, fill, images

from lamm_cl.config.schema import Card, Training, Warmup
from lamm_cl.data.fewshot import few_shot, few_shot_pair
from lamm_cl.data.orders import class_counts
from lamm_cl.learner.build import build
from lamm_cl.learner.model import Learner
from lamm_cl.learner.shown import Images
from lamm_cl.training.optimizing import learning_rate, optimizer, set_rate
from lamm_cl.training.stream import members

COUNTED = {"cases": 0, "arrays": 0, "skipped": 0}
CLOSENESS: dict[str, list[tuple[float, str, str]]] = {}  # method -> (share of the tolerance used, case, array)
READERS = {  # of tests/fidelity_readers/
    family: reader
    for path in sorted((Path(__file__).parent / "fidelity_readers").glob("[a-z]*.py"))
    for family, reader in import_module(f"fidelity_readers.{path.stem}").READERS.items()
}
TERMS = {
    "loss_ce": "cross_entropy",
    "loss_param": "parameter",
    "loss_feature": "feature",
    "loss_distill": "logit",
    "loss_score": "score",
}


# --- a case as a card -----------------------------------------------------------------------------------------------------


def card_of(case: dict) -> Card:
    method, hyper = case["method"], case["hyper"]
    context = {"n": hyper.get("n_ctx"), "init": hyper.get("ctx_init") or None}
    if method in ("MaPLe", "COMMA") and context["n"] > 4:
        context["init"] = None  # their releases start from words up to four vectors only
    position = {"position": hyper["class_token_position"]} if "class_token_position" in hyper else {}
    per_class = "coop.ClassContext" if hyper.get("class_specific_context") else "coop.CoOp"
    contexts = {
        "zero-shot": lambda: {"use": "zeroshot.Ensemble", "templates": hyper["templates"]},
        "CoOp": lambda: {"use": per_class, **context, **position},
        "CoCoOp": lambda: {"use": "cocoop.CoCoOp", **context},
        "MaPLe": lambda: {"use": "maple.MaPLe", **context, "depth": hyper["prompt_depth"]},
        "COMMA": lambda: {"use": "comma.Released", **context, "depth": hyper["prompt_depth"]},
        "LAMM": lambda: {"use": "coop.Words", "init": hyper["ctx_init"]},
    }
    base = method.removesuffix("+LAMM").removesuffix(" ensemble")
    labels, loss = {"use": "lamm.Names"}, None
    if "LAMM" in method:
        init = {"init": "random" if hyper["random_init"] else "words"}
        labels = {"use": "lamm.InPhrase", **init} if base == "MaPLe" else {"use": "lamm.Learned", "tokens": "shortest", **init}
        weights = hyper["loss_weights"]
        loss = {"use": "lamm.Alignment", "parameter": 1.0, "feature": weights["feature"], "logit": weights["distill"],
                "temperature": hyper["temperature"]}  # fmt: skip
        assert weights["param"] == f"1/{hyper['shots']}" and weights["ce"] == 1
    if method == "COMMA":
        assert hyper["last_layer"] == 1
        loss = {"use": "comma.Score", "weight": hyper["score_weight"],
                "instead": {"DescribableTextures": "a photo of a {}, a type of texture."}}  # fmt: skip
    return Card(key="case", name="case", paper="-", context=contexts[base](), labels=labels, loss=loss,
                training=training_of(hyper), trainable="", provenance={})  # fmt: skip


def our_name(theirs: str) -> str:
    """The authors' name of a parameter -> ours; "@start": the vectors a per-class parameter starts from."""
    name = theirs.removeprefix("prompt_learner.")
    exact = {
        "proj.weight": "context.F.0.weight", "proj.bias": "context.F.0.bias",
        "meta_net.linear1.weight": "context.h.0.weight", "meta_net.linear1.bias": "context.h.0.bias",
        "meta_net.linear2.weight": "context.h.2.weight", "meta_net.linear2.bias": "context.h.2.bias",
        "token_classes": "labels.z.parts.0",
    }  # fmt: skip
    if name in exact:
        return exact[name]
    for theirs, ours in {"compound_prompts_text.": "context.P.", "compound_prompt_projections.": "context.F."}.items():
        if name.startswith(theirs):
            number, _, rest = name.removeprefix(theirs).partition(".")
            return f"{ours}{int(number) + 1}" + (f".{rest}" if rest else "")
    raise KeyError(theirs)


def our_comma_name(theirs: str) -> str | None:
    name = theirs.removeprefix("prompt_learner.")
    if name == "compound_prompts_image":
        return None  # a buffer that every forward pass overwrites
    name = name.replace("compound_prompt_projections_image_base.", "correlate.0.")
    if name.startswith("compound_prompt_projections_image."):
        number, _, rest = name.removeprefix("compound_prompt_projections_image.").partition(".")
        name = f"correlate.{int(number) + 1}.{rest}"
    return "context." + name.replace("proj.", "project.") if name != "ctx" else "context.P.0"


@dataclass
class Trained:
    """The model of a case, with the authors' parameter names."""

    case: dict
    salt: str
    model: Learner

    def tensor(self, name: str) -> torch.Tensor:
        """The value of one of the authors' parameters."""
        if self.case["method"] == "COMMA" and name == "prompt_learner.compound_prompts_text":
            return torch.stack([p.data for p in list(self.model.context.P)[1:]])
        return self.parameters(name)[0].data

    def gradient(self, name: str) -> torch.Tensor:
        found = [p.grad for p in self.parameters(name)]
        return found[0] if len(found) == 1 and not name.endswith("compound_prompts_text") else torch.stack(found)

    def parameters(self, name: str) -> list[torch.nn.Parameter]:
        ours = dict(self.model.named_parameters())
        if self.case["method"] == "COMMA":
            if name == "prompt_learner.compound_prompts_text":
                return list(self.model.context.P)[1:]
            return [ours[our_comma_name(name)]]
        if name == "prompt_learner.ctx":
            keys = ("context.v", "context.P.0", "context.v.parts.0")
            return [ours[next(key for key in keys if key in ours)]]
        return [ours[our_name(name)]]

    def initialise(self) -> None:
        """Overwrite random starts; the frozen copies that losses refer to are overwritten with them."""
        for name, how in self.case.get("initialisation", {}).items():
            value = fill(name, how["shape"], how["std"], how["mean"], self.salt)
            if name == "prompt_learner.compound_prompts_image":
                continue
            if name == "prompt_learner.token_classes":
                self.model.labels.z.start.copy_(value)
            if name == "prompt_learner.ctx" and self.case["hyper"].get("class_specific_context"):
                self.model.context.v.start.copy_(value)
            targets = self.parameters(name)
            for target, part in zip(targets, value if len(targets) > 1 or name.endswith("prompts_text") else [value]):
                target.data.copy_(part)
            assert sum(p.numel() for p in targets) == value.numel()


def learner_of(case: dict, cases: dict) -> Trained:
    names = [name.replace("_", " ") for name in case["classnames"]]
    hyper = case["hyper"]
    template = hyper.get("frozen_template") or (hyper.get("templates") or ["a photo of a {}."])[0]
    model = build(card_of(case), clip_of(case["arch"], cases), names, [range(len(names))], template=template,
                  dataset=case.get("dataset_name", ""), shots=hyper.get("shots", 1))  # fmt: skip
    learner = Trained(case, cases["salt"], model)
    with torch.no_grad():
        model.train()
        model.begin(0)
        learner.initialise()
        model.refresh()
    return learner


# --- every array of a case ------------------------------------------------------------------------------------------------


def evaluated(learner: Trained, moment: str) -> dict:
    """eval/..., fixed_text_features/..., image_prompts/... at one moment ("" for zero-shot, else "/init" or "/final")."""
    model, case = learner.model, learner.case
    arch = ARCHITECTURE[case["arch"]]
    how = case["eval_images"]
    with torch.no_grad():
        model.eval()
        out = model.output(Images(pixels=images(how["seed"], how["batch"], arch["image"])), model.classes)
        found = {
            f"eval{moment}/image_features": out.image,
            f"eval{moment}/text_features": out.text,
            f"eval{moment}/logits": out.logits,
        }
        if model.reference:
            found[f"fixed_text_features{moment}"] = model.reference.features(out.prompts, model.classes)
        if case["method"] == "COMMA":
            found[f"image_prompts{moment}"] = torch.stack(model.context.image(None).deep)
        model.train()
    return found


ARCHITECTURE: dict = {}


def trained(learner: Trained) -> dict:
    """train/..., grad.../..., param.../...: the steps of the case, by the optimizer and the rates of a run."""
    case, model, hyper = learner.case, learner.model, learner.case["hyper"]
    training = training_of(hyper)
    size = ARCHITECTURE[case["arch"]]["image"]
    batches = [
        (Images(pixels=images(each["seed"], len(each["labels"]), size)), torch.tensor(each["labels"]))
        for each in case["train_batches"]
    ]
    per_epoch = hyper["lr_schedule"]["batches_per_epoch"] if hyper["lr_schedule"] != "constant" else hyper["steps"]
    sgd = optimizer(training, model)
    names = [name for name in case["trainable"] if name != "prompt_learner.compound_prompts_image"]
    losses, rates, values = [], [], {name: [learner.tensor(name).clone()] for name in names}
    found = {}
    for step in range(hyper["steps"] + 1):
        x, y = batches[step % len(batches)]
        sgd.zero_grad()
        _, terms = model.loss(x, y)
        total = sum(terms.values())
        weights = {"cross_entropy": 1.0} | getattr(model.extra_loss, "weights", {})
        losses.append({"loss": total.item()} | {name: value.item() / weights[name] for name, value in terms.items()})
        if step == hyper["steps"]:
            break
        total.backward()
        if step == 0:
            for name in names:
                found |= gradient_of(name, learner.gradient(name))
        rates.append(learning_rate(training, step // per_epoch))
        sgd.param_groups[0]["lr"] = rates[-1]
        sgd.step()
        for name in names:
            values[name].append(learner.tensor(name).clone())
    found |= {
        f"train/{theirs}": [row[ours] for row in losses]
        for theirs, ours in (TERMS | {"loss": "loss"}).items()
        if ours in losses[0]
    }
    found["train/lr"] = rates
    for name, rows in values.items():
        found |= parameter_of(name, torch.stack(rows))
    return found


def compare(found, golden: np.ndarray, how: dict, name: str) -> float:
    """-> the share of the tolerance that was used."""
    mine = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    assert mine.shape == golden.shape, f"{name}: shape {mine.shape}, reference {golden.shape}"
    if golden.dtype.kind in "iu":
        assert np.array_equal(mine, golden), f"{name} differs"
        return 0.0
    error = np.abs(mine.astype(np.float64) - golden).max()
    assert error <= how["atol"], f"{name}: off by {error:.3g}, tolerance {how['atol']:.3g}"
    return error / how["atol"]


def prompted(case: dict, cases: dict) -> dict:
    """A prompt learner: tests/fidelity/README.md."""
    ARCHITECTURE.update(cases["architectures"])
    learner = learner_of(case, cases)
    tokens = [frame.tokens for frame in learner.model.texts.frames]
    ensemble = len(case["arrays"].get("tokens", {"shape": ()})["shape"]) == 3
    found = {"tokens": torch.stack(tokens).int() if ensemble else tokens[0].int()}
    if "train_batches" in case:
        return found | evaluated(learner, "/init") | trained(learner) | evaluated(learner, "/final")
    return found | evaluated(learner, "")


def test_a_method_gives_the_values_of_its_authors_code(fidelity_case):
    cases, load, case_name = fidelity_case
    case = cases["cases"][case_name]
    golden = load(case_name)
    assert set(golden) == set(case["arrays"]), "cases.json and the .npz list different arrays"
    family = case.get("family", case["method"])
    found = READERS.get(family, prompted)(case, cases)
    for name, how in case["arrays"].items():
        if how.get("optional") and name not in found:
            COUNTED["skipped"] += 1
            continue
        share = compare(found[name], golden[name], how, name)
        CLOSENESS.setdefault(case["method"], []).append((share, case_name, name))
        COUNTED["arrays"] += 1
    COUNTED["cases"] += 1


def test_the_generated_weights_are_those_of_the_reference(fidelity):
    cases, _ = fidelity
    for arch, probes in cases.get("weight_probes", {}).items():
        for name, probe in probes.items():
            tensor = clip_tensor(name, tuple(probe["shape"]), cases["salt"]).double()
            assert tensor.flatten()[: len(probe["first"])].tolist() == pytest.approx(probe["first"], abs=1e-7), (arch, name)
            assert tensor.sum().item() == pytest.approx(probe["sum"], rel=1e-6, abs=1e-4), (arch, name)
            assert tensor.abs().sum().item() == pytest.approx(probe["abs_sum"], rel=1e-6), (arch, name)


def test_learning_rates_are_dassls(fidelity):
    cases, load = fidelity
    if "lr_schedule" not in cases:
        pytest.skip("these cases have no learning-rate sequences")
    for name, golden in load("lr_schedule").items():
        if not name.startswith("lr"):
            continue
        lr, epochs, warm = name.split("_")
        warmup = Warmup(epochs=1, lr=1e-5) if warm == "warmup1" else None
        training = Training(epochs=int(epochs.removeprefix("epochs")), batch=1, optimizer="sgd", lr=float(lr.removeprefix("lr")),
                            momentum=0.9,
                            weight_decay=0.0, schedule="cosine", warmup=warmup, augmentation="none")  # fmt: skip
        mine = [learning_rate(training, epoch) for epoch in range(training.epochs)]
        np.testing.assert_allclose(mine, golden, rtol=cases["lr_schedule"]["lr_rtol"], err_msg=name)
        COUNTED["arrays"] += 1


@pytest.mark.parametrize("schedule", ["constant", "warmup_cosine"])
def test_optimizer_steps_are_dassls(fidelity, schedule):
    cases, load = fidelity
    if "lr_schedule" not in cases:
        pytest.skip("these cases have no optimizer traces")
    golden, how = load("lr_schedule"), cases["lr_schedule"]["sgd"]
    epochs, per_epoch = how["max_epoch_in_warmup_cosine"], how["steps_per_epoch_in_warmup_cosine"]
    cosine = schedule == "warmup_cosine"
    training = Training(epochs=epochs, batch=1, optimizer="sgd", lr=how["lr"], momentum=0.9, weight_decay=5e-4,
                        augmentation="none",
                        schedule="cosine" if cosine else "constant",
                        warmup=Warmup(epochs=1, lr=1e-5) if cosine else None)  # fmt: skip
    held = torch.nn.ParameterDict({k: fill(f"sgd.{k}", (n,), 1.0, 0.0, cases["salt"]) for k, n in dict(a=64, b=16, c=16).items()})
    sgd = optimizer(training, held)
    rows = {name: [] for name in held}
    for step in range(how["steps"]):
        held["a"].grad = fill(f"sgd.grad.{step}", (64,), 0.01, 0.0, cases["salt"])
        held["b"].grad = torch.zeros(16)
        sgd.param_groups[0]["lr"] = learning_rate(training, step // per_epoch)
        sgd.step()
        for name in held:
            rows[name].append(held[name].detach().clone())
    for name in held:
        np.testing.assert_allclose(torch.stack(rows[name]), golden[f"sgd_{schedule}/{name}"], atol=how["atol"], rtol=0)
        COUNTED["arrays"] += 1


@pytest.mark.parametrize("name", ["adam", "adamw_cosine"])
def test_optimizer_steps_are_those_of_the_methods_inside_the_towers(request, name):
    """Parameter b has a zero gradient, c none."""
    cases, load = cases_in(Path(request.config.getoption("--fidelity-cases") or Path(__file__).parent / "fidelity_towers"))
    if name not in cases.get("optimizers", {}):
        pytest.skip("these cases have no such traces")
    how, golden = cases["optimizers"][name], load("optimizers")
    schedule = how["schedule"]
    annealing = {"use": "annealing", "per": "step", "floor": 0 if schedule == "constant" else schedule["eta_min"]}
    assert schedule == "constant" or (schedule["type"], schedule["T_max"]) == ("CosineAnnealingLR", how["steps"])
    training = Training(steps=how["steps"], batch=1, lr=how["lr"], weight_decay=how["weight_decay"], augmentation="none",
                        optimizer={"use": name.partition("_")[0], "betas": how["betas"], "eps": how["eps"]},
                        schedule="constant" if schedule == "constant" else annealing)  # fmt: skip
    held = torch.nn.ParameterDict({k: fill(f"opt.{k}", (n,), 1.0, 0.0, cases["salt"]) for k, n in dict(a=64, b=16, c=16).items()})
    made, rows, rates = optimizer(training, held), {k: [] for k in held}, []
    for step in range(how["steps"]):
        held["a"].grad, held["b"].grad = fill(f"opt.grad.{step}", (64,), 0.01, 0.0, cases["salt"]), torch.zeros(16)
        rates.append(learning_rate(training, 0, step, how["steps"]))
        set_rate(made, 0, step, how["steps"])
        made.step()
        for k in held:
            rows[k].append(held[k].detach().clone())
    np.testing.assert_allclose(rates, golden[f"{name}/lr"], rtol=1e-9)
    for k in held:
        np.testing.assert_allclose(torch.stack(rows[k]), golden[f"{name}/{k}"], atol=how["atol"], rtol=0)
        COUNTED["arrays"] += 1


def test_few_shot_choices_and_class_splits_are_the_originals(fidelity):
    cases, load = fidelity
    if "fewshot" not in cases:
        pytest.skip("these cases have no few-shot choices")
    golden, how = load("fewshot"), cases["fewshot"]
    found = {}
    for name, counts in how["lists"].items():
        labels = {}
        for j, part in enumerate(("train", "val", "test")):
            ordered = np.repeat(np.arange(len(counts[part])), counts[part])
            labels[part] = ordered[np.random.RandomState(counts["perm_seed"] + j).permutation(len(ordered))]
            found[f"{name}/{part}_labels"] = labels[part]
        choice = {part: np.arange(len(labels[part])) for part in labels}
        found |= halves(f"{name}/", labels, choice)
        for shots in how["shots"]:
            for seed in how["seeds"]:
                train, val = few_shot_pair(labels["train"], labels["val"], shots, seed)
                assert np.array_equal(train, few_shot(labels["train"], shots, seed))
                found[f"{name}/fewshot/shots{shots}_seed{seed}/train"] = train
                found[f"{name}/fewshot/shots{shots}_seed{seed}/val"] = val
        then = how["then_subsample"]
        choice["train"], choice["val"] = few_shot_pair(labels["train"], labels["val"], then["shots"], then["seed"])
        found |= halves(f"{name}/fewshot_then_", labels, choice)
    for name, array in golden.items():
        assert np.array_equal(found[name], array), name
        COUNTED["arrays"] += 1


def halves(prefix: str, labels: dict, choice: dict) -> dict:
    """The class split of a stream of two experiences: base and new."""
    first, second = class_counts("halves", len(set(labels["train"].tolist())), "test")
    found = {}
    for side, classes in {"base": range(first), "new": range(first, first + second)}.items():
        for part, chosen in choice.items():
            mine = chosen[members(torch.from_numpy(labels[part][chosen]), classes).numpy()]
            found[f"{prefix}{side}/{part}"] = mine
            found[f"{prefix}{side}/{part}_newlabels"] = labels[part][mine] - classes.start
        found[f"{prefix}{side}/classname_ids"] = np.array(classes)
    return found
