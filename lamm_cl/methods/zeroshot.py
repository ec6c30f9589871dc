"""Zero-shot CLIP (Radford et al., ICML 2021): t_c = text(template with the name of c), or the mean over several templates."""

from lamm_cl.errors import UserError, did_you_mean
from lamm_cl.learner.pieces import ContextLearner
from lamm_cl.towers.clip import imagenet_templates

IMAGENET_7 = (  # the seven that CLIP's authors found best on ImageNet, used by CoOp's ZeroshotCLIP2
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


class Template(ContextLearner):
    """The data set's own template, such as "a photo of a {}, a type of pet."."""

    def __init__(self, *, template: str):
        super().__init__()
        self.templates = (template,)


class Ensemble(ContextLearner):
    """The mean of the features under several templates.  templates: a list, or the name of one.

    imagenet-7 as CoOp's release: on every data set but ImageNet the data set's own template is added (trainers/zsclip.py).
    """

    def __init__(self, *, templates: str | list[str], template: str, dataset: str):
        super().__init__()
        if isinstance(templates, str):
            named = {"imagenet-7": IMAGENET_7, "imagenet-80": imagenet_templates()}
            if templates not in named:
                raise UserError(
                    f"context: templates: {templates!r}: expected {' or '.join(named)}, or a list{did_you_mean(templates, named)}"
                )
            own = (template,) if templates == "imagenet-7" and dataset != "ImageNet" else ()
            templates = [*named[templates], *own]
        if not templates:
            raise UserError("context: templates: expected at least one")
        self.templates = tuple(templates)
