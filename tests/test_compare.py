"""Comparisons: paired, honest about what they do not know, and refused where they would mean nothing."""

from dataclasses import replace

import numpy as np
import pytest
from fake_records import record, write

from lamm_cl.cli import main
from lamm_cl.errors import UserError
from lamm_cl.reports.compare import compare, interval
from lamm_cl.reports.renderers import RENDERERS, to_markdown

OTHER_HALVES = {"classes": ("x", "y", "z"), "order": (0, 1, 2), "experiences": (2, 1), "test_per_class": (50, 50, 100)}
OWN = [[5, 5], [90, 50], [70, 80]]


def results(folder, last, seeds=(1, 2, 3), changed=lambda run: run, **options):
    """(dataset, method) -> joint counts of Set 1 after the last experience, for each seed; of 100."""
    return write(
        folder,
        [
            changed(record(OWN, [[0, 0], [60, 0], [n, 40]], dataset=d, method=m, seed=s, methods=["coop", "lamm"], **options))
            for (d, m), each in last.items()
            for s, n in zip(seeds, each, strict=False)
        ],
    )


def numbers(comparison, measure, method, place):
    (table,) = comparison.tables
    (line,) = (x for x in table.lines if [label.key for label in x.labels] == [measure, method, place])
    return [number.mean for number in line.numbers]


def test_a_difference_is_the_mean_over_pairs_of_dataset_and_seed_with_wins_ties_and_losses(tmp_path):
    last = {("a", "coop"): [50, 50, 50], ("a", "lamm"): [60, 50, 46], ("b", "coop"): [10, 20, 30], ("b", "lamm"): [20, 30, 40]}

    found = compare([results(tmp_path, last)])

    assert numbers(found, "last, joint", "lamm", "a")[0] == pytest.approx((5 + 0 - 2) / 3)  # of two sets, one differs
    assert numbers(found, "last, joint", "lamm", "a")[3:] == [1, 1, 1]
    assert numbers(found, "last, joint", "lamm", "average")[0] == pytest.approx(((5 + 0 - 2) / 3 + 5) / 2)
    assert numbers(found, "last, joint", "lamm", "average")[3:] == [4, 1, 1]


def test_the_interval_holds_the_difference_and_is_the_same_every_time(tmp_path):
    folder = results(tmp_path, {("a", "coop"): [50, 50, 50], ("a", "lamm"): [60, 52, 46]})

    first, second = (numbers(compare([folder]), "last, joint", "lamm", "a") for _ in range(2))

    assert first == second
    assert -2 <= first[1] < first[0] < first[2] <= 5  # between the worst and the best pair


def test_the_interval_of_normal_differences_is_about_that_of_the_textbook():
    each = np.random.default_rng(1).normal(3, 2, 400)

    low, high = interval({"a": each})

    half = 1.96 * each.std(ddof=1) / 20
    assert (low, high) == pytest.approx((each.mean() - half, each.mean() + half), abs=0.03)


def test_one_seed_has_a_difference_but_no_interval(tmp_path):
    found = compare([results(tmp_path, {("a", "coop"): [50], ("a", "lamm"): [60]})])

    assert numbers(found, "last, joint", "lamm", "a")[0] == 5
    assert np.isnan(numbers(found, "last, joint", "lamm", "a")[1:3]).all()
    assert "(1/3 seeds)" in to_markdown(found.tables)


def test_only_seeds_that_both_have_finished_are_paired(tmp_path):
    found = compare([results(tmp_path, {("a", "coop"): [50, 50], ("a", "lamm"): [60, 60, 99]})])

    assert numbers(found, "last, joint", "lamm", "a")[0] == 5


def test_the_baseline_can_be_any_method_and_a_wrong_one_is_refused_with_the_nearest(tmp_path):
    folder = results(tmp_path, {("a", "coop"): [50] * 3, ("a", "lamm"): [60] * 3})

    assert numbers(compare([folder], "lamm"), "last, joint", "coop", "a")[0] == -5
    with pytest.raises(UserError, match="no runs of 'lam'; did you mean 'lamm'"):
        compare([folder], "lam")


def test_two_versions_of_a_scenario_are_compared_method_by_method_and_what_changed_is_told(tmp_path):
    last = {("a", "coop"): [50] * 3, ("a", "lamm"): [60] * 3}
    old = results(tmp_path / "old", last, order="dataset", changed=lambda r: replace(r, card={**r.card, "lr": 0.1}))
    new = results(
        tmp_path / "new",
        {("a", "coop"): [52] * 3, ("a", "lamm"): [60] * 3},
        order="reversed",
        changed=lambda r: replace(r, card={**r.card, "lr": 0.2}, measured=replace(r.measured, commit="abc")),
    )

    found = compare([old, new])

    assert numbers(found, "last, joint", "coop", "a")[0] == 1
    assert numbers(found, "last, joint", "lamm", "a")[3:] == [0, 3, 0]
    assert found.changes == (
        "scenario: order: dataset, now reversed",
        "card coop: lr: 0.1, now 0.2",
        "card lamm: lr: 0.1, now 0.2",
        "code: commit: None, now abc",
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r: replace(r, run=replace(r.run, shots=4)), "shots"),
        (lambda r: replace(r, backbone=replace(r.backbone, hash="x")), "backbone"),
        (lambda r: replace(r, dataset=replace(r.dataset, fingerprint="x")), "a: fingerprint of the test images"),
        (lambda r: replace(r, dataset=replace(r.dataset, **OTHER_HALVES)), "a: experiences of the test images"),
        (lambda r: replace(r, counts=tuple(c for c in r.counts if c.label_space == "own")), "label_spaces"),
        (lambda r: replace(r, run=replace(r.run, dataset="b")), "datasets"),
    ],
)
def test_folders_that_were_not_tested_alike_are_refused_by_the_field(tmp_path, change, field):
    last = {("a", "coop"): [50] * 3}
    folders = [results(tmp_path / "one", last), results(tmp_path / "two", last, changed=change)]

    with pytest.raises(UserError, match=f"cannot be compared: {field}:"):
        compare(folders)


def test_a_comparison_can_be_written_in_every_format(tmp_path):
    found = compare([results(tmp_path, {("=<b>&_", "coop"): [50] * 3, ("=<b>&_", "lamm"): [60] * 3})])

    for render in RENDERERS.values():
        assert "difference" in render(found.tables)


def test_the_command_tells_what_changed_first_and_then_the_table(tmp_path, capsys):
    old = results(tmp_path / "old", {("a", "coop"): [50] * 3}, order="dataset")
    new = results(tmp_path / "new", {("a", "coop"): [60] * 3}, order="reversed")

    assert main.main(["compare", str(old), str(new)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["changed:", "scenario: order: dataset, now reversed"]
    assert any("last, joint" in line and "5.00" in line for line in lines)
