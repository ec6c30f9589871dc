"""What a run computes, counted: the same on any machine, however busy, and with any cache.

images encoded      passes of an image through the image tower; an augmented view is one, and so is a feature kept in the bank;
                    a memory's old images count in every step that shows them
prompts forward     passes of a prompt through the text tower: one a class and step, or one an image, class and step
prompts backward    those that a gradient went through
multiply-adds       of all these passes in the blocks; a backward pass to inputs costs as much as a forward pass
"""

from lamm_cl.config.lengths import Length
from lamm_cl.learner.model import Learner
from lamm_cl.towers.clip import FrozenCLIP
from lamm_cl.training.sources import Sources


def work_of(model: Learner, sources: Sources, lengths: list[Length], augmented: bool) -> dict[str, int] | None:
    """lengths: of every experience's training, on its own images and a memory's;  augmented: whether every epoch has a view
    of its own.

    None where there are no towers, so that nothing passes through them, and where a piece takes passes that are not counted.
    """
    if not isinstance(model.clip, FrozenCLIP) or not all(piece.counted for piece in model.pieces):
        return None
    parts, T = sources.parts, len(lengths)
    images, steps = [round(length.images) for length in lengths], [length.steps for length in lengths]
    tests = len(parts.test_targets)
    inside = sum(images) if model.needs_pixels else 0
    encoded = inside + tests * (T + model.scores_unseen) if model.needs_pixels else 0
    encoded += tests if sources.test.features is not None else 0
    encoded += sum(map(len, parts.train)) * sum(piece.looks_again for piece in model.pieces)
    if sources.train.features is not None and sum(images):
        encoded += sum(map(len, parts.train)) * (max(length.epochs for length in lengths) if augmented else 1)
    encoded += sources.observed_images(trained=sum(images) > 0)
    forward, backward = prompts(model, images, steps, tests) if model.texts is not None else (0, 0)
    adds = (encoded + inside) * of_image(model.clip) + (forward + backward) * (of_prompt(model) if forward else 0)
    return {"images encoded": encoded, "prompts forward": forward, "prompts backward": backward, "multiply-adds": adds}


def learns_texts(model: Learner) -> bool:
    parameters = any(True for piece in (model.context, model.labels) for _ in piece.parameters())
    return parameters or any(piece.moves_text for piece in model.pieces)


def prompts(model: Learner, images: list[int], steps: list[int], tests: int) -> tuple[int, int]:
    """Forward and backward."""
    C, T = len(model.classes), len(images)
    moving = any(piece.moves_text for piece in model.pieces)
    if not learns_texts(model):
        return C, 0
    forward = backward = 0
    for i, classes in enumerate(model.experiences):
        seen = classes.stop if model.train_label_space == "seen" else len(classes)
        each = (images[i] if model.context.reads_images else steps[i]) * (seen if moving else len(classes))
        forward, backward = forward + each, backward + each
    if model.reference is not None:
        forward += backward if moving else C
    return forward + C * (T + 1) * (tests if model.context.reads_images else 1), backward


def of_image(clip: FrozenCLIP) -> int:
    """Multiply-adds of an image in the blocks of the image tower; 0 for a ResNet, which has none."""
    if not clip.is_vit:
        return 0
    depth, w = clip.shape("image")
    return depth * _block(clip.model.visual.positional_embedding.shape[0], 0, w)


def of_prompt(model: Learner) -> int:
    """Multiply-adds of a class's positions behind the shared prefix."""
    (frame, *_) = model.texts.frames
    depth, d = model.clip.shape("text")
    return depth * _block(frame.fixed.shape[1] - frame.P, frame.P, d)


def _block(length: int, before: int, width: int) -> int:
    """Of a block for `length` positions that also look at `before` others: four projections, an MLP of four widths, attention."""
    return 12 * width**2 * length + 2 * length * (before + length) * width
