"""KgCoOp, ProGrad, PromptSRC, IVLP, VPT, TCP, TaskRes and CLIP-Adapter: tests/fidelity_prompts/README.md.

A case is the shipped card of its method with the case's numbers; the templates of data sets come from the card and from
lamm_cl/data, so the reference's token ids hold both.
"""

import torch
from generated import fill, images
from torch import Tensor

from fidelity_readers.steps import clip_of, gradient_of, parameter_of, training_of
from lamm_cl.config.cards import load_card, resolve
from lamm_cl.config.schema import Card
from lamm_cl.data.dataset import TEMPLATE
from lamm_cl.data.published import LAYOUTS
from lamm_cl.learner.build import build
from lamm_cl.learner.model import Learner
from lamm_cl.learner.shown import Images
from lamm_cl.training.optimizing import learning_rate, optimizer, set_rate

OURS = {"DescribableTextures": "DTD", "OxfordFlowers": "Flowers102", "ImageNetSketch": "ImageNet-Sketch",
        "ImageNetA": "ImageNet-A", "ImageNetR": "ImageNet-R"}  # fmt: skip
KEYS = {
    "KgCoOp": "kgcoop",
    "ProGrad": "prograd",
    "PromptSRC": "promptsrc",
    "IVLP": "ivlp",
    "VPT": "vpt",
    "TCP": "tcp",
    "TaskRes": "taskres",
    "CLIP-Adapter": "clip-adapter",
}
TERMS = {"cross_entropy": "loss_ce", "score": "loss_score", "kl": "loss_kl", "text": "loss_text", "image": "loss_image",
         "logits": "loss_logits"}  # fmt: skip


def card_of(case: dict) -> Card:
    method, hyper = case["method"], case["hyper"]
    init, weights = hyper.get("ctx_init") or None, hyper.get("loss_weights", {})
    assert weights.get("ce", 1) == 1
    own = len(case["trainable"].get("prompt_learner.ctx", ())) == 3  # a context for each class, which words never start
    coop = {"use": "coop.ClassContext" if own else "coop.CoOp", "n": hyper.get("n_ctx"), "init": None}
    position = {"position": hyper.get("class_token_position", "end")}
    changes = {
        "KgCoOp": lambda: {  # quirks 3, 4
            "context": {"n": 4} if init else coop,
            "loss": {"weight": weights["score"]},
        },
        "ProGrad": lambda: {
            "context": ({"n": hyper["n_ctx"]} if init else coop) | position,
            "loss": {"temperature": hyper["temperature"], "strength": hyper["lambda"]},
        },
        "IVLP": lambda: {
            "context": {
                "n": hyper["n_ctx"],
                "init": init if hyper["n_ctx"] <= 4 else None,  # quirk 18
                "depth": hyper["prompt_depth"],
                "n_image": hyper["n_ctx_vision"] or 1,
                "depth_image": hyper["prompt_depth_vision"],
            }
        },
        "PromptSRC": lambda: changes["IVLP"]()
        | {
            "loss": {name: float(weights[name]) for name in ("text", "image", "logits")}
            | {name: float(value) for name, value in hyper["gpa"].items()}
            | {"templates": len(hyper["reference_templates"])}
        },
        "VPT": lambda: {"context": {"n": hyper["n_ctx_vision"], "depth": hyper["prompt_depth_vision"]}},
        "TCP": lambda: {
            "context": {"n": hyper["n_ctx"], "m": hyper["n_class_prompts"], "block": hyper["class_prompt_block"]}
            | ({} if hyper["n_ctx"] == 4 else {"texts": {dataset_of(case): hyper["prompt_template"]}}),
            "loss": {"weight": weights["score"]},
        },
        "TaskRes": lambda: {"head": {"instead": {dataset_of(case): hyper["residual_scale"]}}},
        "CLIP-Adapter": lambda: {"head": {"ratio": hyper["ratio"], "reduction": hyper["reduction"]}},
    }
    return resolve(load_card(KEYS[method]), changes[method]())


def dataset_of(case: dict) -> str:
    name = case.get("dataset_name", "")
    return OURS.get(name, name)


