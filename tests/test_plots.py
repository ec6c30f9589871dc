"""Figures: what they hold, that they never change, and that they survive any records."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fake_records import record, write
from PIL import Image

from lamm_cl.errors import UserError
from lamm_cl.reports import figures as figures_module
from lamm_cl.reports.curves import curves_of
from lamm_cl.reports.figures import (
    FIGURES,
    plot_class_drops,
    plot_cost,
    plot_critical_difference,
    plot_few_shot,
    plot_forgetting,
    plot_incremental,
    plot_matrix,
)
from lamm_cl.results.record import ModelFacts
from lamm_cl.results.runs import Unfit, runs_in

OWN = np.array([[50, 40], [90, 35], [70, 80]])


def results(folder, T=2, datasets=("rare",), methods=("coop", "lamm"), **options):
    rng = np.random.default_rng(0)
    own = OWN if T == 2 else rng.integers(20, 90, (T + 1, T))
    return write(
        folder,
        [record(own + s, dataset=d, method=m, seed=s, **options) for d in datasets for m in methods for s in (1, 2, 3)],
    )


@pytest.fixture
def figures(monkeypatch):
    """The matplotlib figures that would have been saved."""
    found = []
    monkeypatch.setattr(figures_module, "save_figure", lambda figure, stem: found.append(figure))
    return found


def panels(figure):
    return [axes for axes in figure.axes if axes.has_data()]


def test_a_forgetting_curve_is_the_mean_over_seeds_after_0_to_T_experiences(tmp_path, figures):
    plot_forgetting([results(tmp_path / "demo")], tmp_path / "curves")

    set1, set2 = panels(figures[0])
    coop = set1.lines[0]

    assert coop.get_xdata().tolist() == [0, 1, 2]
    assert coop.get_ydata().tolist() == [52, 92, 72]  # the counts of 100 images, and the mean of seeds 1, 2, 3
    assert set2.lines[0].get_ydata().tolist() == [42, 37, 82]
    assert set1.get_ylabel() == "accuracy on\nSet 1 (%)" and set2.get_xlabel() == "experiences learned"
    assert [text.get_text() for text in set1.texts] == ["−20.0", "−20.0"]  # the drop, readable at a glance


def test_figures_are_png_of_200_dpi_or_more_and_svg_and_the_same_bytes_when_drawn_again(tmp_path):
    folder = results(tmp_path / "demo")
    for draw in (plot_forgetting, plot_incremental, plot_matrix, plot_few_shot, plot_cost):
        first = [path.read_bytes() for path in draw([folder], tmp_path / "first")]
        second = draw([folder], tmp_path / "second")

        assert [path.suffix for path in second] == [".png", ".svg", ".pdf"]
        assert [path.read_bytes() for path in second] == first
        with Image.open(second[0]) as image:
            assert image.info["dpi"][0] >= 200


def test_many_experiences_share_two_rows_and_the_joint_label_space_has_no_row_of_single_points(tmp_path, figures):
    plot_forgetting([results(tmp_path / "long", T=50)], tmp_path / "long")
    plot_forgetting([tmp_path / "long"], tmp_path / "long_joint", "joint")
    plot_forgetting([results(tmp_path / "two")], tmp_path / "joint", "joint")

    for figure in figures:
        names = [axes.get_ylabel() for axes in panels(figure)]
        assert names == ["accuracy on\nSet 1 (%)", "accuracy on all\nsets learned (%)"]


def test_the_average_over_datasets_has_a_panel_of_its_own(tmp_path, figures):
    plot_forgetting([results(tmp_path / "demo", datasets=("a", "b"))], tmp_path / "curves")

    assert [axes.get_title() for axes in panels(figures[0]) if axes.get_title()] == ["a", "b", "average"]


def test_a_method_keeps_its_colour_and_marker_whoever_is_beside_it(tmp_path):
    alone = runs_in(results(tmp_path / "alone", methods=("lamm",)))
    among = runs_in(results(tmp_path / "among", methods=("my-own", "lamm", "coop", "zero-shot")))

    styles = {curve.method: (curve.colour, curve.marker, str(curve.dashes)) for curve in curves_of(among)}

    assert [(c.colour, c.marker, str(c.dashes)) for c in curves_of(alone)] == [styles["lamm"]]
    assert len({colour for colour, *_ in styles.values()}) == len({marker for _, marker, _ in styles.values()}) == 4


def test_results_folders_are_told_apart_by_dashes_and_named_in_the_legend(tmp_path, figures):
    folders = [results(tmp_path / "one", name="one"), results(tmp_path / "two", name="two")]

    plot_forgetting(folders, tmp_path / "both")

    (legend,) = figures[0].legends
    lines = panels(figures[0])[0].lines
    assert [t.get_text() for t in legend.get_texts()] == ["CoOp", "LAMM", "one", "two", "set not yet learned"]
    assert [line.get_linestyle() for line in lines] == ["-", "--", "-", "--"]


def test_the_legend_covers_no_panel(tmp_path, figures):
    methods = [f"method {i} {'with a long name ' * 4}" for i in range(9)]
    plot_forgetting([results(tmp_path / "demo", methods=methods, datasets="abcdefg")], tmp_path / "curves")

    figure = figures[0]
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert legend.y0 >= 0 and legend.x0 >= 0 and legend.x1 <= figure.bbox.x1
    assert not any(axes.get_tightbbox().overlaps(legend) for axes in panels(figure))


def test_a_matrix_has_a_number_in_every_defined_cell(tmp_path, figures):
    plot_matrix([results(tmp_path / "demo")], tmp_path / "matrix", "joint")

    texts = [text.get_text() for text in panels(figures[0])[0].texts]
    assert texts == [f"{n:.1f}" for n in (np.mean([45, 46, 46]), np.mean([35, 36, 36]), np.mean([40, 41, 41]))]


TENTHS, WHOLE = "{:.1f}", "{:.0f}"


@pytest.mark.parametrize(("T", "datasets", "text"), [(2, 4, TENTHS), (10, 1, WHOLE), (10, 4, WHOLE), (20, 1, WHOLE), (50, 2, "")])
def test_numbers_stand_in_cells_where_they_fit(tmp_path, figures, T, datasets, text):
    folder = results(tmp_path / "demo", T, [f"d{i}" for i in range(datasets)], ["lamm"])

    plot_matrix([folder], tmp_path / "matrix")

    figure = figures[0]
    figure.draw_without_rendering()
    panel = panels(figure)[0]
    written = [each for each in panel.texts if each.get_text()]
    assert len(written) == (T * (T + 1) if text else 0)
    if text:
        R = np.mean([one.accuracy("own") for one in runs_in(folder)[0].records["d0", "lamm"].values()], axis=0)
        assert [each.get_text() for each in written] == [text.format(value) for value in R.flat]
        cell = panel.get_window_extent().width / T
        assert max(each.get_window_extent().width for each in written) <= cell


def test_the_colours_of_matrices_reach_as_far_as_the_accuracies_and_methods_of_one_dataset_stand_side_by_side(tmp_path, figures):
    own = np.full((3, 2), 71) + np.array([[0, 1], [12, 3], [20, 4]])
    runs = [record(own, method=m, seed=s) for m in ("coop", "lamm", "maple") for s in (1, 2, 3)]

    plot_matrix([write(tmp_path / "demo", runs)], tmp_path / "matrix")

    *matrices, _ = panels(figures[0])
    assert {axes.images[0].get_clim() for axes in matrices} == {(70, 100)}
    assert len({round(axes.get_window_extent().y0) for axes in matrices}) == 1
    assert [axes.get_title() for axes in matrices] == ["CoOp", "MaPLe", "LAMM"]


def test_no_axis_of_accuracies_leaves_0_to_100(tmp_path, figures):
    high, low = (record(np.full((3, 2), n), np.full((3, 2), n), dataset=d, seed=1) for n, d in ((100, "a"), (0, "b")))
    folder = write(tmp_path / "demo", [high, low])

    for draw in (plot_forgetting, plot_incremental, plot_cost):
        draw([folder], tmp_path / "figure")

    limits = [axes.get_ylim() for figure in figures for axes in panels(figure)]
    assert all(0 <= bottom < top <= 100 for bottom, top in limits)


def test_a_missing_run_is_a_hatched_matrix_and_leaves_the_others_whole(tmp_path, figures):
    runs = [record(OWN, dataset="a", method="coop"), record(OWN, dataset="b", method="lamm")]

    plot_matrix([write(tmp_path / "demo", runs)], tmp_path / "matrix")

    coop_a, coop_b, lamm_a, lamm_b = panels(figures[0])[:4]
    assert [len(axes.texts) for axes in (coop_a, coop_b, lamm_a, lamm_b)] == [6, 0, 0, 6]
    assert coop_a.get_ylim() == (2.5, -0.5) and coop_a.get_xlim() == (-0.5, 1.5)


def test_few_shot_curves_put_the_number_of_shots_on_the_axis(tmp_path, figures):
    folder = write(tmp_path / "demo", [record(OWN, shots=k, seed=s) for k in ("full", 4, 1) for s in (1, 2)])

    plot_few_shot([folder], tmp_path / "few")

    (panel,) = panels(figures[0])
    assert [label.get_text() for label in panel.get_xticklabels()] == ["1", "4", "full"]
    assert panel.lines[0].get_ydata().tolist() == [37.5] * 3  # (35 + 40) of 200


def test_a_method_run_with_few_shots_only_has_its_few_shot_curve(tmp_path, figures):
    folder = write(tmp_path / "demo", [record(OWN, shots=16), record(OWN, shots=1), record(OWN, method="lamm", shots=1)])

    plot_few_shot([folder], tmp_path / "few")

    assert [len(line.get_xdata()) for line in panels(figures[0])[0].lines if line.get_marker() != "None"] == [2, 1]


def with_classes(one, *sizes):
    """The record with so many classes in its experiences."""
    c = sum(sizes)
    facts = {"classes": tuple(f"class {i}" for i in range(c)), "order": tuple(range(c)), "test_per_class": (1,) * c}
    return replace(one, dataset=replace(one.dataset, experiences=sizes, **facts))


def test_chance_is_drawn_in_curves_where_it_is_in_view_and_told_where_it_is_not(tmp_path, figures):
    low = [[20, 10], [45, 15], [30, 40]]
    folder = write(tmp_path / "low", [with_classes(record(low, [[0, 0], [26, 0], [12, 5]], seed=s), 4, 8) for s in (1, 2)])
    high = write(tmp_path / "high", [with_classes(record(OWN + s), 4, 8) for s in (9,)])

    for draw in (plot_forgetting, plot_incremental, plot_few_shot):
        draw([folder], tmp_path / "figure")
    plot_forgetting([high], tmp_path / "figure")

    def guessed(panel):
        return [line.get_ydata().tolist() for line in panel.lines if line.get_marker() == "None"]

    own, joint, few, out_of_view = figures
    assert [guessed(panel) for panel in panels(own)] == [[[25] * 3], [[12.5] * 3]]
    assert guessed(panels(joint)[0]) == [[25, pytest.approx(100 / 12)]]
    assert guessed(panels(few)[0]) == [[pytest.approx(100 / 12)]]
    assert "chance" in [text.get_text() for text in own.legends[0].get_texts()]
    assert not any(guessed(panel) for panel in panels(out_of_view))
    assert "chance 25.0 % ↓" in [text.get_text() for text in panels(out_of_view)[0].texts]


def ranked(folder, datasets, **scores):
    """A results folder of methods with these joint counts of Set 1 in the end, on so many datasets."""
    return write(
        folder,
        [
            record(OWN, [[0, 0], [60, 0], [n + i % 3, 40]], dataset=f"d{i}", method=m)
            for i in range(datasets)
            for m, n in scores.items()
        ],
    )


def test_a_critical_difference_figure_has_the_average_ranks_and_bars_over_what_is_not_told_apart(tmp_path, figures):
    plot_critical_difference([ranked(tmp_path / "demo", 12, coop=20, maple=40, lamm=60, comma=80)], tmp_path / "ranks")

    (axes,) = figures[0].axes
    texts = [text.get_text() for text in axes.texts]
    assert texts[:4] == ["comma  1.00", "LAMM  2.00", "MaPLe  3.00", "CoOp  4.00"] and texts[4] == "critical difference 1.35"
    bars = [line.get_xdata().tolist() for line in axes.lines if line.get_linewidth() == 2.2]
    assert bars == [pytest.approx([x - 0.03, x + 1.03]) for x in (1, 2, 3)]
    assert "comma before MaPLe, CoOp; LAMM before CoOp" in figures[0].get_supxlabel()


def test_a_critical_difference_figure_of_few_datasets_says_that_none_is_shown(tmp_path, figures):
    plot_critical_difference([ranked(tmp_path / "demo", 2, coop=20, maple=40, lamm=60)], tmp_path / "ranks")

    note = " ".join(figures[0].get_supxlabel().split())
    assert "no difference shown: 2 datasets" in note and "3 methods could not differ on so few" in note


@pytest.mark.parametrize(("datasets", "methods"), [(1, ("coop", "maple", "lamm")), (4, ("coop", "lamm"))])
def test_a_critical_difference_figure_of_one_dataset_or_two_methods_is_refused(tmp_path, datasets, methods):
    folder = ranked(tmp_path / "demo", datasets, **dict.fromkeys(methods, 50))

    with pytest.raises(Unfit, match=f"critical-difference: needs at least 2 datasets and 3 methods.*here are {datasets} and "):
        plot_critical_difference([folder], tmp_path / "ranks")


def test_a_method_without_a_dataset_is_not_ranked_and_told(tmp_path, figures):
    runs = ranked(tmp_path / "demo", 3, coop=20, maple=40, lamm=60, comma=70)
    for path in runs.rglob("record.json"):
        if '"dataset": "d2", "method": "comma"' in path.read_text():
            path.unlink()

    plot_critical_difference([runs], tmp_path / "ranks")

    assert "not on every dataset: comma" in " ".join(figures[0].get_supxlabel().split())
    assert not any("comma" in text.get_text() for text in figures[0].axes[0].texts)


def test_numbers_of_shots_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(UserError, match="no runs with 4 shots; there are 16"):
        plot_forgetting([results(tmp_path / "demo")], tmp_path / "curves", shots=4)


def test_names_of_any_kind_a_missing_run_and_one_experience_can_be_drawn(tmp_path):
    weird = '$x_1$ & <b>"\n\x00' + "y" * 80
    one = record([[50], [80]], dataset=weird, method=weird)
    folder = write(tmp_path / "demo", [one, record([[50], [80]], dataset="b", method="coop")])

    for draw in (plot_forgetting, plot_incremental, plot_matrix, plot_few_shot, plot_cost):
        _, svg, _ = draw([folder], tmp_path / draw.__name__)
        assert ElementTree.parse(svg).getroot().tag.endswith("svg")


def test_incremental_curves_show_the_joint_accuracy_on_all_classes_learned_so_far(tmp_path, figures):
    plot_incremental([results(tmp_path / "demo")], tmp_path / "learned")

    (panel,) = panels(figures[0])
    assert panel.lines[0].get_xdata().tolist() == [1, 2]
    # joint counts of 100 are half of own: seeds 1, 2, 3 have 45, 46, 46 and (35 + 40, 36 + 41, 36 + 41) of 200
    assert panel.lines[0].get_ydata() == pytest.approx([np.mean([45, 46, 46]), np.mean([75, 77, 77]) / 2])


def per_class(seed, learned, now, **options):
    """A record of three classes in two experiences (two, one), ten images each, that counts its classes."""
    counts = {(0, 1): (0, 0), (1, 1): learned, (2, 1): now, (0, 2): (0,), (1, 2): (0,), (2, 2): (5,)}
    one = record([[sum(counts[i, j]) for j in (1, 2)] for i in range(3)], seed=seed, total=(20, 10), **options)
    one = replace(one, counts=tuple(c for c in one.counts if c.label_space == "own"))
    facts = {"classes": ("ant", "bee", "cat"), "order": (0, 1, 2), "experiences": (2, 1), "test_per_class": (10, 10, 10)}
    kept = tuple(replace(c, correct_per_class=counts[c.trained, c.tested]) for c in one.counts)
    return replace(one, dataset=replace(one.dataset, **facts), counts=kept)


def test_class_drops_are_the_points_lost_since_learned_most_on_top_mean_over_seeds(tmp_path, figures):
    runs = [per_class(1, (8, 9), (7, 3)), per_class(2, (8, 9), (8, 5)), per_class(1, (5, 5), (5, 5), method="lamm")]

    plot_class_drops([write(tmp_path / "demo", runs)], tmp_path / "drops")

    (panel,) = panels(figures[0])
    assert [label.get_text() for label in panel.get_yticklabels()] == ["bee", "ant"]  # cat came last: it cannot lose
    points = sorted((line.get_ydata()[0], line.get_xdata()[0]) for line in panel.lines if line.get_marker() != "None")
    assert points == [(-1, 0), (-1, 5), (0, 0), (0, 50)]


def test_class_drops_of_records_without_counts_per_class_are_refused(tmp_path):
    with pytest.raises(Unfit, match="class-drops: no counts per class"):
        plot_class_drops([results(tmp_path / "demo")], tmp_path / "drops")


def test_accuracy_is_drawn_against_parameters_and_seconds_also_of_a_method_that_learns_nothing(tmp_path, figures):
    free = replace(record(OWN, method="zero-shot"), model=ModelFacts((0, 0), None))

    plot_cost([write(tmp_path / "demo", [free, record(OWN)])], tmp_path / "cost")

    parameters, seconds = panels(figures[0])
    assert [line.get_xdata().tolist() for line in parameters.lines if line.get_marker() != "None"] == [[0], [2048]]
    assert [line.get_ydata().tolist() for line in seconds.lines if line.get_marker() != "None"] == [[37.5], [37.5]]


def test_the_figure_of_cost_shows_multiply_adds_where_all_counted_them_else_seconds_and_how_busy_the_machine_was(
    tmp_path, figures
):
    one = record(OWN)
    counted = replace(one, measured=replace(one.measured, work={"multiply-adds": 5000}, load=0.5))
    other = replace(counted, run=replace(one.run, method="lamm"), measured=replace(counted.measured, work=None, load=1.25))

    for name, runs in (("all", [counted]), ("some", [counted, other]), ("none", [one])):
        plot_cost([write(tmp_path / name, runs)], tmp_path / "cost")

    names = [panels(figure)[1].get_xlabel() for figure in figures]
    busy = ("machine 50 to 125 % busy", "machine busy as not recorded")
    assert names == ["multiply-adds a run", *(f"seconds a run\n{text}" for text in busy)]
    assert [line.get_xdata().tolist() for line in panels(figures[0])[1].lines if line.get_marker() != "None"] == [[5000]]


def test_a_scenario_that_was_scored_in_one_label_space_only_is_drawn_in_that_one(tmp_path, figures):
    one = record(OWN)
    for space in ("own", "joint"):
        kept = tuple(count for count in one.counts if count.label_space == space)
        folder = write(tmp_path / space, [replace(one, counts=kept)])
        for kind in ("forgetting", "incremental", "matrix", "cost", "few-shot"):
            draw, stem = FIGURES[kind]
            draw([folder], tmp_path / stem)

    assert len(figures) == 10


def test_drawing_leaves_matplotlib_s_settings_alone_and_pyplot_unused(tmp_path):
    before = dict(matplotlib.rcParams)

    plot_matrix([results(tmp_path / "demo")], tmp_path / "matrix")

    assert dict(matplotlib.rcParams) == before
    assert "pyplot" not in Path(figures_module.__file__).read_text().replace("without pyplot", "")
