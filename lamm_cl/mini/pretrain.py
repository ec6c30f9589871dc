"""How the embedded default was made: `python -m lamm_cl.mini.pretrain [--output DIR] [--steps N] [--seed S]`.

A contrastive pretraining from scratch (Radford et al., ICML 2021, at the scale of one CPU thread) on 64,000 painted
scenes with freshly sampled noisy captions. Fixed number of steps, one seed, the last weights are the result: no
checkpoint is chosen, and the zero-shot accuracies at the end are only read.
"""

from lamm_cl import vision  # noqa: F401  first: it makes torchvision importable

# isort: split
import argparse
import logging
import math
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy import ndarray
from open_clip.pos_embed import get_2d_sincos_pos_embed
from safetensors.torch import save
from torch import Tensor, nn

from lamm_cl.files import write_atomic
from lamm_cl.mini.captions import SLOTS, attributes, caption, true_of, vocabulary
from lamm_cl.mini.scenes import DIGITS, SIDE, Scene, render
from lamm_cl.mini.worlds import CLASSES, NAMES, World, pretraining_scene, world

FOLDER = Path(__file__).parent / "model"
ARCHITECTURE = FOLDER / "lamm-cl-mini.json"
TEMPLATE = "a photo of a {}."
LOG_EVERY = 100  # steps
TOKEN_STD = 0.02  # of the used token rows after rescaling: what CLIP's own have


@dataclass(frozen=True)
class Recipe:
    """Every number of the pretraining, fixed before the run."""

    images: int = 64_000
    steps: int = 10_000
    batch: int = 96
    lr: float = 1.5e-3
    warmup: int = 100  # steps; then a cosine down to 0
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.1  # on matrices, not on embeddings, biases, norms
    clip: float = 1.0  # norm of the gradient
    max_scale: float = 100.0
    position_scale: float = 0.3  # of the 2-D sine-cosine that vision positions start from
    heads: tuple[tuple[str, float], ...] = (("kind", 3.0), ("colour", 0.3), ("pattern", 0.6))  # auxiliary, weight each
    heads_weight: float = 0.5
    heads_until: float = 0.8  # share of the run
    curriculum_until: float = 0.45  # share of the run during which plain, large shapes are over-represented
    seed: int = 0


class Scenes:
    """The painted pretraining images with what they show."""

    def __init__(self, recipe: Recipe):
        rng = random.Random(f"lamm-cl-mini/pretraining/{recipe.seed}")
        self.scenes: list[Scene] = []
        self.images = np.empty((recipe.images, SIDE, SIDE, 3), np.uint8)
        for i in range(recipe.images):
            scene = pretraining_scene(rng)
            self.scenes.append(scene)
            self.images[i] = render(scene, rng)
        self.attributes = np.stack([attributes(scene) for scene in self.scenes])  # (N, slots)
        self.easy = [i for i, scene in enumerate(self.scenes) if _is_easy(scene)]

    def draw(self, count: int, easy_share: float, rng: random.Random) -> list[int]:
        every = range(len(self.scenes))
        return [rng.choice(self.easy if rng.random() < easy_share else every) for _ in range(count)]


def _is_easy(scene: Scene) -> bool:
    return scene.pattern == "plain" and scene.size == "large" and scene.kind not in DIGITS


class Words:
    """The few tokens that captions use, renumbered in CLIP's order: the end of a text is still the largest."""

    def __init__(self):
        self.tokenize = open_clip.get_tokenizer(ARCHITECTURE.stem)
        self.ids = self.tokenize(vocabulary()).unique()  # (V,) of CLIP's ids, with padding, start and end of text

    def __call__(self, texts: list[str]) -> Tensor:
        """-> (N, L) compact ids, as short as the longest text allows: the causal mask makes that exact."""
        tokens = self.tokenize(texts)
        tokens = tokens[:, : tokens.argmax(dim=1).max() + 1].contiguous()
        compact = torch.searchsorted(self.ids, tokens)
        assert torch.equal(self.ids[compact], tokens), "a caption uses a word that vocabulary() does not list"
        return compact


def new_model(words: Words, recipe: Recipe) -> open_clip.CLIP:
    """A fresh CLIP whose token table has only the used rows."""
    torch.manual_seed(recipe.seed)
    model = open_clip.create_model(ARCHITECTURE.stem)
    model.token_embedding = nn.Embedding.from_pretrained(model.token_embedding.weight[words.ids].detach(), freeze=False)
    grid, width = model.visual.grid_size[0], model.visual.positional_embedding.shape[1]
    positions = recipe.position_scale * get_2d_sincos_pos_embed(width, grid, cls_token=True)
    model.visual.positional_embedding.data.copy_(torch.from_numpy(positions))
    return model