def our_name(theirs: str) -> tuple[str, ...]:
    """The authors' name of a parameter -> ours, one of which there is."""
    name = theirs.removeprefix("prompt_learner.")
    exact = {
        "ctx": ("context.v", "context.P.0", "context.v.parts.0"),
        "image_encoder.VPT": ("context.V.0",),
        "text_feature_residuals": ("head.x.parts.0",),
    }
    if name in exact:
        return exact[name]
    for start, ours in {"meta_net.linear1": "context.h.0", "meta_net.linear2": "context.h.2", "adapter.fc": "head.A"}.items():
        if name.startswith(start):
            return (ours + name.removeprefix(start),)
    tower, _, _, block, last = name.split(".")
    assert last == "VPT_shallow"
    return (f"context.{'V' if tower == 'image_encoder' else 'P'}.{block}",)


class Case:
    """A case and the model of its card, with the authors' parameter names."""

    def __init__(self, case: dict, cases: dict):
        self.case, self.hyper, self.size = case, case["hyper"], cases["architectures"][case["arch"]]["image"]
        names, dataset = case["classnames"], dataset_of(case)
        if case["method"] != "TaskRes":  # quirk 24
            names = [name.replace("_", " ") for name in names]
        self.clip = clip_of(case["arch"], cases)
        template = getattr(LAYOUTS.get(dataset), "template", self.hyper.get("reference_template", TEMPLATE))
        template = self.hyper.get("templates", [template])[-1]
        self.model: Learner = build(card_of(case), self.clip, names, [range(len(names))], template=template, dataset=dataset)
        self.model.train()
        self.model.begin(0)
        self.classes = self.model.classes
        for name, how in case["initialisation"].items():
            value = fill(name, how["shape"], how["std"], how["mean"], cases["salt"])
            self.parameter(name).data.copy_(value.view_as(self.parameter(name)))
        self.model.refresh()
        self.names = list(case["trainable"])
        learned = {id(p) for p in self.model.parameters() if p.requires_grad}
        assert learned == {id(self.parameter(name)) for name in self.names}

    def parameter(self, theirs: str) -> torch.nn.Parameter:
        ours = dict(self.model.named_parameters())
        return next(ours[name] for name in our_name(theirs) if name in ours)

    def value(self, theirs: str) -> Tensor:
        return self.parameter(theirs).data.view(self.case["trainable"][theirs]).clone()

    def shown(self, how: dict) -> Images:
        """What a run would bring."""
        pixels = images(how["seed"], how.get("batch") or len(how["labels"]), self.size)
        frozen = self.clip.image_all(pixels)
        brought = {"pixels": pixels} if self.model.needs_pixels else {}
        if not brought or "frozen" in self.model.needs:
            brought["frozen"] = frozen.unit
        return Images(**brought)

    @torch.no_grad()
    def evaluated(self, moment: str) -> dict:
        model, method, how = self.model, self.case["method"], self.case["eval_images"]
        model.eval()
        out = model.output(self.shown(how), self.classes)
        found = {"image_features": out.image, "text_features": out.text, "logits": out.logits}
        if method == "TaskRes":
            found["text_features"] = model.head.text(out.text_raw, self.classes)
        if method == "CLIP-Adapter":
            raw = self.clip.image_all(images(how["seed"], how["batch"], self.size)).raw
            found |= {"image_features": model.head.image(out.image), "adapter": model.head.A(raw)}
        found = {f"eval/{moment}/{name}": value for name, value in found.items()}
        if method == "TCP":
            found[f"class_prompts/{moment}"] = model.context.class_prompts(self.classes)
        if method == "TaskRes":
            found["base_text_features"] = out.text_raw
        model.train()
        return found

    @torch.no_grad()
    def references(self) -> dict:
        """What the frozen towers give."""
        model, method = self.model, self.case["method"]
        reference = getattr(model.extra_loss, "reference", None)
        if reference is None:
            return {}
        tokens, unit = reference.tokens.int(), reference.unit(self.classes)
        found = {"reference_tokens": tokens if method == "PromptSRC" else tokens[0], "reference_text_features": unit}
        if method == "TCP":
            assert torch.equal(unit, model.context.reference.unit(self.classes))
        if "frozen" in model.needs:
            of_eval, of_batch = (model.frozen(self.shown(self.case[key])) for key in ("eval_images", "first_batch"))
            found |= {
                "reference_text_mean_norm": reference.raw.norm(dim=-1),
                "reference_image_features": of_eval,
                "reference_logits": self.clip.scale * of_eval @ unit.T,
                "reference_logits_train": self.clip.scale * of_batch @ unit.T,
            }
        return found

    def trained(self) -> dict:
        """The steps of the case, by the optimizer, the rates, and the moments of a run."""
        model, hyper = self.model, self.hyper
        training, steps = training_of(hyper), hyper["steps"]
        batches = [(self.shown(each), torch.tensor(each["labels"])) for each in self.case["train_batches"]]
        per_epoch = steps if hyper["lr_schedule"] == "constant" else hyper["lr_schedule"]["batches_per_epoch"]
        ours = optimizer(training, model)
        averaged = "gpa/weights" in self.case["arrays"]
        rows, rates, values, found = [], [], {name: [self.value(name)] for name in self.names}, {}
        projections = Projections(model) if self.case["method"] == "ProGrad" else None
        for step in range(steps + 1):
            x, y = batches[step % len(batches)]
            ours.zero_grad()
            _, terms = model.loss(x, y)
            total = sum(terms.values())
            weights = {"cross_entropy": 1.0} | getattr(model.extra_loss, "weights", {})
            rows.append({"loss": total.item()} | {TERMS[name]: term.item() / weights[name] for name, term in terms.items()})
            model.backward(terms, total)
            if step == steps:
                break
            if step == 0:
                for name in self.names:
                    found |= gradient_of(name, self.parameter(name).grad.view(self.case["trainable"][name]).clone())
            rates.append(learning_rate(training, step // per_epoch))
            set_rate(ours, step // per_epoch)
            ours.step()
            for name in self.names:
                values[name].append(self.value(name))
            if averaged and (step + 1) % per_epoch == 0:
                model.after_epoch(step // per_epoch, training.epochs)
            if averaged and step + 1 == steps:
                model.finish(0)
                found["gpa/weights"] = model.extra_loss.shares(training.epochs)
                found |= {f"gpa/{name}": self.value(name) for name in self.names}
        found |= {f"train/{name}": [row[name] for row in rows] for name in rows[0]} | {"train/lr": rates}
        for name, each in values.items():
            found |= parameter_of(name, torch.stack(each))
        return found | (projections.arrays(self.names, steps) if projections else {})


class Projections:
    """Looks on while ProGrad projects the gradient of its one parameter."""

    def __init__(self, model: Learner):
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []
        project = model.extra_loss.projected

        def watched(g: Tensor, g_kl: Tensor) -> Tensor:
            used = project(g, g_kl)
            self.seen.append((g, g_kl, used.clone()))
            return used

        model.extra_loss.projected = watched

    def arrays(self, names: list[str], steps: int) -> dict:
        (name,) = names
        cosines = [torch.cosine_similarity(g.flatten(), g_kl.flatten(), dim=0) for g, g_kl, _ in self.seen]
        projected = [int(cosine < 0) for cosine in cosines]
        found = {"train/cosine": cosines, "train/projected": projected}
        for i, kind in enumerate(("ce", "kl", "used")):
            found[f"train/grad_norm_{kind}"] = [each[i].norm() for each in self.seen[:steps]]
        found |= {f"grad_ce/{name}": self.seen[0][0], f"grad_kl/{name}": self.seen[0][1]}
        if 1 in projected[:steps]:
            first = projected.index(1)
            found |= {f"grad_projected/{name}": self.seen[first][2], "grad_projected/step": first}
        return found


def prompts(case: dict, cases: dict) -> dict:
    """Every array of a case."""
    case = case | {"first_batch": case["train_batches"][0]}
    made = Case(case, cases)
    tokens = [frame.tokens.int() for frame in made.model.texts.frames]
    several = len(case["arrays"]["tokens"]["shape"]) == 3
    found = {"tokens": torch.stack(tokens) if several else tokens[0]}
    return found | made.references() | made.evaluated("init") | made.trained() | made.evaluated("final")


READERS = dict.fromkeys(KEYS, prompts)
