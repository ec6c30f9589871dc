"""Which CLIP: of open_clip's registry with a tag or a file of weights, of the Hugging Face hub, or the embedded one.

Every source comes down to three things: the configuration of the towers, a file of weights (weights.py), and the preprocessing.
What cannot be driven exactly is refused: shapes are never adapted, and once loaded the towers are compared with
open_clip's own encoders.
"""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

from lamm_cl.config.schema import FEATURES, HUB, Backbone
from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.files import PACKAGE
from lamm_cl.towers.clip import FrozenCLIP, Prompts, hash_of
from lamm_cl.towers.features import FeaturesOnly
from lamm_cl.towers.weights import HUB_WEIGHTS, cached, download, fill, given, of_tag

EMBEDDED = "lamm-cl-mini"
MINI = PACKAGE / "mini" / "model"


def load(backbone: Backbone) -> FrozenCLIP | FeaturesOnly:
    """The CLIP that a scenario names, or what stands in for it where the data are features."""
    architecture, weights = backbone.architecture, backbone.weights
    if architecture == FEATURES:
        return FeaturesOnly(backbone)
    squeezed = {"resize_mode": "squash"} if backbone.resize == "squeeze" else {}
    half = (0.5, 0.5, 0.5)
    preprocess = {"mean": half, "std": half} if architecture == EMBEDDED else {}
    if architecture.startswith(HUB):
        config, preprocess, file = from_hub(architecture.removeprefix(HUB))
    else:
        config = registered(architecture)
        tag = open_clip.get_pretrained_cfg(architecture, weights)
        if weights == "embedded":
            if architecture != EMBEDDED:
                raise UserError(f"backbone: weights: 'embedded' are those of {EMBEDDED!r}, not of {architecture!r}")
            file = MINI / f"{EMBEDDED}.safetensors"
        elif tag:
            quick = bool(tag.get("quick_gelu"))
            if config.get("quick_gelu") and not quick:
                near = architecture.removesuffix("-quickgelu")
                raise UserError(f"backbone: {weights!r} was trained with GELU, but {architecture!r} has QuickGELU; use {near!r}")
            config["quick_gelu"] = quick  # OpenAI's weights need it, whatever the architecture's name says
            preprocess, file = tag, of_tag(architecture, weights, tag)
        else:
            file = given(architecture, weights)
    return create(backbone, config, file, preprocess | squeezed)


def create(backbone: Backbone, config: dict[str, Any], file: Path, preprocess: dict) -> FrozenCLIP:
    model = towers(backbone.architecture, config)
    fill(model, file, backbone.architecture)
    clip = frozen(model, config, preprocess, hash_of(model.state_dict()))
    compare(clip, backbone.architecture)
    clip.stored = backbone.features
    return clip.compute(backbone.precision)


def with_random_weights(architecture: str) -> FrozenCLIP:
    """For measuring speed, which does not depend on the weights."""
    config = registered(architecture)
    return frozen(towers(architecture, config), config, {}, "random")


def registered(architecture: str) -> dict[str, Any]:
    """The configuration of an architecture of open_clip's registry, or of ours."""
    if architecture == EMBEDDED and EMBEDDED not in open_clip.list_models():
        open_clip.add_model_config(MINI / f"{EMBEDDED}.json")
    if architecture not in open_clip.list_models():
        near = did_you_mean(architecture, [EMBEDDED, FEATURES, *open_clip.list_models()])
        raise UserError(f"backbone: architecture: {architecture!r} is not in open_clip's registry{near}")
    return drivable(architecture, open_clip.get_model_config(architecture))


def drivable(architecture: str, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration, if it is one of towers that prompts can be put into."""
    text = config["text_cfg"]
    if tokenizer := text.get("hf_tokenizer_name") or text.get("hf_model_name"):
        raise UserError(f"backbone: {architecture!r} reads text with {tokenizer}'s tokenizer; only CLIP's own is supported")
    if config.get("custom_text") or "multimodal_cfg" in config:
        raise UserError(f"backbone: {architecture!r} is no CLIP of two plain towers; prompts cannot be put into it")
    return config


def towers(architecture: str, config: dict[str, Any]) -> open_clip.CLIP:
    """A CLIP with random weights."""
    sizes = (config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    try:
        return open_clip.CLIP(*sizes, quick_gelu=config.get("quick_gelu", False))
    except (TypeError, RuntimeError) as error:  # a key, or a timm model, that the installed versions do not know
        raise UserError(f"backbone: {architecture!r} cannot be built by open_clip {open_clip.__version__}: {error}") from None


def frozen(model: open_clip.CLIP, config: dict[str, Any], preprocess: dict, weights_hash: str) -> FrozenCLIP:
    size = model.visual.image_size
    facts = PreprocessCfg(**merge_preprocess_dict(PreprocessCfg(), preprocess) | {"size": size})
    model.visual.preprocess_cfg = asdict(facts)
    text = config["text_cfg"]
    tokenizer = open_clip.SimpleTokenizer(context_length=text.get("context_length", 77), **text.get("tokenizer_kwargs", {}))
    clip = FrozenCLIP(model, tokenizer, image_transform_v2(facts, is_train=False), weights_hash)
    clip.activation = "QuickGELU" if config.get("quick_gelu") else "GELU"
    return clip


@torch.no_grad()
def compare(clip: FrozenCLIP, architecture: str) -> None:
    """Our way through the towers must give open_clip's features: some architectures pool or normalise otherwise."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, clip.image_size, clip.image_size, generator=draw)
    tokens = clip.tokenize(["a photo of a cat."])
    prompts, eot = clip.embed(tokens), tokens.argmax(dim=-1)
    text = clip.text(clip.prefix(prompts[:, :1]), prompts[:, 1 : eot + 1], eot)
    pairs = {"image": (clip.image(images, Prompts()), clip.model.encode_image(images, normalize=True)),
             "text": (text, clip.model.encode_text(tokens, normalize=True))}  # fmt: skip
    for tower, (ours, theirs) in pairs.items():
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, atol=1e-4):
            raise UserError(f"backbone: the {tower} tower of {architecture!r} is built in a way that prompts do not fit")


def from_hub(repository: str) -> tuple[dict, dict, Path]:
    """(configuration, preprocessing, weights) of a repository, as open_clip writes them."""
    missing, name = f"{HUB}{repository}", "open_clip_config.json"
    file = cached(repository, (name,)) or download(repository, (name,), missing)
    try:
        facts = json.loads(file.read_text("utf-8"))
        config, preprocess = drivable(missing, facts["model_cfg"]), facts.get("preprocess_cfg", {})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"backbone: {missing}: {name} is none of open_clip's") from None
    return config, preprocess, cached(repository, HUB_WEIGHTS) or download(repository, HUB_WEIGHTS, missing)
