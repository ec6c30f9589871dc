"""Intervals cover what they say, several comparisons are corrected, and ranks are those of the textbook."""

import numpy as np
import pytest
from scipy import stats

from lamm_cl.reports.statistics import critical_difference, holm, interval, ranks, t_interval

# Demšar, JMLR 2006, Table 6: AUC of four classifiers (C4.5, C4.5+m, C4.5+cf, C4.5+m+cf) on 14 datasets.
DEMSAR = np.array(
    [
        *([0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967]),
        *([0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931]),
        *([0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875]),
        *([1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669]),
        *([0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970]),
    ]
)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("datasets", [1, 4])
def test_the_interval_covers_the_true_mean_of_normal_differences_95_times_of_100(n, datasets):
    """Of one dataset, and of the average over four that differ in mean and spread."""
    rng = np.random.default_rng(n)
    means, spreads = np.array([0.5, -1, 3, 10])[:datasets], np.array([1, 0.2, 3, 2])[:datasets]
    drawn = rng.normal(means, spreads, (4000, n, datasets)).mean(axis=2)

    found = [interval(dict(enumerate(map(float, each)))) for each in drawn]

    covered = np.mean([one.low <= means.mean() <= one.high for one in found])
    assert covered == pytest.approx(0.95, abs=0.02)


def test_p_is_that_of_scipy_s_paired_t_test():
    a, b = np.random.default_rng(0).normal(size=(2, 7))

    assert t_interval(a - b).p == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_the_interval_excludes_zero_exactly_where_p_is_below_the_level():
    rng = np.random.default_rng(1)
    found = [t_interval(rng.normal(1, 1, 4)) for _ in range(200)]

    assert {(one.low > 0 or one.high < 0) == (one.p < 0.05) for one in found} == {True}


@pytest.mark.parametrize("each", [[], [3.0], [3.0, 3.0], [3.0] * 4])
def test_a_single_difference_and_a_few_that_are_the_same_have_no_interval(each):
    found = t_interval(each)

    assert np.isnan([found.low, found.high, found.p]).all() and found.pairs == len(each)


def test_five_differences_that_are_the_same_are_a_difference():
    assert t_interval([2.0] * 5).p == 0 and t_interval([0.0] * 5).p == 1


def test_over_seeds_and_class_orders_the_interval_is_the_wider_one():
    """Where orders decide, four seeds in each of three orders are three repetitions, not twelve."""
    by_order = {0: 1.0, 1: 5.0, 2: 9.0}
    differences = {(seed, order): by_order[order] + 0.01 * seed for seed in range(4) for order in by_order}

    found = interval(differences)

    assert (found.over, found.pairs) == ("order", 3)
    of_orders = t_interval([1.015, 5.015, 9.015])
    assert (found.low, found.high) == pytest.approx((of_orders.low, of_orders.high))
    assert interval({(seed, 0): float(seed) for seed in range(4)}) == interval({seed: float(seed) for seed in range(4)})


def test_holm_corrects_step_by_step():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])


def test_a_comparison_without_p_counts_among_those_that_were_made():
    assert holm([0.01, np.nan]) == pytest.approx([0.02, np.nan], nan_ok=True)


def test_holm_holds_the_error_of_the_family_where_nothing_differs():
    rng = np.random.default_rng(0)
    families = rng.normal(size=(1500, 6, 5))

    wrong = np.mean([holm([t_interval(each).p for each in family]).min() < 0.05 for family in families])

    assert wrong <= 0.06


def test_ranks_friedman_and_nemenyi_are_those_of_demsar_s_example():
    found = ranks(DEMSAR)

    assert found.average == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=0.001)
    assert found.p == pytest.approx(stats.chi2.sf(9.28, 3), abs=0.01)  # his chi-square, without the correction for ties
    assert found.critical == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=0.001)


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_values_are_those_of_the_printed_table(k, q):
    """Demšar, Table 5(a)."""
    assert critical_difference(k, 10) / np.sqrt(k * (k + 1) / 60) == pytest.approx(q, abs=0.0015)


def test_groups_are_the_largest_sets_that_are_not_told_apart():
    scores = np.array([[4.0, 3.0, 2.0, 1.0]] * 12)  # ranks 1, 2, 3, 4; critical difference 1.354
    found = ranks(scores)

    assert found.groups() == [(0, 1), (1, 2), (2, 3)]


def test_methods_that_score_alike_everywhere_share_a_rank_and_one_group():
    found = ranks(np.full((5, 3), 70.0))

    assert found.average == (2, 2, 2) and found.p == 1 and found.groups() == [(0, 1, 2)]
