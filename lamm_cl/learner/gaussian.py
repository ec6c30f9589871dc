"""Symmetric matrices that are a diagonal and a few directions, with their Mahalanobis distances: exact, and as small as the data.

A = diag(a) + U diag(s) U^T,  a (D,), U (D, r), s (r,) of +-1.  A covariance of n samples has r <= n - 1, so with few shots all
classes together take less room and time than one D x D matrix each would.  float64.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CUT = 1e-15  # singular values below this share of the largest count as 0, as in numpy.linalg.pinv


@dataclass(frozen=True)
class Symmetric:
    a: Tensor
    U: Tensor
    s: Tensor

    @staticmethod
    def covariance(x: Tensor) -> "Symmetric":
        """x (n, D), two or more samples: divided by n - 1."""
        x = x.double()
        x = (x - x.mean(dim=0)) / (len(x) - 1) ** 0.5
        U = torch.linalg.qr(x, mode="r").R.T if len(x) > x.shape[1] else x.T
        return Symmetric(U.new_zeros(len(U)), U, U.new_ones(U.shape[1]))

    def dense(self) -> Tensor:
        return torch.diag(self.a) + (self.U * self.s) @ self.U.T

    @property
    def diagonal(self) -> Tensor:
        return self.a + (self.U.square() * self.s).sum(dim=1)

    def shrunk(self, alpha1: float, alpha2: float) -> "Symmetric":
        """A + alpha1 m1 I + alpha2 m2 (1 - I): m1 is the mean of the diagonal, m2 that of the other entries that are not 0."""
        diagonal, alive = self.diagonal, int((self.U != 0).any(dim=1).sum())
        others = self.a.sum() + (self.U.sum(dim=0).square() * self.s).sum() - diagonal.sum()
        away = alpha2 * others / max(1, alive * (alive - 1))
        a = self.a + alpha1 * diagonal.mean() - away
        if not away:
            return Symmetric(a, self.U, self.s)
        ones = away.abs().sqrt().expand(len(a), 1)
        return Symmetric(a, torch.cat([self.U, ones], dim=1), torch.cat([self.s, away.sign().reshape(1)]))

    def correlation(self) -> "Symmetric":
        """Divided by the standard deviations, so that the diagonal is 1."""
        diagonal = self.diagonal
        return Symmetric(self.a / diagonal, self.U / diagonal.sqrt().unsqueeze(1), self.s)

    def inverse(self) -> "Symmetric":
        """By Woodbury's identity; the pseudo-inverse of the dense matrix where that does not apply."""
        D, r = self.U.shape
        if self.a.min() > 0 and r < D:
            B = self.U / self.a.unsqueeze(1)
            k, E = torch.linalg.eigh(torch.diag(self.s) + self.U.T @ B)
            return Symmetric(1 / self.a, B @ E / k.abs().sqrt(), -k.sign())
        return pseudo_inverse(self.dense())


def pseudo_inverse(A: Tensor, cut: float = CUT) -> Symmetric:
    """Of a symmetric matrix (D, D)."""
    k, E = torch.linalg.eigh(A)
    kept = k.abs() > cut * k.abs().max()
    return Symmetric(A.new_zeros(len(A)), E[:, kept] / k[kept].abs().sqrt(), k[kept].sign())


def stacked(matrices: list[Symmetric], r: int) -> tuple[Tensor, Tensor, Tensor]:
    """-> a (c, D), U (c, r, D), s (c, r), directions that are missing being 0; float32."""
    U = [F.pad(one.U.T, (0, 0, 0, r - one.U.shape[1])) for one in matrices]
    s = [F.pad(one.s, (0, r - len(one.s))) for one in matrices]
    return torch.stack([one.a for one in matrices]).float(), torch.stack(U).float(), torch.stack(s).float()


def distances(x: Tensor, means: Tensor, a: Tensor, U: Tensor, s: Tensor) -> Tensor:
    """Squared: (x - m_c)^T A_c (x - m_c), x (B, D), m (c, D), and A of c classes or of one that all share -> (B, c)."""
    middle = means.mean(dim=0)  # nothing changes when all move together, and smaller numbers round less
    x, means = x - middle, means - middle
    linear = x.square() @ a.T - 2 * x @ (a * means).T + (a * means.square()).sum(dim=1)
    if len(U) == 1 < len(means):
        along, centres = x @ U[0].T, means @ U[0].T  # (B, r), (c, r)
        squares = (along.square() @ s.T) + (centres.square() @ s.T).T
        return linear + squares - 2 * along @ (centres * s).T
    along = (x @ U.flatten(0, 1).T).unflatten(1, U.shape[:2])  # (B, c, r)
    centres = (U @ means.unsqueeze(2)).squeeze(2)
    return linear + ((along - centres).square() * s).sum(dim=2)
