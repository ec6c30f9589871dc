"""Which CLIP: what a file, a tag or a repository gives, what is refused, and that nothing differs in silence."""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import io
import json
import pickle
import urllib.error
from pathlib import Path

import open_clip
import pytest
import torch
import toy
from safetensors.torch import save_file

from lamm_cl.config.cards import card_for
from lamm_cl.config.schema import Backbone
from lamm_cl.errors import UserError
from lamm_cl.sweeping.plan import Run
from lamm_cl.towers import architectures, backbones
from lamm_cl.towers import weights as files
from lamm_cl.towers.backbones import compare, frozen, towers
from lamm_cl.towers.clip import hash_of
from lamm_cl.towers.weights import HUB_WEIGHTS, OPENAI_FACTS, of_tag, openai_checksums, read
from lamm_cl.training import run as training
from lamm_cl.training.run import backbone_on

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 4}
VIT = {"image_size": 64, "patch_size": 16, "width": 48, "layers": 4, "head_width": 24}
SMALL = {
    "small-ViT-16": {"vision_cfg": VIT},
    "small-ViT-16-quickgelu": {"vision_cfg": VIT, "quick_gelu": True},
    "small-ViT-32": {"vision_cfg": VIT | {"patch_size": 32}},
    "small-RN": {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}},
}
FAMILIES = ("small-ViT-16", "small-ViT-32", "small-RN")


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory):
    """The families of ViT-B/16, ViT-B/32 and RN50 at a reduced size, as architectures of open_clip's registry."""
    folder = tmp_path_factory.mktemp("configs")
    for name, facts in SMALL.items():
        (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 16, "text_cfg": TEXT} | facts))
    open_clip.add_model_config(folder)


