"""Where the weights of the towers come from: files that are read safely, caches, downloads."""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import hashlib
import os
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import huggingface_hub
import huggingface_hub.constants as hub
import open_clip
import torch
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.convert import convert_state_dict
from open_clip.pretrained import download_pretrained_from_url
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lamm_cl.errors import UserError, did_you_mean, shown
from lamm_cl.files import open_regular

HUB_WEIGHTS = (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
URL_CACHE = Path("~/.cache/clip")  # of OpenAI's package and of open_clip
PATIENCE = 10  # seconds for an answer from a server
OPENAI_FACTS = {"input_resolution", "context_length", "vocab_size"}  # in OpenAI's checkpoints, beside the weights
UNREADABLE = (OSError, RuntimeError, UnpicklingError, SafetensorError, zipfile.BadZipFile, EOFError, ValueError, LookupError,
              AttributeError, TypeError, OverflowError, AssertionError)  # fmt: skip
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)  # beside the weights
HOTTEST = 10  # of a logit_scale: exp(10), two hundred times the largest that CLIP was trained to


def given(architecture: str, weights: str) -> Path:
    """A checkpoint by its path."""
    file = Path(weights).expanduser()
    if not file.is_file():
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        known = f"a tag of {architecture} ({', '.join(tags)})" if tags else f"a tag ({architecture} has none)"
        raise UserError(f"backbone: weights: {weights!r} is neither a file nor {known}{did_you_mean(weights, tags)}")
    return file


def fill(model: open_clip.CLIP, file: Path, architecture: str) -> None:
    """Put the weights of a file into the towers: every tensor, in its shape.  UserError with what does not fit."""
    tensors = read(file)
    if OPENAI_FACTS <= tensors.keys():
        if not quick_gelu(model):
            quick = f"{architecture}-quickgelu"
            raise UserError(f"{file}: a checkpoint of OpenAI, which needs QuickGELU; name the architecture {quick!r}")
        tensors = {name: tensor for name, tensor in tensors.items() if name not in OPENAI_FACTS}
    other = f"it is no checkpoint of {architecture!r}"
    try:
        tensors = convert_state_dict(model, tensors)  # formats of other libraries that open_clip knows
    except UNREADABLE as error:  # one that looks like such a format, and is none
        raise UserError(f"{file}: {other} in a format that open_clip can convert ({shown(str(error))})") from None
    ours = model.state_dict()
    if "logit_scale" in tensors:
        tensors["logit_scale"] = _scale(tensors["logit_scale"], file).reshape(ours["logit_scale"].shape)
    for what, names in (("has no", ours.keys() - tensors.keys()), ("has", tensors.keys() - ours.keys())):
        names = sorted(name for name in names if not name.endswith("num_batches_tracked"))
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(f"{file}: {what} {names[0]!r}{more}; {other}")
    for name, tensor in tensors.items():
        if name in ours and tensor.shape != ours[name].shape:
            raise UserError(f"{file}: {name!r} is {tuple(tensor.shape)}, not {tuple(ours[name].shape)}; {other}")
        if name in ours and ours[name].is_floating_point() != tensor.is_floating_point():
            raise UserError(f"{file}: {name!r} is of {tensor.dtype}, not {ours[name].dtype}; {other}")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{file}: {name!r} holds numbers that are not finite")
    if not any(tensor.any() for tensor in tensors.values() if tensor.ndim > 1):
        raise UserError(f"{file}: holds nothing but zeros; {other}")
    model.load_state_dict(tensors, strict=False)


def _scale(tensor: Tensor, file: Path) -> Tensor:
    if tensor.numel() != 1 or HOTTEST < abs(float(tensor)) < float("inf"):  # what is not finite is told as of any tensor
        raise UserError(f"{file}: 'logit_scale' is {shown(tensor.tolist())}; expected one number of at most {HOTTEST}")
    return tensor


