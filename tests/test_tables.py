"""Every number of every table equals its recomputation from records.csv, in plain loops, whatever the records."""

import csv
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fake_records import record, write

from lamm_cl.reports import builders
from lamm_cl.reports.builders import fitting
from lamm_cl.reports.derived import write_tables
from lamm_cl.reports.renderers import to_csv
from lamm_cl.results.csv import write_records_csv
from lamm_cl.results.runs import Unfit, runs_in

WEIRD = ['a & b_c <i>"q"\n' + "y" * 80, "=1+1", "plain"]
CASES = {  # name -> T, datasets, methods, shots
    "two experiences": (2, ["rare", "compo"], ["coop", "lamm"], [16]),
    "twenty experiences": (20, ["rare", "compo"], ["coop", "lamm"], [16]),
    "one experience": (1, ["rare", "compo"], ["coop", "lamm"], [1, 4, "full"]),
    "one dataset": (3, ["rare"], ["coop", "lamm"], [16]),
    "forty datasets": (2, [f"d{i}" for i in range(40)], ["coop", "lamm"], [16]),
    "names of any kind": (2, WEIRD, WEIRD, [16]),
}


@pytest.fixture(params=CASES)
def results(request, tmp_path):
    """A results folder with ties and, of the last method on the first dataset, a missing seed; and its records.csv."""
    T, datasets, methods, shots = CASES[request.param]
    rng = np.random.default_rng(0)
    totals = [1 + 7 * j for j in range(T)]
    runs = [
        record(
            *([[rng.integers(0, n + 1) for n in totals] for _ in range(T + 1)] for _ in range(2)),
            **{"dataset": d, "method": m, "seed": s, "shots": k, "total": totals},
            **{"datasets": datasets, "methods": methods},
        )
        for k in shots
        for d in datasets
        for m in methods
        for s in (1, 2, 3)
        if (d, m, s) != (datasets[0], methods[-1], 2)
    ]
    write(tmp_path, runs)
    rows = pd.read_csv(write_records_csv(tmp_path), keep_default_na=False, dtype=str)
    for column in ("dataset", "method"):
        rows[column] = rows[column].str.removeprefix("'")
    return tmp_path, rows, (T, datasets, methods, [str(k) for k in shots])


def matrices(rows):
    """(dataset, method, shots, seed, space) -> (R as a dict (i, j) -> %, the number of test images of each j)."""
    found = {}
    for row in rows.itertuples():
        key = (row.dataset, row.method, row.shots, int(row.seed), row.label_space)
        R, total = found.setdefault(key, ({}, {}))
        total[int(row.tested)] = int(row.total)
        if row.correct:
            R[int(row.trained), int(row.tested)] = 100 * int(row.correct) / int(row.total)
    return found


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def learned(R, total, i):
    return sum(R[i, j] * total[j] for j in range(1, i + 1)) / sum(total[j] for j in range(1, i + 1))


def last(R, total):
    return learned(R, total, len(total))


def lost(R, total):
    return mean(R[len(total), j] - R[j, j] for j in range(1, len(total)))


def forgotten(R, total):
    T = len(total)
    return mean(max(R[i, j] for i in range(j, T)) - R[T, j] for j in range(1, T))


def retained(R, total):
    pairs = [(i, j) for j in range(2, len(total) + 1) for i in range(1, j)]
    return mean(R[i, j] - R[0, j] for i, j in pairs) if all(p in R for p in pairs) else float("nan")


def incremental(R, total):
    return mean(learned(R, total, i) for i in range(1, len(total) + 1))


INCREMENTAL = {
    **{"average incremental": incremental, "last": last, "forgetting": forgotten},
    **{"backward transfer": lost, "zero-shot retention": retained},
}


class Oracle:
    def __init__(self, rows, datasets):
        self.runs, self.datasets = matrices(rows), datasets

    def seeds(self, place, method, shots, space, metric):
        """seed -> value, on a dataset or (over seeds finished on all) averaged."""
        if place != "average":
            keys = [(place, method, shots, s, space) for s in (1, 2, 3)]
            return {key[3]: metric(*self.runs[key]) for key in keys if key in self.runs}
        each = [self.seeds(d, method, shots, space, metric) for d in self.datasets]
        return {s: mean(values[s] for values in each) for s in (1, 2, 3) if all(s in values for values in each)}


