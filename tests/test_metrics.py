"""The metrics, by hand-computed matrices."""

import numpy as np
import pytest

from lamm_cl.reports import metrics

NAN = np.nan
OWN = np.array(  # rows: 0 to 3 experiences learned; columns: tested on set 1, 2, 3
    [
        [50.0, 40.0, 30.0],
        [90.0, 35.0, 20.0],
        [95.0, 80.0, 36.0],
        [70.0, 76.0, 88.0],
    ]
)
JOINT = np.array([[NAN, NAN, NAN], [90.0, NAN, NAN], [60.0, 80.0, NAN], [50.0, 40.0, 70.0]])


def test_degradation_is_the_mean_change_of_the_earlier_sets_since_each_was_learned():
    assert metrics.degradation(OWN) == pytest.approx(((70 - 90) + (76 - 80)) / 2)


def test_backward_transfer_in_the_joint_label_space_ignores_what_is_undefined():
    assert metrics.backward_transfer(JOINT) == pytest.approx(((50 - 90) + (40 - 80)) / 2)


def test_forgetting_starts_from_the_best_accuracy_since_the_set_was_learned_not_from_the_first():
    assert metrics.forgetting(OWN) == pytest.approx(((95 - 70) + (80 - 76)) / 2)


def test_forgetting_ignores_how_good_the_untrained_method_and_the_last_one_were():
    own = np.array([[99.0, 10.0], [80.0, 10.0], [90.0, 50.0]])

    assert metrics.forgetting(own) == pytest.approx(80 - 90)


def test_zero_shot_retention_is_the_mean_change_of_sets_still_to_come():
    expected = ((35 - 40) + (20 - 30) + (36 - 30)) / 3  # set 2 after 1, set 3 after 1 and after 2

    assert metrics.zero_shot_retention(OWN) == pytest.approx(expected)


def test_incremental_accuracy_weights_every_test_image_alike():
    learned = metrics.incremental(JOINT, [100, 300, 100])

    assert learned == pytest.approx([90, (60 * 100 + 80 * 300) / 400, (50 * 100 + 40 * 300 + 70 * 100) / 500])
    assert metrics.average_incremental_accuracy(JOINT, [100, 300, 100]) == pytest.approx((90 + 75 + 48) / 3)
    assert metrics.last_accuracy(JOINT, [100, 300, 100]) == pytest.approx(48)


def test_with_one_experience_there_is_nothing_to_forget_so_the_differences_are_undefined_not_zero():
    R = np.array([[50.0], [90.0]])

    for metric in (metrics.degradation, metrics.backward_transfer, metrics.forgetting, metrics.zero_shot_retention):
        assert np.isnan(metric(R))
    assert metrics.last_accuracy(R, [7]) == metrics.average_incremental_accuracy(R, [7]) == 90


def test_zero_shot_retention_is_undefined_in_the_joint_label_space():
    assert np.isnan(metrics.zero_shot_retention(JOINT))


@pytest.mark.parametrize(("base", "new", "expected"), [(82.69, 63.22, 71.66), (0, 0, 0), (0, 80, 0), (60, 60, 60)])
def test_harmonic_mean(base, new, expected):
    assert metrics.harmonic_mean(base, new) == pytest.approx(expected, abs=0.005)  # the first as published for CoOp


def test_no_metric_changes_the_matrix():
    before = OWN.copy()

    metrics.forgetting(OWN), metrics.degradation(OWN), metrics.incremental(OWN, [1, 2, 3])

    assert (before == OWN).all()