def quick_gelu(model: open_clip.CLIP) -> bool:
    return any(type(module).__name__ == "QuickGELU" for module in model.modules())


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: safetensors, or torch's own format, of which only tensors are read."""
    try:
        with open_regular(file):
            pass
        if is_torchscript(file):
            return read_openai_archive(file)
        safe = file.suffix == ".safetensors"
        tensors: Any = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[0][:150] if str(error).strip() else type(error).__name__
        raise UserError(f"{file}: no checkpoint that can be read safely (tensors only): {reason}") from None
    if isinstance(tensors, dict):
        tensors = tensors.get("state_dict", tensors)
    named = isinstance(tensors, dict) and all(isinstance(n, str) and isinstance(t, Tensor) for n, t in tensors.items())
    if not named or not tensors:
        raise UserError(f"{file}: no checkpoint; expected named tensors")
    for name, tensor in tensors.items():
        if odd := _odd(tensor):
            raise UserError(f"{file}: {shown(name)} is {odd}; expected plain tensors of real numbers")
    plain = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if len(plain) < len(tensors):
        raise UserError(f"{file}: no checkpoint; some tensors are there twice, with 'module.' before their name and without")
    return plain


def _odd(tensor: Tensor) -> str:
    """What keeps a tensor from being plain numbers; "" if nothing does."""
    if tensor.is_meta:
        return "without content (meta)"
    if tensor.is_quantized or tensor.is_nested or tensor.layout != torch.strided:
        return "quantized" if tensor.is_quantized else "nested or sparse"
    return "" if tensor.dtype in (*REAL, *WHOLE) else f"of {tensor.dtype}"


def is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in f"/{name}" for name in archive.namelist())


def read_openai_archive(file: Path) -> dict[str, Tensor]:
    """OpenAI published its weights as TorchScript programs: those, told by their checksum, are opened; none is run."""
    with file.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    if checksum not in openai_checksums():
        raise UserError(f"{file}: a TorchScript program, and none of OpenAI's; save the state_dict() of its model instead")
    return dict(torch.jit.load(str(file), map_location="cpu").state_dict())


def openai_checksums() -> set[str]:
    """The sha256 of each published file is a part of its address."""
    tags = (open_clip.get_pretrained_cfg(model, "openai") for model in open_clip.list_pretrained_models_by_tag("openai"))
    return {tag["url"].split("/")[-2] for tag in tags if tag.get("url")}


def of_tag(architecture: str, weights: str, tag: dict) -> Path:
    """The file of a tag: from the cache of the hub or of addresses, or downloaded there."""
    repository, name = os.path.split(tag.get("hf_hub", ""))
    names = (name,) if name else HUB_WEIGHTS
    url = tag.get("url", "")
    by_url = URL_CACHE.expanduser() / url.rpartition("/")[2]
    if repository and (file := cached(repository, names)):
        return file
    if url and by_url.is_file():
        return by_url
    missing = f"{weights!r} of {architecture}"
    put = f"put {url} into {URL_CACHE}, or " if url else ""
    if repository:
        return download(repository, names, missing, put)
    reach(url, f"{missing} is not in {URL_CACHE}", put)
    try:
        return Path(download_pretrained_from_url(url))
    except (OSError, RuntimeError) as error:
        raise UserError(f"backbone: {missing} cannot be downloaded from {url}: {error}") from None


def cached(repository: str, names: tuple[str, ...]) -> Path | None:
    found = (huggingface_hub.try_to_load_from_cache(repository, name) for name in names)
    return next((Path(file) for file in found if isinstance(file, str)), None)


def download(repository: str, names: tuple[str, ...], missing: str, put: str = "") -> Path:
    """The first of the files that the repository has."""
    reach(hub.ENDPOINT, f"{missing} is not in the cache ({hub.HF_HUB_CACHE})", put)
    for name in names:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name))
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0][:150]
            raise UserError(f"backbone: {missing} cannot be downloaded from {repository}: {reason}") from None
    raise UserError(f"backbone: {repository} holds none of {', '.join(names)}")


def reach(url: str, missing: str, put: str) -> None:
    """One question to the server, because the hub's client asks six times in a minute before it gives up."""
    way = f"{put}give a file as weights, ARCHITECTURE:path/to/file"
    if hub.HF_HUB_OFFLINE:
        raise UserError(f"backbone: {missing}, and HF_HUB_OFFLINE forbids to download it; {way}")
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return  # it answers
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"backbone: {missing}, and {url} cannot be reached ({reason}); {way}") from None