def cells(folder, kind):
    """(value kind) -> rows of the CSV, of all tables of a kind."""
    shown = builders.tables([folder], kind)
    return {value: [*csv.DictReader(io.StringIO(to_csv(shown, value)))] for value in ("mean", "std", "seeds")}


def check(folder, kind, expected):
    """Compare every cell with `expected(row, column) -> seed -> value`, or None for a cell that is no mean of seeds."""
    found, checked = cells(folder, kind), 0
    heads = {"shots", "method", "set", "dataset", "label space"}
    for i, row in enumerate(found["mean"]):
        names = {k: v.removeprefix("'") if v[:2] == "'=" else v for k, v in row.items() if k in heads}
        for column in (column for column in row if column not in heads):
            values = expected(names, column.removeprefix("'") if column[:2] == "'=" else column)
            values = [*values.values()]
            wanted = mean(values)
            assert float(row[column] or "nan") == pytest.approx(wanted, abs=0.00501, nan_ok=True), (names, column)
            std = np.std(values, ddof=1) if len(values) > 1 else float("nan")
            assert float(found["std"][i][column] or "nan") == pytest.approx(std, abs=0.00501, nan_ok=True)
            assert int(found["seeds"][i][column]) == len(values)
            checked += 1
    assert checked


def test_degradation_equals_its_recomputation(results):
    folder, rows, (T, datasets, methods, shots) = results
    oracle = Oracle(rows, datasets)

    def expected(row, column):
        k, j = row.get("shots", shots[0]), int(row["set"])
        if column == "degradation":
            return oracle.seeds("average", row["method"], k, "own", lost)
        return oracle.seeds(column, row["method"], k, "own", lambda R, total: R[T, j])

    check(folder, "degradation", expected)


def test_degradation_per_dataset_equals_its_recomputation(results):
    folder, rows, (T, datasets, methods, shots) = results
    oracle = Oracle(rows, datasets)
    check(
        folder,
        "degradation-per-dataset",
        lambda row, column: oracle.seeds(column, row["method"], row.get("shots", shots[0]), "own", lost),
    )


def test_the_incremental_metrics_equal_their_recomputation_in_both_label_spaces(results):
    folder, rows, (T, datasets, methods, shots) = results
    oracle = Oracle(rows, datasets)

    def expected(row, column):
        k = row.get("shots", shots[0])
        return oracle.seeds(row["dataset"], row["method"], k, row["label space"], INCREMENTAL[column])

    check(folder, "incremental", expected)


def test_ablation_equals_its_recomputation_and_its_last_column_the_difference_seed_by_seed(results):
    folder, rows, (T, datasets, methods, shots) = results
    oracle = Oracle(rows, datasets)

    def expected(row, column):
        k = row.get("shots", shots[0])
        if not column.startswith("minus "):
            return oracle.seeds(column, row["method"], k, "joint", last)
        ours, first = (oracle.seeds("average", m, k, "joint", last) for m in (row["method"], methods[0]))
        return {s: ours[s] - first[s] for s in ours if s in first}

    check(folder, "ablation", expected)


def test_few_shot_equals_its_recomputation(results):
    folder, rows, (T, datasets, methods, shots) = results
    oracle = Oracle(rows, datasets)
    check(
        folder,
        "few-shot",
        lambda row, column: oracle.seeds(row["dataset"], row["method"], column, "joint", last),
    )


def test_base_to_new_equals_its_recomputation_where_there_are_two_experiences(results):
    folder, rows, (T, datasets, methods, shots) = results
    if T != 2:
        with pytest.raises(Unfit, match="needs 2 experiences"):
            builders.tables([folder], "base-to-new")
        return
    oracle = Oracle(rows, datasets)

    for row in cells(folder, "base-to-new")["mean"]:
        dataset, method = (row[k].removeprefix("'") if row[k][:2] == "'=" else row[k] for k in ("dataset", "method"))
        base, new = (mean(oracle.seeds(dataset, method, shots[0], "own", lambda R, total, j=j: R[1, j]).values()) for j in (1, 2))
        assert [float(row["base"]), float(row["new"])] == pytest.approx([base, new], abs=0.00501)
        both = 2 * base * new / (base + new) if base + new else 0
        assert float(row["harmonic mean"]) == pytest.approx(both, abs=0.00501)


