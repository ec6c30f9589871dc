"""Bounds: the same method on all classes at once, shown beside the others and ranked with none."""

from dataclasses import replace

import numpy as np
import pytest
import toy
from fake_records import record, write

from lamm_cl.cli import doors
from lamm_cl.config.identity import content_hash
from lamm_cl.errors import UserError
from lamm_cl.reports import figures
from lamm_cl.reports.builders import tables
from lamm_cl.reports.derived import derived_files
from lamm_cl.reports.page.page import groups
from lamm_cl.reports.renderers import to_csv, to_markdown
from lamm_cl.reports.table import BOUND
from lamm_cl.results.runs import records_in, runs_in
from lamm_cl.sweeping.execute import Settings, execute
from lamm_cl.sweeping.plan import plan, unfinished
from lamm_cl.sweeping.verify import problems, recompute, runs


def bounded(results, correct: int = 180, seeds=(1, 2, 3)):
    """Records of coop and lamm in two experiences, and of coop's bound with so many and the seed of 200 images correct."""
    stream = [record([[10, 10], [60 + s, 10], [50, 70]], [[0, 0], [60, 0], [40, 50 + s]], method=m, seed=s)
              for m in ("coop", "lamm") for s in seeds]  # fmt: skip
    beside = [record([[20], [correct]], [[0], [correct + s]], method="coop@joint", seed=s, total=200) for s in seeds]
    all_at_once = {name: getattr(stream[0].dataset, name) for name in ("classes", "order", "test_per_class")}
    data = replace(beside[0].dataset, experiences=(2,), **all_at_once)
    beside = [replace(one, card=stream[0].card, dataset=data) for one in beside]
    return write(results, stream + beside)


def test_a_bound_is_a_run_more_for_each_method_that_learns_and_moves_no_hash(tmp_path):
    without, with_it = toy.scenario(methods=["zero-shot", "coop"]), toy.scenario(methods=["zero-shot", "coop"], bounds=["joint"])

    planned = plan(with_it, tmp_path)

    assert [run.method for run in planned] == ["zero-shot", "coop", "coop@joint"]
    assert [run.stream.experiences for run in planned] == ["halves", "halves", 1]
    assert planned[1].card == planned[2].card
    assert planned[:2] == [replace(run, scenario=with_it) for run in plan(without, tmp_path)]
    assert content_hash(without) == content_hash(with_it)


def test_a_bound_learns_all_classes_at_once_and_is_kept_verified_and_recomputed(tmp_path):
    scenario = toy.scenario(methods=["coop"], bounds=["joint"])
    settings = Settings(data_root=None, cache=tmp_path / "cache", device="cpu", jobs=1)
    planned = plan(scenario, tmp_path)

    failures = execute(list(reversed(planned)), settings, lambda event: None, train=toy.train, publish=doors.publish)

    assert failures == [] and unfinished(planned) == []
    results = tmp_path / "toy"
    found = {one.run.method: one for one in records_in(results)}
    assert found["coop@joint"].dataset.experiences == (7,) and found["coop"].dataset.experiences == (4, 3)
    assert problems(results, doors.derived) == []
    path = runs(results)["toy/coop@joint/shots4-seed1"]
    assert recompute(path, settings, lambda event: None, toy.train) == ""


def test_tables_show_a_bounds_last_accuracy_beside_and_never_rank_it(tmp_path):
    results = bounded(tmp_path)

    (table,) = tables([results], "incremental")

    rows = {line.labels[-1].shown: line for line in table.lines if line.labels[1].key == "joint"}
    last = [column.key for column in table.columns].index("last")
    bound = rows["CoOp (joint)"].numbers
    assert rows["CoOp (joint)"].origin == BOUND
    assert bound[last].mean == pytest.approx(91) and bound[last].seeds == 3
    assert all(np.isnan(number.mean) for i, number in enumerate(bound) if i != last)
    assert all(number.rank == 0 for number in bound)
    assert {rows[name].numbers[last].rank for name in ("CoOp", "LAMM")} == {1}  # equal, and not second to the bound
    assert "coop@joint" in to_csv([table]) and "CoOp (joint)" in to_markdown([table])
    assert runs_in(results)[0].methods == ("coop", "lamm")


def test_other_tables_are_those_without_bounds(tmp_path):
    bounded(tmp_path / "with")
    with_them = derived_files(tmp_path / "with")
    stream = [one for one in records_in(tmp_path / "with") if not one.bound]
    without = derived_files(write(tmp_path / "without", stream))

    differ = {name for name in without if without[name] != with_them[name]}
    assert differ == {"records.csv", *(f"tables/incremental{end}" for end in (".csv", "_std.csv", ".md", ".tex"))}


def test_bounds_alone_are_no_table_but_no_crash_either(tmp_path):
    results = write(tmp_path, [one for one in records_in(bounded(tmp_path / "all")) if one.bound])

    assert list(derived_files(results)) == ["records.csv"]
    with pytest.raises(UserError, match="no finished run but bounds"):
        runs_in(results)


def test_a_bound_is_a_thin_line_at_one_height_across_the_incremental_curves(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "draw_bound", lambda axes, curve, value, T: drawn.append((curve.method, value[-1], T)))

    figures.plot_incremental([bounded(tmp_path)], tmp_path / "curves")

    assert drawn == [("coop", pytest.approx(91), 2)]


def test_the_page_draws_the_bounds_beside_the_methods_that_have_them(tmp_path):
    folder = bounded(tmp_path)

    (group,) = groups([runs_in(folder)], [folder])

    at = [method["key"] for method in group["methods"]].index("coop")
    assert group["bounds"][0][at] == {"1": 90.5, "2": 91.0, "3": 91.5} and group["bounds"][0][1 - at] == {}
