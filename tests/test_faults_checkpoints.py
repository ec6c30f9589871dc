"""Checkpoints that are none: each in one line, and nothing taken in silence for what it is not."""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save, save_file
from strange import put, soon
from test_backbones import SMALL, registered, weights  # noqa: F401  `registered`: the small architectures

from lamm_cl.config.schema import Backbone
from lamm_cl.errors import UserError
from lamm_cl.towers import backbones

NAME = "small-ViT-16"


def quantized(tensor):
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def one(change, name="visual.conv1.weight"):
    """The whole checkpoint with one tensor changed."""
    return lambda tensors: tensors | {name: change(tensors[name])}


def every(change):
    return lambda tensors: {name: change(tensor) for name, tensor in tensors.items()}


def scale(value):
    return one(lambda tensor: torch.tensor(value), "logit_scale")


ODD = {
    "integer keys": lambda tensors: {i: tensor for i, tensor in enumerate(tensors.values())},
    "keys of bytes": lambda tensors: {name.encode(): tensor for name, tensor in tensors.items()},
    "one integer key": lambda tensors: tensors | {7: torch.ones(1)},
    "nothing": lambda tensors: {},
    "numbers": lambda tensors: {name: 1.0 for name in tensors},
    "lists": lambda tensors: {name: [tensor] for name, tensor in tensors.items()},
    "a list": lambda tensors: list(tensors.values()),
    "a tensor": lambda tensors: torch.ones(3),
    "a text": lambda tensors: "weights",
    "none": lambda tensors: None,
    "a state_dict that is a list": lambda tensors: {"state_dict": [1, 2]},
    "a state_dict within one": lambda tensors: {"state_dict": {"state_dict": tensors}},
    "sparse": one(lambda tensor: tensor.to_sparse()),
    "compressed rows": one(lambda tensor: tensor.to_sparse_csr(), "visual.proj"),
    "quantized": one(quantized),
    "all quantized": every(lambda tensor: quantized(tensor.float())),
    "meta": one(lambda tensor: tensor.to("meta")),
    "all meta": every(lambda tensor: tensor.to("meta")),
    "float8": one(lambda tensor: tensor.to(torch.float8_e4m3fn)),
    "all float8": every(lambda tensor: tensor.to(torch.float8_e5m2)),
    "complex": one(lambda tensor: tensor + 1j),
    "all complex": every(lambda tensor: tensor + 1j),
    "int8": one(lambda tensor: tensor.to(torch.int8)),
    "int64": every(lambda tensor: tensor.to(torch.int64)),
    "bool": one(lambda tensor: tensor > 0),
    "nan": one(lambda tensor: tensor * float("nan")),
    "infinite": one(lambda tensor: tensor / 0),
    "no scale": scale([]),
    "two scales": scale([4.6, 4.6]),
    "a scale of 1e30": scale(1e30),
    "a scale of -1e30": scale(-1e30),
    "a scale of nan": scale(float("nan")),
    "a scale of infinity": scale([float("inf")]),
    "a whole scale": scale(4),
    "zeros": every(torch.zeros_like),
    "twice": lambda tensors: tensors | {f"module.{name}": tensor for name, tensor in tensors.items()},
    "twice, one": lambda tensors: tensors | {"module.logit_scale": torch.tensor(1.0)},
    "another shape": one(lambda tensor: tensor[:1]),
    "a shape of none": one(lambda tensor: tensor.sum()),
    "one too many": lambda tensors: tensors | {"visual.more": torch.ones(1)},
    "one too few": lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "visual.proj"},
    "of MobileCLIP": lambda tensors: tensors | {"image_encoder.model.patch_embed.0.rbr_conv.0.conv.weight": torch.ones(1)},
    "of SigLIP": lambda tensors: {"params/img/embedding/kernel": torch.ones(1)},
    "of Hugging Face": lambda tensors: {"vision_model.embeddings.class_embedding": torch.ones(3)},
    "of ConvNeXt": lambda tensors: {"stem.0.weight": torch.ones(1), "norm_pre.weight": torch.ones(1)},
    "hostile names": lambda tensors: {"\x1b[31m" * 500: torch.ones(1)},
}  # fmt: skip


def loaded(file: Path):
    with soon(60):
        return backbones.load(Backbone(architecture=NAME, weights=str(file)))


@pytest.fixture(scope="module")
def whole(registered):  # noqa: F811
    return weights(NAME)


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_checkpoint_is_one_line(tmp_path, whole, kind):
    torch.save(ODD[kind](whole), tmp_path / "odd.pt")

    with pytest.raises(UserError) as caught:
        loaded(tmp_path / "odd.pt")
    assert str(tmp_path / "odd.pt") in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600


def truncated(whole):
    return save(whole)[:-1000]


BYTES = {
    "empty": lambda whole: b"",
    "text": lambda whole: b"<html>not found</html>",
    "cut off": truncated,
    "a header without end": lambda whole: b"\xff" * 8 + b"{",
    "a header of rubbish": lambda whole: (10).to_bytes(8, "little") + b"0123456789",
}


@pytest.mark.parametrize("name", ["odd.safetensors", "odd.pt"])
@pytest.mark.parametrize("kind", BYTES)
def test_bytes_that_are_no_checkpoint_are_one_line(tmp_path, whole, kind, name):
    (tmp_path / name).write_bytes(BYTES[kind](whole))

    with pytest.raises(UserError, match=name) as caught:
        loaded(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["odd.safetensors", "odd.pt"])
def test_an_archive_that_is_no_checkpoint_is_one_line(tmp_path, whole, name):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'touch PWNED'\ntR.")

    with pytest.raises(UserError, match=name):
        loaded(tmp_path / name)
    assert not Path("PWNED").exists()


@pytest.mark.parametrize("thing", ["fifo", "device", "loop", "folder", "endpoint", "dangling"])
@pytest.mark.parametrize("name", ["odd.safetensors", "odd.pt"])
def test_a_checkpoint_that_is_no_file_is_one_line(tmp_path, whole, thing, name):
    put(thing, tmp_path / name)
    with pytest.raises(UserError, match=name):
        loaded(tmp_path / name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_whole_checkpoints_are_taken_in_any_real_numbers(tmp_path, whole, dtype):
    save_file({name: tensor.to(dtype) for name, tensor in whole.items()}, tmp_path / "good.safetensors")
    torch.save({f"module.{name}": tensor.to(dtype) for name, tensor in whole.items()}, tmp_path / "good.pt")

    assert loaded(tmp_path / "good.safetensors").weights_hash == loaded(tmp_path / "good.pt").weights_hash


def test_the_architecture_is_a_small_one():
    assert NAME in SMALL and NAME in open_clip.list_models()