def test_chance_is_a_row_that_does_not_compete_and_stands_in_no_csv(tmp_path):
    """100 / classes of the experience in the own label space, 100 / classes seen in the joint one."""
    for dataset, sizes in (("a", (2, 8)), ("b", (4, 4))):
        one = record([[50, 5], [90, 50], [70, 80]], dataset=dataset, seeds=[1])
        c = sum(sizes)
        facts = {"classes": tuple(map(str, range(c))), "order": tuple(range(c)), "test_per_class": (1,) * c}
        write(tmp_path / dataset, [replace(one, dataset=replace(one.dataset, experiences=sizes, **facts))])
        (tmp_path / dataset / "runs/dataset0").rename(tmp_path / f"{dataset}0")
    (tmp_path / "all/runs").mkdir(parents=True)
    for dataset in "ab":
        (tmp_path / f"{dataset}0").rename(tmp_path / "all/runs" / dataset)

    def guessed(kind):
        (shown,) = builders.tables([tmp_path / "all"], kind)
        lines = [line for line in shown.lines if line.origin == "chance"]
        assert "chance" not in to_csv([shown]) and all(n.rank == 0 for line in lines for n in line.numbers)
        return {tuple(label.key for label in line.labels): [n.mean for n in line.numbers] for line in lines}

    assert guessed("degradation")["chance", "1"][:3] == [50, 25, 37.5]
    assert guessed("degradation")["chance", "2"][:3] == [12.5, 25, 18.75]
    assert guessed("incremental")["a", "joint", "chance"][:2] == [30, 10]  # 50 of two classes, 10 of ten
    assert guessed("incremental")["average", "joint", "chance"][1] == 11.25
    assert guessed("base-to-new")["a", "chance"] == [50, 12.5, 20]
    assert guessed("ablation")["chance",][:3] == [10, 12.5, 11.25]
    assert guessed("few-shot")["b", "chance"] == [12.5]


def test_average_ranks_equal_their_recomputation_and_name_who_is_before_whom_only_where_that_is_shown(tmp_path):
    methods = {"zero-shot": 30, "coop": 50, "maple": 60, "lamm": 80}
    few, many = ([f"d{i}" for i in range(n)] for n in (2, 12))
    for name, datasets in (("few", few), ("many", many)):
        runs = [
            record([[5, 5], [90, 50], [n + i % 3, 80]], dataset=d, method=m, methods=[*methods], datasets=datasets)
            for i, d in enumerate(datasets)
            for m, n in methods.items()
        ]
        write(tmp_path / name, runs)

    shown = {name: builders.tables([tmp_path / name], "ranks")[0] for name in ("few", "many")}

    assert [row["last, own"] for row in cells(tmp_path / "many", "ranks")["mean"]] == ["4.00", "3.00", "2.00", "1.00"]
    assert shown["few"].notes[0].startswith("last, own: no difference shown: 2 datasets")
    told = "last, own: LAMM before CoOp, Zero-shot CLIP; MaPLe before Zero-shot CLIP: 12 datasets"
    assert shown["many"].notes[0].startswith(told)


@pytest.mark.parametrize(("datasets", "methods"), [(1, 3), (2, 2)])
def test_ranks_of_one_dataset_or_two_methods_are_refused(tmp_path, datasets, methods):
    own = [[5, 5], [9, 5], [7, 8]]
    write(tmp_path, [record(own, dataset=f"d{i}", method=f"m{j}") for i in range(datasets) for j in range(methods)])

    found = f"here are {datasets} and {methods}"
    with pytest.raises(Unfit, match=f"ranks: needs at least 2 datasets and 3 methods finished on all of them; {found}"):
        builders.tables([tmp_path], "ranks")


def test_cost_equals_what_the_records_measured(tmp_path):
    one = record([[5, 5], [9, 5], [7, 8]])
    two = replace(one, run=replace(one.run, seed=2), measured=replace(one.measured, seconds={"training": 4.0}))
    write(tmp_path, [one, two])

    (row,) = cells(tmp_path, "cost")["mean"]

    assert (row["seconds"], row["images/s"], row["trainable parameters"]) == ("3.0", "300", "2048")


