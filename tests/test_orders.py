"""Class orders: stored ones, several in one scenario, and what of a spread is theirs and what the seeds'."""

from dataclasses import replace

import numpy as np
import pytest
import toy
from fake_records import record, write

from lamm_cl.cli import doors
from lamm_cl.config.cards import load_scenario
from lamm_cl.config.explained import validated
from lamm_cl.config.identity import content_hash
from lamm_cl.config.schema import Scenario
from lamm_cl.data.orders import class_order
from lamm_cl.errors import UserError
from lamm_cl.reports import figures
from lamm_cl.reports.builders import tables
from lamm_cl.reports.compare import compare
from lamm_cl.reports.derived import derived_files
from lamm_cl.reports.frames import of_records, of_tables
from lamm_cl.reports.renderers import to_csv, to_latex, to_markdown
from lamm_cl.reports.statistics import spread, t_interval
from lamm_cl.results.file import write_record
from lamm_cl.results.record import order_name
from lamm_cl.results.runs import records_in, runs_in
from lamm_cl.sweeping import verify
from lamm_cl.sweeping.execute import Settings, execute
from lamm_cl.sweeping.merging import merge
from lamm_cl.sweeping.plan import plan, unfinished

NAMES = ("black cat", "white cat", "gray owl")


@pytest.mark.parametrize("order", [(2, 0, 1), ("gray owl", "black cat", "white cat"), ("Gray_Owl", "BLACK_cat", "white cat")])
def test_a_stored_order_names_classes_by_id_or_by_name(order):
    assert class_order(order, 3, NAMES) == [2, 0, 1]


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ((2, 0), "s: d: order: without 'white cat'; expected each of the 3 classes once"),
        ((2, 0, 2, 1), "s: d: order: 2 twice; expected each of the 3 classes once"),
        ((0, 1, 3), "s: d: order: no class 3; expected each of 0 to 2 once"),
        (("grey owl", "black cat", "white cat"), "s: d: order: no class 'grey owl'; did you mean 'gray owl'?"),
        (("gray owl", 1, 2), "s: d: order: some entries are names and some are class ids; expected one of the two"),
    ],
)
def test_what_is_no_permutation_of_the_classes_is_refused_with_what_is_wrong(order, told):
    with pytest.raises(UserError) as raised:
        class_order(order, 3, NAMES, "s: d")

    assert str(raised.value) == told


def test_a_name_of_two_classes_needs_ids():
    with pytest.raises(UserError, match="several classes are called 'crane'; expected class ids, 0 to 2"):
        class_order(("crane", "owl", "crane"), 3, ("crane", "owl", "crane"))


def test_several_orders_move_no_hash_and_are_named_by_what_they_are():
    several = toy.scenario(orders=["dataset", {"seed": 1993}, [6, 5, 4, 3, 2, 1, 0]])

    assert content_hash(several) == content_hash(toy.scenario())
    assert "orders" not in toy.scenario().model_dump()
    assert [order_name(each) for each in several.model_dump(mode="json")["orders"]] == ["dataset", "1993", "7f9220c8"]


def test_a_stored_order_is_part_of_what_is_measured():
    assert content_hash(toy.scenario(order=[6, 5, 4, 3, 2, 1, 0])) != content_hash(toy.scenario())


