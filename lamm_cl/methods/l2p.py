"""L2P (Wang et al., CVPR 2022): a pool of prompts for the image tower; an image is served by those whose keys it is nearest to.

S = the k of argmax cos(q(x), K_i)     input: [class token][P_i, i in S][patches]     L = CE - c mean_b sum_S cos(q(x), K_i)

P (pool, length, w);  K (pool, D);  q(x): the feature of the frozen tower, so that the last term moves keys alone.  A linear head
(linear.py) reads the mean of the positions of the prompts.  Prompts stand behind the positional embedding, as in C3Box's CLIP.

Released variants (JH-LEE-KR/l2p-pytorch, LAMDA-PILOT, C3Box): the images of a batch vote, and all are served by the k with most
votes, at the test too, so that a score depends on the batch; C3Box and PILOT read the class token; C3Box assigns the prompts
t k .. t k + k - 1 to experience t while there are so many.
"""

from typing import Literal

from torch import Tensor

from lamm_cl.errors import UserError
from lamm_cl.learner.output import Output
from lamm_cl.learner.pieces import ContextLearner, Few, Loss, Weight
from lamm_cl.learner.pool import CHOICES, notes, of_experience, similarity, uniform
from lamm_cl.learner.shown import Experience, Images
from lamm_cl.towers.clip import FrozenCLIP, Prompts

READ = {"prompts": lambda length: range(length), "class token": lambda length: None}


class L2P(ContextLearner):
    """top: k;  choose: the k of every image, or of the batch;  read: what the head is given."""

    prompts_images = True
    needs = frozenset({"pixels", "raw"})

    def __init__(self, clip: FrozenCLIP, *, pool: Few, length: Few, top: Few, choose: Literal["image", "batch"] = "image",
                 read: Literal["prompts", "class token"] = "prompts"):  # fmt: skip
        super().__init__()
        if top > pool:
            raise UserError(f"context: top: {top} prompts, but pool: {pool}")
        self.P, self.K = uniform(pool, length, clip.w), uniform(pool, clip.D)
        self.top, self.choose, self.read = top, CHOICES[choose], READ[read](top * length)

    def image(self, x: Images) -> Prompts:
        s = similarity(x.raw, self.K)
        chosen = self.chosen(s)
        return Prompts(self.P[chosen].flatten(1, 2), at=1, read=self.read, notes=notes(s, chosen))

    def chosen(self, s: Tensor) -> Tensor:
        """Cosines (B, P) -> ids (B, k)."""
        return self.choose(s, self.top)


class Assigned(L2P):
    """C3Box's use_prompt_mask: in training, prompts of its own for every experience, whatever the keys say."""

    experience = 0

    def begin(self, e: Experience) -> None:
        self.experience = e.number

    def chosen(self, s: Tensor) -> Tensor:
        mine = of_experience(self.experience, self.top, s) if self.training else None
        return super().chosen(s) if mine is None else mine


class Pull(Loss):
    """Keys are pulled towards the images that chose them: the mean over images of the sum of their cosines grows."""

    def __init__(self, *, weight: Weight):
        super().__init__()
        self.weights = {"pull": weight}

    def forward(self, model, out: Output, targets: Tensor) -> dict[str, Tensor]:
        return {"pull": -out.image_prompts.notes["matched"].mean()}