def weights(architecture: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return towers(architecture, backbones.registered(architecture)).state_dict()


def checkpoint(path: Path, architecture: str, **extra) -> Path:
    """Random weights in a file: safetensors, or else torch's format."""
    tensors = weights(architecture) | extra
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return path


def load(architecture: str, file: object, precision: str = "fp32"):
    return backbones.load(Backbone(architecture=architecture, weights=str(file), precision=precision))


def refusal(architecture: str, file: object) -> str:
    with pytest.raises(UserError) as caught:
        load(architecture, file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def run(tmp_path, monkeypatch, method: str, **backbone):
    monkeypatch.setattr(training, "dataset_in", lambda name, data_root, cache, split: toy.dataset())
    backbone_on.cache_clear()
    measured = toy.scenario(backbone=backbone)
    one = Run(measured, "toy", method, card_for(measured, method), 4, 1, tmp_path / method)
    record = training.do(one, data_root=None, cache=tmp_path / "cache", device="cpu", progress=lambda at: None)
    backbone_on.cache_clear()
    return record


# --- files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["zero-shot", "coop", "lamm"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_vits_and_resnets_learn_from_a_file_of_weights(tmp_path, monkeypatch, architecture, method):
    file = checkpoint(tmp_path / "weights.safetensors", architecture)

    record = run(tmp_path, monkeypatch, method, architecture=architecture, weights=str(file))

    assert record.backbone.hash == hash_of(weights(architecture))
    assert (record.backbone.activation, record.backbone.precision) == ("GELU", "fp32")
    assert all(count.correct is not None for count in record.counts if count.label_space == "own")


@pytest.mark.parametrize("method", ["maple", "comma"])
def test_a_method_that_prompts_images_says_on_a_resnet_that_it_needs_a_vit(tmp_path, monkeypatch, method):
    file = checkpoint(tmp_path / "weights.pt", "small-RN")

    with pytest.raises(UserError, match=r"needs a vision transformer \(ViT\), not a ResNet"):
        run(tmp_path, monkeypatch, method, architecture="small-RN", weights=str(file))


def test_one_set_of_weights_is_the_same_in_every_format(tmp_path):
    tensors = weights("small-ViT-16")
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "b.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, tmp_path / "c.pt")

    hashes = {load("small-ViT-16", tmp_path / name).weights_hash for name in ("a.safetensors", "b.pt", "c.pt")}

    assert hashes == {hash_of(tensors)}


def test_a_checkpoint_of_openai_needs_an_architecture_with_quickgelu(tmp_path):
    facts = {name: torch.tensor(64) for name in OPENAI_FACTS}
    half = {name: tensor.half() for name, tensor in weights("small-ViT-16").items()}  # as published
    torch.save(half | facts, tmp_path / "openai.pt")

    line = refusal("small-ViT-16", tmp_path / "openai.pt")
    clip = load("small-ViT-16-quickgelu", tmp_path / "openai.pt")

    assert "needs QuickGELU; name the architecture 'small-ViT-16-quickgelu'" in line
    assert clip.activation == "QuickGELU"
    assert clip.model.token_embedding.weight.dtype == torch.float32


def test_the_activation_changes_the_features_and_their_place_in_the_bank(tmp_path, monkeypatch):
    file = str(checkpoint(tmp_path / "weights.pt", "small-ViT-16"))

    names = ("small-ViT-16", "small-ViT-16-quickgelu")
    records = [run(tmp_path, monkeypatch, "zero-shot", architecture=name, weights=file) for name in names]

    assert [record.backbone.activation for record in records] == ["GELU", "QuickGELU"]
    assert records[0].backbone.hash == records[1].backbone.hash
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2


def test_a_torchscript_archive_is_opened_only_if_it_is_one_of_openais(tmp_path, monkeypatch):
    class Published(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("logit_scale", torch.ones([]))

        def forward(self, x):
            return x

    path = tmp_path / "published.pt"
    torch.jit.script(Published()).save(str(path))

    assert "a TorchScript program, and none of OpenAI's" in refusal("small-ViT-16", path)
    monkeypatch.setattr(files, "openai_checksums", lambda: {files.hashlib.sha256(path.read_bytes()).hexdigest()})
    assert read(path).keys() == {"logit_scale"}


def test_the_checksums_of_openais_files_are_known():
    sums = openai_checksums()

    assert len(sums) == 9 and all(len(each) == 64 and int(each, 16) for each in sums)


class Harm:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


def pickled(value: object) -> bytes:
    return pickle.dumps(value)


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.pt", b"", "read safely"),
        ("text.pt", b"no checkpoint", "read safely"),
        ("text.safetensors", b"no checkpoint", "read safely"),
        ("code.pt", pickled(Harm()), "read safely"),
        ("hidden.pt", saved({"logit_scale": Harm()}), "read safely"),
        ("list.pt", saved([torch.zeros(1)]), "expected named tensors"),
        ("none.pt", saved({}), "expected named tensors"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_and_nothing_in_it_runs(tmp_path, monkeypatch, name, content, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)

    line = refusal("small-ViT-16", tmp_path / name)

    assert str(tmp_path / name) in line and reason in line
    assert not (tmp_path / "harm").exists()


def test_a_truncated_checkpoint_is_refused(tmp_path):
    for name in ("weights.pt", "weights.safetensors"):
        file = checkpoint(tmp_path / name, "small-ViT-16")
        file.write_bytes(file.read_bytes()[:5000])
        assert "read safely" in refusal("small-ViT-16", file)


def test_weights_of_another_architecture_are_refused_with_the_first_difference(tmp_path):
    file = checkpoint(tmp_path / "weights.safetensors", "small-ViT-16")

    assert "'visual.conv1.weight' is (48, 3, 16, 16), not (48, 3, 32, 32)" in refusal("small-ViT-32", file)
    assert "has no 'visual.attnpool.c_proj.bias' and" in refusal("small-RN", file)


def test_position_vectors_are_never_resized_in_silence(tmp_path):
    larger = torch.randn(26, 48)
    file = checkpoint(tmp_path / "weights.pt", "small-ViT-16", **{"visual.positional_embedding": larger})

    assert "'visual.positional_embedding' is (26, 48), not (17, 48)" in refusal("small-ViT-16", file)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    file = checkpoint(tmp_path / "weights.pt", "small-ViT-16", logit_scale=torch.tensor(float("nan")))

    assert "'logit_scale' holds numbers that are not finite" in refusal("small-ViT-16", file)


# --- names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "named", "line"),
    [
        ("ViT-B-61", "openai", "'ViT-B-61' is not in open_clip's registry; did you mean 'ViT-B-16'?"),
        ("ViT-B-16", "opnai", "'opnai' is neither a file nor a tag of ViT-B-16 (openai, laion400m_e31,"),
        ("ViT-B-16", "embedded", "'embedded' are those of 'lamm-cl-mini'"),
        ("ViT-B-16-SigLIP", "webli", "reads text with timm/ViT-B-16-SigLIP's tokenizer"),
        ("coca_ViT-B-32", "laion2b_s13b_b90k", "no CLIP of two plain towers"),
        ("ViT-H-14-CLIPA", "datacomp1b", "reads text with bert-base-uncased's tokenizer"),
    ],
)
def test_a_backbone_that_cannot_be_used_is_told_in_one_line(architecture, named, line):
    assert line in refusal(architecture, named)


def test_towers_that_pool_in_their_own_way_are_refused(tmp_path):
    config = backbones.registered("small-ViT-16")
    config["vision_cfg"] |= {"pool_type": "avg"}
    model = towers("averaging", config)

    with pytest.raises(UserError, match="the image tower of 'averaging' is built in a way that prompts do not fit"):
        compare(frozen(model, config, {}, ""), "averaging")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def unreachable(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(files.urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(files, "URL_CACHE", tmp_path / "clip")
    monkeypatch.setattr(files.huggingface_hub, "try_to_load_from_cache", lambda repository, name: None)


def test_without_network_and_cache_one_line_names_the_tag_the_cache_and_the_way(offline):
    line = refusal("ViT-B-16", "openai")

    assert (
        "'openai' of ViT-B-16" in line and files.hub.HF_HUB_CACHE in line and "cannot be reached (no route to host)" in line
    )
    assert "/ViT-B-16.pt into " in line and "ARCHITECTURE:path/to/file" in line


def test_a_repository_that_is_not_in_the_cache_is_told_alike(offline):
    assert "hf-hub:laion/CLIP-ViT-B-32 is not in the cache" in refusal("hf-hub:laion/CLIP-ViT-B-32", "hub")


def test_a_file_in_the_cache_of_addresses_is_taken_without_a_network(offline, tmp_path, monkeypatch):
    (tmp_path / "clip").mkdir()
    file = tmp_path / "clip" / "ViT-B-16.pt"
    file.touch()

    assert of_tag("ViT-B-16", "openai", open_clip.get_pretrained_cfg("ViT-B-16", "openai")) == file


def test_a_repository_in_the_cache_brings_configuration_preprocessing_and_weights(tmp_path, monkeypatch):
    model = {"embed_dim": 16, "text_cfg": TEXT} | SMALL["small-ViT-16-quickgelu"]
    facts = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(facts))
    checkpoint(tmp_path / HUB_WEIGHTS[0], "small-ViT-16").rename(tmp_path / "open_clip_model.safetensors")
    there = {path.name: str(path) for path in tmp_path.iterdir()}
    monkeypatch.setattr(files.huggingface_hub, "try_to_load_from_cache", lambda repository, name: there.get(name))

    clip = load("hf-hub:somebody/small", "hub")

    assert clip.activation == "QuickGELU" and clip.preprocess_facts["mean"] == [0.5, 0.5, 0.5]


# --- precision ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_lower_precision_is_in_the_record_and_the_features_are_nearly_the_same(tmp_path, monkeypatch, precision):
    file = checkpoint(tmp_path / "weights.pt", "small-ViT-16")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    full, lower = (load("small-ViT-16", file, p).image(images) for p in ("fp32", precision))
    record = run(tmp_path, monkeypatch, "lamm", architecture="small-ViT-16", weights=str(file), precision=precision)

    assert record.backbone.precision == precision
    assert lower.dtype == torch.float32 and not torch.equal(full, lower)
    assert (full * lower).sum(dim=-1).min() > 0.99


# --- the registry -------------------------------------------------------------------------------------------------------


def test_the_listed_architectures_and_tags_are_those_of_open_clip():
    listed = {each.name: each for each in architectures.architectures()}
    drivable = []
    for name in open_clip.list_models():
        if name.startswith(("small-", "lamm-")):
            continue
        try:
            backbones.registered(name)
        except UserError:
            continue
        drivable.append(name)

    assert sorted(listed) == sorted(drivable)
    for name, each in listed.items():
        if not name.endswith("-quickgelu"):
            assert list(each.tags) == open_clip.list_pretrained_tags_by_model(name)
    assert {listed[name].kind for name in ("RN50", "ViT-L-14", "convnext_base")} == {"ResNet", "ViT", "convnext"}
