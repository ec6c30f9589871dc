"""Comparisons: paired, honest about what they do not know, and refused where they would mean nothing."""

from dataclasses import replace

import numpy as np
import pytest
from fake_records import record, write

from lamm_cl.cli import main
from lamm_cl.errors import UserError
from lamm_cl.reports.compare import compare
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


def table_of(comparison, measure, method, place):
    """The table with the row of a comparison, and that row."""
    rows = [(table, line) for table in comparison.tables for line in table.lines]
    (found,) = ((t, x) for t, x in rows if [label.key for label in x.labels] == [measure, method, place])
    return found


def numbers(comparison, measure, method, place):
    table, line = table_of(comparison, measure, method, place)
    return {column.key: number.mean for column, number in zip(table.columns, line.numbers, strict=True)}


def counts(found):
    return [found[name] for name in ("wins", "ties", "losses")]


def test_a_difference_is_the_mean_over_pairs_of_dataset_and_seed_with_wins_ties_and_losses(tmp_path):
    last = {("a", "coop"): [50, 50, 50], ("a", "lamm"): [60, 50, 46], ("b", "coop"): [10, 20, 30], ("b", "lamm"): [20, 30, 40]}

    found = compare([results(tmp_path, last)])

    assert numbers(found, "last, joint", "lamm", "a")["difference"] == pytest.approx((5 + 0 - 2) / 3)  # of two sets, one differs
    assert counts(numbers(found, "last, joint", "lamm", "a")) == [1, 1, 1]
    assert numbers(found, "last, joint", "lamm", "average")["difference"] == pytest.approx(((5 + 0 - 2) / 3 + 5) / 2)
    assert counts(numbers(found, "last, joint", "lamm", "average")) == [4, 1, 1]


def test_the_interval_is_student_s_over_the_pairs_and_the_same_every_time(tmp_path):
    folder = results(tmp_path, {("a", "coop"): [50, 50, 50], ("a", "lamm"): [60, 52, 46]})

    first, second = (numbers(compare([folder]), "last, joint", "lamm", "a") for _ in range(2))

    each = np.array([5, 1, -2])  # half of the counts' differences: one of two sets differs
    half = 4.302653 * each.std(ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom at 97.5 %
    assert first == second
    assert (first["low"], first["high"]) == pytest.approx((each.mean() - half, each.mean() + half))
    assert first["pairs"] == 3


def test_the_interval_of_the_average_is_that_of_the_seeds_averages_over_the_datasets(tmp_path):
    last = {("a", "coop"): [50] * 3, ("a", "lamm"): [60, 56, 50], ("b", "coop"): [50] * 3, ("b", "lamm"): [50, 52, 60]}

    found = numbers(compare([results(tmp_path, last)]), "last, joint", "lamm", "average")

    each = np.array([2.5, 2, 2.5])  # and not six differences
    half = 4.302653 * each.std(ddof=1) / np.sqrt(3)
    assert (found["low"], found["high"]) == pytest.approx((each.mean() - half, each.mean() + half))
    assert found["pairs"] == 3


def test_p_are_corrected_over_the_comparisons_of_their_table(tmp_path):
    last = {("a", "coop"): [50, 50, 50], ("a", "lamm"): [60, 52, 46], ("a", "maple"): [58, 60, 64]}
    both, alone = results(tmp_path / "both", last), results(tmp_path / "alone", dict([*last.items()][::2]))

    corrected, single = (numbers(compare([f], "coop"), "last, joint", "maple", "a")["p (Holm)"] for f in (both, alone))

    assert corrected == pytest.approx(2 * single)
    table, _ = table_of(compare([both], "coop"), "last, joint", "maple", "a")
    assert "Holm's correction over the 2 comparisons of this table" in table.title


def test_who_is_better_is_named_only_where_that_is_shown(tmp_path):
    last = {("a", "coop"): [50, 50, 50], ("a", "lamm"): [60, 52, 46], ("a", "maple"): [70, 71, 70], ("a", "comma"): [10, 9, 10]}

    table, _ = table_of(compare([results(tmp_path, last)], "coop"), "last, joint", "lamm", "a")

    assert table.notes[:3] == (
        "better than CoOp: MaPLe on a (+10.17)",
        "worse than CoOp: comma on a (−20.17)",
        "no difference shown: LAMM on a",
    )


def test_a_difference_that_the_interval_alone_would_show_is_none_among_many_comparisons(tmp_path):
    rng = np.random.default_rng(0)
    last = {("a", "coop"): [50] * 3, ("a", "lamm"): [53, 54, 55]}
    last |= {("a", f"other {i}"): [int(n) for n in rng.integers(40, 60, 3)] for i in range(9)}

    found = compare([results(tmp_path, last)], "coop")

    assert numbers(found, "last, joint", "lamm", "a")["low"] > 0
    table, _ = table_of(found, "last, joint", "lamm", "a")
    (alike,) = (note for note in table.notes if note.startswith("no difference shown"))
    assert "LAMM on a" in alike and not any(note.startswith("better") for note in table.notes)


def test_below_five_pairs_the_text_says_what_it_rests_on(tmp_path):
    rng = np.random.default_rng(0)

    def rests(seeds):
        last = {("a", m): [int(n) for n in rng.integers(40, 60, seeds)] for m in ("coop", "lamm")}
        folder = results(tmp_path / str(seeds), last, seeds=range(1, seeds + 1))
        return [note for table in compare([folder]).tables for note in table.notes if note.startswith("rests on")]

    assert {*rests(3)} == {"rests on 3 pairs, one a seed: with fewer than 5 an interval holds only if differences are normal"}
    assert rests(5) == []


def test_one_seed_has_a_difference_but_no_interval(tmp_path):
    found = compare([results(tmp_path, {("a", "coop"): [50], ("a", "lamm"): [60]})])

    one = numbers(found, "last, joint", "lamm", "a")
    assert one["difference"] == 5
    assert np.isnan([one["low"], one["high"], one["p (Holm)"]]).all()
    assert "(1/3 seeds)" in to_markdown(found.tables)
    assert "no difference shown: LAMM on a" in to_markdown(found.tables)


def test_only_seeds_that_both_have_finished_are_paired(tmp_path):
    found = compare([results(tmp_path, {("a", "coop"): [50, 50], ("a", "lamm"): [60, 60, 99]})])

    assert numbers(found, "last, joint", "lamm", "a")["difference"] == 5


def test_the_baseline_can_be_any_method_and_a_wrong_one_is_refused_with_the_nearest(tmp_path):
    folder = results(tmp_path, {("a", "coop"): [50] * 3, ("a", "lamm"): [60] * 3})

    assert numbers(compare([folder], "lamm"), "last, joint", "coop", "a")["difference"] == -5
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

    assert numbers(found, "last, joint", "coop", "a")["difference"] == 1
    assert counts(numbers(found, "last, joint", "lamm", "a")) == [0, 3, 0]
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