def test_the_cost_table_tells_work_and_how_busy_the_machine_was_where_records_do(tmp_path):
    one = record([[5, 5], [9, 5], [7, 8]])
    work = {"images encoded": 320, "prompts forward": 40, "prompts backward": 20, "multiply-adds": 5_000_000_000}
    counted = replace(one, measured=replace(one.measured, work=work, load=0.5))
    write(tmp_path / "old", [one])
    write(tmp_path / "new", [counted])

    ((old,), (new,)) = (cells(tmp_path / name, "cost")["mean"] for name in ("old", "new"))
    notes = [note for name in ("old", "new") for note in builders.tables([tmp_path / name], "cost")[0].notes]

    assert (new["images encoded"], new["prompts forward"], new["prompts backward"]) == ("320", "40", "20")
    assert (new["multiply-adds (G)"], new["machine busy (%)"]) == ("5.0", "50")
    assert not {"images encoded", "multiply-adds (G)", "machine busy (%)"} & {*old}
    assert any("machine busy as not recorded" in note for note in notes) and any("machine 50 % busy" in note for note in notes)


def test_domain_generalisation_is_the_source_beside_test_sets_with_its_classes(tmp_path):
    def run(dataset, correct, trained):
        one = record([[0], [correct]], [[0], [correct]], dataset=dataset, datasets=["ImageNet", "ImageNetV2"], seeds=[1])
        return replace(one, dataset=replace(one.dataset, train_images=(trained,)))

    write(tmp_path, [run("ImageNet", 71, 16), run("ImageNetV2", 64, 0)])

    (row,) = cells(tmp_path, "domain-generalisation")["mean"]

    assert (row["ImageNet"], row["ImageNetV2"], row["average"]) == ("71.00", "64.00", "67.50")


def test_a_scenario_that_trains_on_one_dataset_for_all_has_a_domain_generalisation_table(tmp_path):
    write(tmp_path, [record([[0], [n]], dataset=d, train_on="ImageNet", seeds=[1]) for d, n in (("ImageNet", 70), ("V2", 60))])

    (shown,) = builders.tables([tmp_path], "domain-generalisation")

    assert shown.title.startswith("trained on ImageNet")
    assert [number.mean for number in shown.lines[0].numbers] == [35, 30, 32.5]  # joint counts are half of these


def test_domain_generalisation_is_refused_for_datasets_that_were_trained_on(tmp_path):
    write(tmp_path, [record([[0], [71]], dataset=d) for d in ("ImageNet", "ImageNetV2")])

    with pytest.raises(Unfit, match="no training images; ImageNetV2 is none"):
        builders.tables([tmp_path], "domain-generalisation")


def test_a_scenario_that_was_scored_in_one_label_space_only_has_its_tables_in_that_one(tmp_path):
    one = record([[5, 5], [90, 50], [70, 80]], [[0, 0], [60, 0], [40, 50]])
    for space in ("own", "joint"):
        kept = replace(one, counts=tuple(count for count in one.counts if count.label_space == space))
        folder = write(tmp_path / space, [kept])
        write_tables(folder)

        (degradation,) = builders.tables([folder], "degradation")
        assert degradation.lines[0].numbers[-1].mean == {"own": -20, "joint": -20}[space]
        assert f"{space} label space" in degradation.title
        assert {line.labels[1].key for line in builders.tables([folder], "incremental")[0].lines} == {space}
        (ablation,) = builders.tables([folder], "ablation")
        assert ablation.lines[0].numbers[0].mean == {"own": 75, "joint": 45}[space]


def test_only_the_kinds_that_fit_are_shown(tmp_path):
    write(tmp_path / "demo", [record([[5, 5], [9, 5], [7, 8]])])
    write(tmp_path / "shots", [record([[5], [9]], shots=k) for k in (1, 2)])

    demo, shots = (fitting(runs_in(tmp_path / name)) for name in ("demo", "shots"))

    assert {*demo} == {"degradation", "degradation-per-dataset", "incremental", "base-to-new", "cost"}
    assert {*shots} == {"incremental", "cost", "few-shot"}


def test_the_cost_table_tells_what_is_carried_between_experiences_in_all_and_a_class(tmp_path):
    one = record([[5, 5], [9, 5], [7, 8]])
    classes = len(one.dataset.classes)
    write(tmp_path, [replace(one, model=replace(one.model, kept_bytes=2048 * classes))])

    (row,) = cells(tmp_path, "cost")["mean"]

    assert (row["kept (KiB)"], row["kept a class (KiB)"]) == (f"{2 * classes}.0", "2.0")