def test_one_order_and_several_exclude_each_other():
    facts = load_scenario("demo-5").model_dump(mode="json")

    with pytest.raises(UserError, match="orders: takes the place of order; leave one of them out"):
        validated(Scenario, facts | {"orders": ["dataset"]}, "s")
    with pytest.raises(UserError, match=r"s: order: expected 'dataset' or 'reversed', got 'datset'; did you mean 'dataset'\?"):
        validated(Scenario, facts | {"order": "datset"}, "s")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A closed form and zero-shot CLIP in two orders, really done -> the planned runs."""
    folder = tmp_path_factory.mktemp("orders")
    planned = plan(scenario(), folder)
    assert execute(planned, settings(folder), lambda event: None, train=toy.train, publish=doors.publish) == []
    return planned


def scenario():
    return toy.scenario(methods=["zero-shot", "simplecil"], orders=["dataset", {"seed": 3}], seeds=[1, 2])


def settings(folder):
    return Settings(data_root=None, cache=folder / "cache", device="cpu", jobs=1)


def test_a_run_in_one_of_several_orders_is_that_of_a_scenario_with_that_order(finished, tmp_path):
    assert [run.folder.name for run in finished[:4]] == ["shots4-seed1-orderdataset", "shots4-seed1-order3",
                                                        "shots4-seed2-orderdataset", "shots4-seed2-order3"]  # fmt: skip
    found = {(one.run.method, one.run.seed, one.run.order): one for one in records_in(finished[0].folder.parents[3])}

    alone, _ = toy.run(tmp_path, "simplecil", seed=2, order={"seed": 3})

    assert found["simplecil", 2, "3"].counts == alone.counts and found["simplecil", 2, "3"].dataset == alone.dataset
    assert found["simplecil", 2, "dataset"].dataset.order == tuple(range(7)) != alone.dataset.order
    assert str(found["simplecil", 2, "3"]) == "toy: toy/simplecil/shots4-seed2-order3"


def test_results_in_several_orders_are_whole_and_done_again_alike(finished):
    results = finished[0].folder.parents[3]

    assert unfinished(finished) == [] and verify.problems(results, derived_files) == []
    one = verify.runs(results)["toy/simplecil/shots4-seed2-order3"]
    assert verify.recompute(one, settings(results.parent), lambda event: None, toy.train) == ""


def test_results_of_one_order_each_are_merged(finished, tmp_path):
    results = finished[0].folder.parents[3]

    assert merge([results, results], tmp_path / "merged", derived_files) == (8, 8)
    assert (tmp_path / "merged" / "records.csv").read_bytes() == (results / "records.csv").read_bytes()
    assert (results / "records.csv").read_text().startswith("scenario,dataset,method,shots,seed,order,label_space,")


def test_tables_and_figures_of_several_orders_are_made(finished, tmp_path):
    results = finished[0].folder.parents[3]

    written = {path.name for path in (results / "tables").iterdir()}
    assert {"incremental_std.csv", "incremental_std_orders.csv", "degradation_per_dataset_std_orders.csv"} <= written
    for draw, stem in figures.FIGURES.values():
        if stem not in ("few_shot", "critical_difference", "class_drops", "confusion_matrix"):
            assert len(draw([results], tmp_path / stem)) == 3
    assert {"order", "seed"} <= set(of_records(records_in(results)).columns)


# --- numbers, by hand


def in_orders(values: dict[tuple[int, str], float], method: str = "coop", **facts):
    """Records whose last accuracy is so many per cent, by (seed, order)."""
    orders = {"dataset": (0, 1), "reversed": (1, 0)}
    found = []
    for (seed, order), last in values.items():
        own = [[10, 10], [50, 10], [last, last]]
        one = record(own, own, method=method, seed=seed, seeds=[1, 2, 3], orders=["dataset", "reversed"], **facts)
        found.append(replace(one, run=replace(one.run, order=order), dataset=replace(one.dataset, order=orders[order])))
    return found


VALUES = {(1, "dataset"): 60, (2, "dataset"): 62, (3, "dataset"): 64,
          (1, "reversed"): 40, (2, "reversed"): 44, (3, "reversed"): 48}  # fmt: skip


def test_the_spread_over_seeds_is_that_within_an_order_and_the_spread_over_orders_that_within_a_seed():
    seeds = np.sqrt((2**2 + 4**2) / 2)  # of 60 62 64 and of 40 44 48
    orders = np.sqrt((20**2 + 18**2 + 16**2) / 2 / 3)  # of 60 40, 62 44 and 64 48: half the squared difference is the variance

    assert spread(VALUES, 0) == pytest.approx(seeds) and spread(VALUES, 1) == pytest.approx(orders)
    assert spread({1: 60.0, 2: 62.0, 3: 64.0}, 0) == np.std([60, 62, 64], ddof=1)
    assert np.isnan(spread({(1, "dataset"): 60.0, (1, "reversed"): 40.0}, 0))


def test_tables_tell_the_two_spreads_apart(tmp_path):
    results = write(tmp_path, in_orders(VALUES))

    (table,) = tables([results], "incremental")

    number = next(line for line in table.lines if line.labels[1].key == "joint").numbers[1]
    assert number.mean == pytest.approx(53) and (number.seeds, number.expected) == (6, 6)
    assert (round(number.std, 2), round(number.orders, 2)) == (3.16, 12.78)
    assert "53.00 ± 3.16 ± 12.78" in to_markdown([table]) and "± over class orders" in to_markdown([table])
    assert "$_{\\pm 3.16}$$_{\\pm 12.78}$" in to_latex([table])
    assert ",12.78," in to_csv([table], "orders")
    assert of_tables([table], "orders").loc[("species", "joint", "coop"), "last"] == pytest.approx(number.orders)


def test_where_orders_have_one_seed_there_is_no_spread_over_seeds(tmp_path):
    results = write(tmp_path, [replace(one, scenario=one.scenario | {"seeds": [1]}) for one in in_orders(
        {key: value for key, value in VALUES.items() if key[0] == 1})])  # fmt: skip

    assert "50.00 ± – ± 14.14" in to_markdown(tables([results], "incremental"))


def test_a_run_that_is_missing_is_told_with_its_order(tmp_path):
    results = write(tmp_path, in_orders({key: value for key, value in VALUES.items() if key != (2, "reversed")}))

    (runs,) = runs_in(results)

    assert runs.missing() == ["species, coop: seed 2 in order reversed not finished"]
    assert "(5/6 runs)" in to_markdown(tables([results], "incremental"))


def test_an_order_that_no_run_has_finished_is_missing_too(tmp_path):
    (runs,) = runs_in(write(tmp_path, in_orders({key: value for key, value in VALUES.items() if key[1] == "dataset"})))

    assert runs.orders == ("dataset", "reversed") and len(runs.keys) == 6


def test_comparisons_are_paired_over_seeds_and_orders_and_rest_on_the_wider(tmp_path):
    better = {(seed, order): value + (1 + seed if order == "dataset" else 9) for (seed, order), value in VALUES.items()}
    results = write(tmp_path, in_orders(VALUES) + in_orders(better, method="lamm"))

    table = next(t for t in compare([results]).tables if "last, joint" in t.title)

    of_orders = t_interval([3.0, 9.0])  # three seeds in each of two orders are two repetitions: 2 3 4 and 9 9 9
    assert [n.mean for n in table.lines[0].numbers[:3]] == pytest.approx([6, of_orders.low, of_orders.high])
    assert table.lines[0].numbers[4].mean == 2 and table.lines[0].numbers[5].mean == 6  # pairs; wins, in runs
    assert any("rests on 2 pairs, one an order" in note for note in table.notes)


def test_runs_that_name_an_order_and_runs_that_name_none_share_no_table(tmp_path):
    plain = record([[10, 10], [50, 10], [60, 60]], method="lamm")

    with pytest.raises(UserError, match="differ in number of class orders"):
        runs_in(write(tmp_path, [*in_orders(VALUES), plain]))


def test_an_order_that_is_none_of_the_scenario_s_is_told(finished, tmp_path):
    (one, *_) = records_in(finished[0].folder.parents[3])
    stranger = replace(one, run=replace(one.run, order="77"))
    folder = tmp_path / "toy/runs/toy" / one.run.method / "shots4-seed1-order77"
    write_record(stranger, folder)

    found = verify.problems(tmp_path / "toy", derived_files)
    assert any("run.order: '77' is none of its scenario's" in problem for problem in found)
