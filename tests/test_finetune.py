"""Fine-tuning of both towers, against open_clip's own encoders and autograd; and that nothing frozen moves."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
import toy
from generated import tiny_clip

from lamm_cl.config.cards import load_card
from lamm_cl.learner.build import build
from lamm_cl.learner.shown import Images

NAMES = list(toy.CLASSES)
SMALL = {"training": {"steps": 6, "batch": 8, "lr": 1e-3, "warmup": {"steps": 2}}}


def model_of(clip, experiences=(range(0, 4), range(4, 7))):
    return build(load_card("finetune"), clip, NAMES, list(experiences))


def images(clip, n: int = 5):
    return torch.randn(n, 3, clip.image_size, clip.image_size, generator=torch.Generator().manual_seed(0))


def test_a_step_has_the_gradients_of_open_clips_own_encoders_in_every_weight():
    clip = tiny_clip()
    model, plain = model_of(clip), deepcopy(clip.model).requires_grad_(True)
    model.train()
    model.begin(0)
    x, y = images(clip), torch.tensor([0, 1, 2, 3, 0])

    out, terms = model.loss(Images(pixels=x), y)
    terms["cross_entropy"].backward()
    text = plain.encode_text(clip.tokenize([f"a photo of a {name}." for name in NAMES[:4]]), normalize=True)
    logits = plain.logit_scale.detach().exp() * plain.encode_image(x, normalize=True) @ text.T
    F.cross_entropy(logits, y, label_smoothing=0.2).backward()

    torch.testing.assert_close(out.logits, logits, rtol=1e-4, atol=1e-4)
    ours, theirs = dict(model.tower.model.named_parameters()), dict(plain.named_parameters())
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"logit_scale"}:
        size = theirs[name].grad.abs().max().item()
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, rtol=1e-3, atol=1e-3 * size)


def test_all_weights_but_the_scale_learn_and_those_of_the_shared_clip_never_move(tmp_path):
    before = {name: tensor.clone() for name, tensor in tiny_clip().model.state_dict().items()}

    record, learned = toy.run(tmp_path, "finetune", overrides={"finetune": SMALL})

    after = tiny_clip().model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    moved = {name for name, tensor in learned.items() if not torch.equal(tensor, before[name.removeprefix("tower.model.")])}
    assert {f"tower.model.{name}" for name, p in tiny_clip().model.named_parameters()} - moved == {"tower.model.logit_scale"}
    assert record.model.trainable[0] == sum(p.numel() for p in tiny_clip().model.parameters()) - 1


def test_the_texts_of_old_classes_follow_the_weights_and_a_copy_of_the_model_has_its_own():
    clip = tiny_clip()
    model = model_of(clip)
    model.begin(0)
    model.eval()
    with torch.no_grad():
        first = model(Images(pixels=images(clip)))
    twin = deepcopy(model)

    model.train()
    with torch.no_grad():
        model.tower.model.token_embedding.weight.mul_(1.5)
        model.tower.model.visual.proj.mul_(torch.randn(model.tower.model.visual.proj.shape).exp())
    model.eval()
    with torch.no_grad():
        assert not torch.equal(model(Images(pixels=images(clip))), first)
        assert torch.equal(twin(Images(pixels=images(clip))), first)
    assert not model.tower.model.training


def test_a_run_that_was_cut_off_gives_the_bytes_of_one_that_was_not(tmp_path):
    _, whole = toy.run(tmp_path, "finetune", folder="whole", overrides={"finetune": SMALL})
    one = toy.planned(tmp_path / "cut", "finetune", overrides={"finetune": SMALL})

    def stop(at):
        if at.experience == 2 and at.stage == "train" and at.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.complete(toy.prepared(one, tmp_path / "cache"), stop, save_every=0)
    assert (one.folder / "state/state.safetensors").exists()
    toy.complete(toy.prepared(one, tmp_path / "cache"), lambda at: None, save_every=0)

    again = toy.load_file(one.folder / "learned.safetensors")
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
