"""Accuracy matrices -> numbers. Pure functions.

R is (T+1, T), in %: R[i, j] in the formulas is the accuracy on the test images of experience j after learning
experiences 1..i, j from 1 to T; row 0 is the untrained method. In the arrays that is R[i, j - 1]. `own` and `joint`
name the label space. Differences are in percentage points. A mean over nothing (T = 1) is NaN: undefined, not zero.
"""

import numpy as np
from numpy.typing import ArrayLike


def backward_transfer(R: np.ndarray) -> float:
    """mean over j < T of R[T, j] - R[j, j]; below zero is forgetting. Lopez-Paz and Ranzato, NeurIPS 2017."""
    T = R.shape[1]
    return _mean([R[T, j - 1] - R[j, j - 1] for j in range(1, T)])


def degradation(own: np.ndarray) -> float:
    """mean over j < T of R_own[T, j] - R_own[j, j]. Gao et al. (LAMM), AAAI 2024, Table 2.

    That is the backward transfer, in the own label space.
    """
    return backward_transfer(own)


def forgetting(R: np.ndarray) -> float:
    """mean over j < T of max over j <= i < T of R[i, j], minus R[T, j]. Chaudhry et al., ECCV 2018."""
    T = R.shape[1]
    return _mean([R[j:T, j - 1].max() - R[T, j - 1] for j in range(1, T)])


def zero_shot_retention(own: np.ndarray) -> float:
    """mean over 1 <= i < j of R_own[i, j] - R_own[0, j]: what learning costs (or gives) classes that are still to come.

    (i = 0 would add zeros only.) The same comparison with the untrained model as forward transfer, Lopez-Paz and
    Ranzato, NeurIPS 2017, for every i instead of i = j - 1.
    """
    T = own.shape[1]
    return _mean([own[i, j - 1] - own[0, j - 1] for j in range(2, T + 1) for i in range(1, j)])


def incremental(R: np.ndarray, test_images: ArrayLike) -> np.ndarray:
    """A[i] for i = 1..T, (T,): accuracy on all test images of experiences 1..i after learning them.

    The sample-weighted mean of R[i, 1..i]; `test_images` is (T,), the number of test images of each experience.
    """
    weights = np.asarray(test_images, dtype=float)
    return np.array([np.average(R[i, :i], weights=weights[:i]) for i in range(1, R.shape[1] + 1)])


def average_incremental_accuracy(joint: np.ndarray, test_images: ArrayLike) -> float:
    """mean over i = 1..T of A[i] (see `incremental`). Rebuffi et al. (iCaRL), CVPR 2017."""
    return float(incremental(joint, test_images).mean())


def last_accuracy(joint: np.ndarray, test_images: ArrayLike) -> float:
    """A[T]: accuracy on all test images after the last experience."""
    return float(incremental(joint, test_images)[-1])


def transfer(R: np.ndarray) -> np.ndarray:
    """(T,): for each experience j > 1 the mean over 1 <= i < j of R[i, j], before it is learned; NaN for the first.

    This, `average` and `last` are ZSCL's, per dataset of a chain (Zheng et al., ICCV 2023); a table's average is over those.
    """
    return np.array([R[1:j, j - 1].mean() if j > 1 else np.nan for j in range(1, R.shape[1] + 1)])


def average(R: np.ndarray) -> np.ndarray:
    """(T,): for each experience j the mean over all i >= 1 of R[i, j]."""
    return R[1:].mean(axis=0)


def last(R: np.ndarray) -> np.ndarray:
    """(T,): R[T, j]."""
    return R[-1]


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b), 0 if both are 0; of base (Set1) and new (Set2) classes in Zhou et al. (CoCoOp), CVPR 2022."""
    return 2 * a * b / (a + b) if a + b else 0.0


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