def encode_text(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Token ids (N, L) -> unit features (N, D). Unlike open_clip's own, takes any L up to the context length."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(dim=1)] @ model.text_projection
    return F.normalize(x, dim=-1)


def pixels(images: ndarray) -> Tensor:
    """uint8 (N, H, W, 3) -> (N, 3, H, W) from -1 to 1: mean and std 0.5, which open_clip must be told when loading."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() / 255 - 0.5) / 0.5


def contrastive_loss(image: Tensor, text: Tensor, column: Tensor, true: Tensor, scale: Tensor) -> Tensor:
    """Symmetric, with captions that happen to be true of another image left out of that image's denominator.

    image (B, D) and text (U, D): unit features of B images and of the U different captions of the batch;
    column (B,): which caption is image i's own; true (B, B): whether caption i is true of image j.
    """
    batch = len(image)
    logits = scale * image @ text.T  # (B, U)
    fits = torch.zeros(len(text), batch).index_add_(0, column, true.float()) > 0  # (U, B)
    own = F.one_hot(column, len(text)).bool()
    to_text = F.cross_entropy(logits.masked_fill(fits.T & ~own, -torch.inf), column)
    others = fits[column] & ~torch.eye(batch, dtype=torch.bool)
    to_image = F.cross_entropy(logits.T[column].masked_fill(others, -torch.inf), torch.arange(batch))
    return (to_text + to_image) / 2


def train(scenes: Scenes, words: Words, recipe: Recipe, tell: Callable[[str], None]) -> open_clip.CLIP:
    """The whole run from random weights; `tell` gets a line for the log now and then."""
    model = new_model(words, recipe)
    heads = nn.ModuleDict({slot: nn.Linear(model.visual.output_dim, len(SLOTS[slot])) for slot, _ in recipe.heads})
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(_groups(model, heads, recipe), lr=recipe.lr, betas=recipe.betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_factor(step, recipe))
    rng = random.Random(f"lamm-cl-mini/batches/{recipe.seed}")
    start, losses = time.perf_counter(), []
    for step in range(recipe.steps):
        progress = step / recipe.steps
        chosen = scenes.draw(recipe.batch, 1 - progress / recipe.curriculum_until, rng)
        texts, column, claims = captioned([scenes.scenes[i] for i in chosen], rng)
        shown = scenes.attributes[chosen]
        true = torch.from_numpy(true_of(claims, shown))
        features, text = model.encode_image(pixels(scenes.images[chosen])), encode_text(model, words(texts))
        contrastive = contrastive_loss(F.normalize(features, dim=-1), text, column, true, model.logit_scale.exp())
        auxiliary = auxiliary_loss(heads, features, shown, recipe)
        loss = contrastive + recipe.heads_weight * auxiliary if progress < recipe.heads_until else contrastive
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimizer.step()
        schedule.step()
        model.logit_scale.data.clamp_(max=math.log(recipe.max_scale))
        losses.append((contrastive.item(), auxiliary.item()))
        if (step + 1) % LOG_EVERY == 0:
            means, minutes = np.mean(losses[-LOG_EVERY:], axis=0), (time.perf_counter() - start) / 60
            scale, speed = model.logit_scale.exp().item(), (step + 1) * recipe.batch / minutes / 60
            tell(f"step {step + 1:5d}  contrastive {means[0]:.3f}  auxiliary {means[1]:.3f}  scale {scale:.1f}  "
                 f"{speed:.0f} images/s  {minutes:.1f} min")  # fmt: skip
    return model.eval().requires_grad_(False)


def captioned(scenes: list[Scene], rng: random.Random) -> tuple[list[str], Tensor, ndarray]:
    """A fresh caption for each of B scenes: the U different texts, which is whose (B,), and the claims (B, slots)."""
    captions = [caption(scene, rng) for scene in scenes]
    unique = list(dict.fromkeys(text for text, _ in captions))
    column = torch.tensor([unique.index(text) for text, _ in captions])
    return unique, column, np.stack([claims for _, claims in captions])


def auxiliary_loss(heads: nn.ModuleDict, features: Tensor, shown: ndarray, recipe: Recipe) -> Tensor:
    """Linear heads on the image features (B, D) must name the kind, colour and pattern: attributes (B, slots)."""
    target = dict(zip(SLOTS, torch.from_numpy(shown).long().T, strict=True))
    return sum(weight * F.cross_entropy(heads[slot](features), target[slot]) for slot, weight in recipe.heads)


def _groups(model: nn.Module, heads: nn.Module, recipe: Recipe) -> list[dict]:
    """Weight decay on matrices only."""
    named = [*model.named_parameters(), *heads.named_parameters()]
    matrices = [p for name, p in named if p.ndim >= 2 and "embedding" not in name]
    rest = [p for name, p in named if p.ndim < 2 or "embedding" in name]
    return [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _lr_factor(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / (recipe.steps - recipe.warmup)))


def rescale(model: open_clip.CLIP) -> float:
    """Give the used token rows CLIP's standard deviation without changing what the text tower computes; -> the factor.

    Everything that is added to the residual stream is multiplied by one factor, and every reader of the stream begins
    with a LayerNorm, which divides it out again (up to the epsilon in LayerNorm's denominator). It decides how far a
    context vector moves, relative to where it started, at the learning rates that papers chose for CLIP.
    """
    factor = TOKEN_STD / model.token_embedding.weight.std().item()
    model.token_embedding.weight.data.mul_(factor)
    model.positional_embedding.data.mul_(factor)
    for block in model.transformer.resblocks:
        for writer in (block.attn.out_proj, block.mlp.c_proj):
            writer.weight.data.mul_(factor)
            writer.bias.data.mul_(factor)
    return factor


def full_state(model: open_clip.CLIP, words: Words, recipe: Recipe) -> dict[str, Tensor]:
    """open_clip's state dict in half precision, the token table in full length.

    Words that pretraining never used get random signs times the same standard deviation: unlike zeros they keep unknown
    words apart, and unlike normal noise they compress.
    """
    state = model.state_dict()
    signs = torch.randint(2, (model.vocab_size, model.token_embedding.embedding_dim),
                          generator=torch.Generator().manual_seed(recipe.seed))  # fmt: skip
    table = TOKEN_STD * (2.0 * signs - 1)
    table[words.ids] = state["token_embedding.weight"]
    return {name: tensor.half().contiguous() for name, tensor in (state | {"token_embedding.weight": table}).items()}


@torch.no_grad()
def zero_shot(model: open_clip.CLIP, tokens: Tensor, data: World) -> dict[str, float]:
    """Accuracy in % on all classes, and on each half against its own classes only."""
    text = encode_text(model, tokens)
    image = model.encode_image(pixels(data.test_images))  # unit length would not change the answers
    logits, labels = image @ text.T, torch.from_numpy(data.test_labels)
    first = (len(data.classes) + 1) // 2
    spans = {"all": (0, len(data.classes)), "Set1": (0, first), "Set2": (first, len(data.classes))}
    accuracies = {}
    for part, (low, high) in spans.items():
        inside = (labels >= low) & (labels < high)
        right = logits[inside, low:high].argmax(dim=1) + low == labels[inside]
        accuracies[part] = 100 * right.float().mean().item()
    return accuracies


def report(model: open_clip.CLIP, words: Words, tell: Callable[[str], None]) -> None:
    """Tell the zero-shot accuracies on the four worlds."""
    with tempfile.TemporaryDirectory() as cache:
        for name in NAMES:
            accuracies = zero_shot(model, class_prompts(words, name), world(name, Path(cache)))
            tell(f"zero-shot {name:8s} " + "  ".join(f"{part} {value:.1f}%" for part, value in accuracies.items()))


def class_prompts(words: Words, *names: str) -> Tensor:
    """Compact token ids (C, L) of the class prompts of these worlds."""
    return words([TEMPLATE.format(label) for name in names for label in CLASSES[name]])


def pretrain(recipe: Recipe, output: Path, tell: Callable[[str], None]) -> None:
    """The recipe from paint to file: leaves the architecture and the weights in `output`, as open_clip reads them."""
    open_clip.add_model_config(ARCHITECTURE)
    tell(f"{recipe}")
    tell(f"torch {torch.__version__}, open_clip {open_clip.__version__}")
    words, scenes = Words(), Scenes(recipe)
    tell(f"painted {len(scenes.scenes)} images; captions use {len(words.ids)} tokens")
    model = train(scenes, words, recipe, tell)

    image = F.normalize(model.encode_image(pixels(scenes.images[:1000])), dim=-1)
    prompts = class_prompts(words, *NAMES)
    before = image @ encode_text(model, prompts).T
    factor = rescale(model)
    after = image @ encode_text(model, prompts).T
    same = (before.argmax(dim=1) == after.argmax(dim=1)).float().mean()
    change = (before - after).abs().max()
    tell(f"rescaled by {factor:.4f}: cosines change by at most {change:.1e}, {same:.1%} same answers")
    write_atomic(output / f"{ARCHITECTURE.stem}.safetensors", save(full_state(model, words, recipe)))
    write_atomic(output / ARCHITECTURE.name, ARCHITECTURE.read_text())
    report(model, words, tell)


def log_to(file: Path) -> Callable[[str], None]:
    """Lines go to the terminal and, as they come, to the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger(__name__)
    logger.setLevel(logging.INFO)
    for handler in (logging.StreamHandler(), logging.FileHandler(file, mode="w")):
        logger.addHandler(handler)
    return logger.info


def main() -> None:
    parser = argparse.ArgumentParser("python -m lamm_cl.mini.pretrain", description="Pretrain the embedded default.")
    parser.add_argument("--output", type=Path, default=FOLDER, help="where to write (default: into the package)")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one thread is faster than two on a shared machine, and its sums have one order
    recipe = Recipe(steps=arguments.steps, seed=arguments.seed)
    pretrain(recipe, arguments.output, log_to(arguments.output / "pretrain.log"))


if __name__ == "__main__":
    main()
