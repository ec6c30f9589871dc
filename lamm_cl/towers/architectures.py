"""Which backbones there are: open_clip's registry, read from its files, since importing it imports torch: seconds."""

import ast
import json
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Architecture(NamedTuple):
    name: str
    kind: str  # "ViT": image prompts too; anything else takes text prompts only
    pixels: int  # side of its images
    tags: tuple[str, ...]  # of published weights


def architectures() -> list[Architecture]:
    """The architectures of open_clip that prompts can be put into, by name."""
    found = find_spec("open_clip")
    assert found is not None and found.origin is not None
    folder = Path(found.origin).parent
    configs = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "model_configs").glob("*.json"))}
    tags = published(folder / "pretrained.py")
    return [
        Architecture(name, _kind(config["vision_cfg"]), config["vision_cfg"]["image_size"], tuple(tags.get(name, ())))
        for name, config in configs.items()
        if _drivable(config)
    ]


def _drivable(config: dict) -> bool:
    """Two plain towers and CLIP's own tokenizer; lamm_cl.backbones refuses what else there is."""
    foreign = {"hf_tokenizer_name", "hf_model_name"} & config["text_cfg"].keys()
    return not (foreign or config.get("custom_text") or "multimodal_cfg" in config)


def _kind(vision: dict) -> str:
    if "timm_model_name" in vision:
        return vision["timm_model_name"].partition("_")[0]
    return "ResNet" if isinstance(vision["layers"], list) else "ViT"


def published(source: Path) -> dict[str, list[str]]:
    """The tags of each architecture: the keys of the nested dictionary _PRETRAINED, without running the file."""
    assigned = {
        statement.targets[0].id: statement.value
        for statement in ast.parse(source.read_text()).body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }
    return {name: [tag for tag, _ in _items(tags, assigned)] for name, tags in _items(assigned["_PRETRAINED"], assigned)}


def _items(node: ast.expr, assigned: dict[str, ast.expr]) -> list[tuple[str, ast.expr]]:
    """Of a {...}, a dict(...), or a name of one."""
    match node:
        case ast.Name():
            return _items(assigned[node.id], assigned)
        case ast.Dict():
            rows = [(key.value, value) for key, value in zip(node.keys, node.values) if isinstance(key, ast.Constant)]
            return [(key, value) for key, value in rows if isinstance(key, str)]
        case ast.Call():
            return [(each.arg, each.value) for each in node.keywords if each.arg]
    return []
