"""Tables: every number can be recomputed from records.csv, and nothing is averaged in silence."""

import csv
import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_records import record, with_card, write
from rich.console import Console

from lamm_cl import yaml_facts
from lamm_cl.data import catalogue
from lamm_cl.errors import UserError
from lamm_cl.reports import builders
from lamm_cl.reports.builders import fitting
from lamm_cl.reports.compare import compare
from lamm_cl.reports.derived import write_tables
from lamm_cl.reports.published import SETTINGS
from lamm_cl.reports.renderers import RENDERERS, to_csv, to_latex, to_markdown, to_terminal
from lamm_cl.reports.table import BEST, SECOND
from lamm_cl.results.csv import write_records_csv
from lamm_cl.results.record import BackboneFacts
from lamm_cl.results.runs import runs_in

REPOSITORY = Path(__file__).parent.parent
DATASETS, METHODS, SEEDS = ["rare", "compo"], ["zero-shot", "coop", "lamm"], [1, 2, 3]


def results(folder, T=2, seeds=SEEDS, shots=(16,), total=70, datasets=DATASETS, methods=METHODS):
    """A results folder with random counts; unequal test sets."""
    rng = np.random.default_rng(0)
    totals = [total + 10 * j for j in range(T)]
    scenario = {"datasets": datasets, "methods": methods, "seeds": SEEDS}
    return write(
        folder,
        [
            record(rng.integers(0, total, (T + 1, T)), dataset=d, method=m, seed=s, shots=k, total=totals, **scenario)
            for d in datasets
            for m in methods
            for s in seeds
            for k in shots
        ],
    )


def small(folder, counts, **scenario):
    """method -> [Set 1 after the last of two experiences, for each seed], on one dataset of 100 images per set."""
    return write(
        folder,
        [
            record([[50, 50], [90, 50], [last, 80]], method=method, seed=seed, methods=[*counts], **scenario)
            for method, each in counts.items()
            for seed, last in enumerate(each, start=1)
        ],
    )


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def table(folder, kind="degradation"):
    (one,) = builders.tables([folder], kind)
    return one


def on_terminal(shown):
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard")
    console.print(to_terminal(shown))
    return console.file.getvalue()


@pytest.mark.parametrize("T", [2, 3, 20])
def test_every_entry_of_the_degradation_tables_can_be_recomputed_from_records_csv(tmp_path, T):
    results(tmp_path, T)
    rows = pd.read_csv(write_records_csv(tmp_path)).query("label_space == 'own'")
    write_tables(tmp_path)

    last = rows[rows.trained == T].pivot_table(index=["method", "tested", "seed"], columns="dataset", values="accuracy")
    last["average"] = last.mean(axis=1)
    kept = rows[rows.trained == T].set_index(["method", "seed", "dataset", "tested"]).accuracy
    learned = rows[rows.trained == rows.tested].set_index(["method", "seed", "dataset", "tested"]).accuracy
    lost = (kept - learned).unstack("tested").drop(columns=T).mean(axis=1).unstack("dataset")
    lost["average"] = lost.mean(axis=1)

    for name, over_seeds in (("", lambda x: x.mean()), ("_std", lambda x: x.std(ddof=1))):
        shown = pd.read_csv(tmp_path / f"tables/degradation{name}.csv").set_index(["method", "set"])
        per_dataset = pd.read_csv(tmp_path / f"tables/degradation_per_dataset{name}.csv").set_index("method")
        assert len(shown) == len(METHODS) * T
        for method in METHODS:
            expected = over_seeds(lost.loc[method])
            assert np.allclose(per_dataset.loc[method, expected.index], expected, atol=0.00501)
            for j in range(1, T + 1):
                expected = over_seeds(last.loc[method, j])
                assert np.allclose(shown.loc[(method, j), expected.index], expected, atol=0.00501)
                assert shown.loc[(method, j), "degradation"] == per_dataset.loc[method, "average"]


def test_the_incremental_table_can_be_recomputed_from_records_csv(tmp_path):
    results(tmp_path, T=3)
    rows = pd.read_csv(write_records_csv(tmp_path)).query("label_space == 'joint' and tested <= trained")
    shown = pd.DataFrame(read(to_csv([table(tmp_path, "incremental")])))
    shown = shown.set_index(["dataset", "label space", "method"])

    sums = rows.groupby(["dataset", "method", "seed", "trained"])[["correct", "total"]].sum()
    learned = (100 * sums.correct / sums.total).unstack("trained")
    for dataset in DATASETS:
        for method in METHODS:
            line = shown.loc[(dataset, "joint", method)]
            here = learned.loc[dataset, method]
            assert float(line["average incremental"]) == pytest.approx(here.mean(axis=1).mean(), abs=0.00501)
            assert float(line["last"]) == pytest.approx(here[3].mean(), abs=0.00501)
            assert line["zero-shot retention"] == ""


def test_the_columns_are_the_scenario_s_datasets_in_its_order_then_average_and_degradation(tmp_path):
    results(tmp_path)

    lines = to_csv([table(tmp_path)]).splitlines()

    assert lines[0] == "method,set,rare,compo,average,degradation"
    assert [line.split(",")[:2] for line in lines[1:]] == [[m, j] for m in METHODS for j in "12"]


def test_the_same_records_give_the_same_bytes(tmp_path):
    results(tmp_path)
    first = [path.read_bytes() for path in write_tables(tmp_path)]

    assert [path.read_bytes() for path in write_tables(tmp_path)] == first


def test_missing_seeds_are_told_in_the_cell_and_never_averaged_in_silence(tmp_path):
    small(tmp_path, {"coop": [70, 80], "lamm": [90, 90, 90]})
    shown = table(tmp_path)

    assert "75.00 ± 7.07 (2/3 seeds)" in to_markdown([shown])
    assert "75.00$_{\\pm 7.07}$ (2/3 seeds)" in to_latex([shown])
    assert "(2/3 seeds)" in on_terminal(shown)
    assert "species, coop: seed 3 not finished" in shown.notes
    assert [row["species"] for row in read(to_csv([shown]))] == ["75.00", "80.00", "90.00", "80.00"]
    assert [row["species"] for row in read(to_csv([shown], "seeds"))] == ["2", "2", "3", "3"]


def test_a_mean_over_fewer_seeds_is_not_ranked_against_a_full_one(tmp_path):
    small(tmp_path, {"coop": [99], "maple": [70] * 3, "lamm": [60] * 3})

    ranks = [line.numbers[0].rank for line in table(tmp_path).lines if line.group == "1"]

    assert ranks == [0, BEST, SECOND]


def test_a_method_without_a_dataset_has_no_average_over_datasets(tmp_path):
    write(
        tmp_path,
        [record([[1, 1], [9, 9], [5, 8]], dataset=d, method=m) for d, m in (("a", "x"), ("a", "y"), ("b", "x"))],
    )

    x, _, y, _ = read(to_csv([table(tmp_path)]))

    assert (x["average"], x["degradation"]) == ("5.00", "-4.00")
    assert (y["a"], y["b"], y["average"], y["degradation"]) == ("5.00", "", "", "")


def test_best_is_bold_second_underlined_and_ties_share_the_mark(tmp_path):
    small(tmp_path, {"zero-shot": [90] * 3, "coop": [70] * 3, "maple": [80] * 3, "lamm": [90] * 3})
    shown = table(tmp_path)

    first_sets = [line.numbers[0].rank for line in shown.lines if line.group == "1"]
    second_sets = [line.numbers[0].rank for line in shown.lines if line.group == "2"]

    assert first_sets == [BEST, 0, SECOND, BEST]
    assert second_sets == [BEST] * 4
    assert "**90.00** ± 0.00" in to_markdown([shown])
    assert "<u>80.00</u> ± 0.00" in to_markdown([shown])
    assert "\\underline{80.00}" in to_latex([shown])
    assert "\x1b[1m90.00" in on_terminal(shown) and "\x1b[4m80.00" in on_terminal(shown)


def test_less_forgetting_is_better(tmp_path):
    small(tmp_path, {"coop": [70] * 3, "lamm": [90] * 3})
    shown = table(tmp_path, "incremental")
    column = [c.key for c in shown.columns].index("forgetting")

    best = [line.labels[-1].key for line in shown.lines if line.numbers[column].rank == BEST]

    assert set(best) == {"lamm"}


def test_degradation_is_shown_once_per_method_but_stands_on_every_row_of_the_csv(tmp_path):
    small(tmp_path, {"coop": [70] * 3})

    assert [row["degradation"] for row in read(to_csv([table(tmp_path)]))] == ["-20.00", "-20.00"]
    assert to_markdown([table(tmp_path)]).count("−20.00") == 1


def test_with_one_experience_degradation_is_undefined(tmp_path):
    write(tmp_path, [record([[50], [80]], seed=s) for s in SEEDS])

    (row,) = read(to_csv([table(tmp_path)]))

    assert row == {"method": "coop", "set": "1", "species": "80.00", "degradation": ""}


def test_several_shots_give_a_table_each_that_says_which(tmp_path):
    results(tmp_path, shots=(16, 4, "full"))
    write_tables(tmp_path)

    found = builders.tables([tmp_path])
    lines = read((tmp_path / "tables/degradation.csv").read_text())

    assert [dict(one.scope)["shots"] for one in found] == ["4", "16", "full"]
    assert [row["shots"] for row in lines] == [k for k in ("4", "16", "full") for _ in range(len(METHODS) * 2)]
    assert "demo, 4 shots: " in (tmp_path / "tables/degradation.md").read_text()


def test_a_few_shot_table_has_a_column_per_number_of_shots(tmp_path):
    results(tmp_path, shots=(1, 16))

    shown = read(to_csv([table(tmp_path, "few-shot")]))

    assert [*shown[0]] == ["dataset", "method", "1", "16"]
    assert [row["dataset"] for row in shown] == [d for d in (*DATASETS, "average") for _ in METHODS]


def test_the_harmonic_mean_of_the_base_to_new_table_is_that_of_the_means(tmp_path):
    small(tmp_path, {"coop": [70] * 3})  # after Set 1: 90 on Set 1, 50 on Set 2

    (row,) = read(to_csv([table(tmp_path, "base-to-new")]))

    assert (row["base"], row["new"], row["harmonic mean"]) == ("90.00", "50.00", "64.29")


def test_base_to_new_is_refused_where_there_are_not_two_experiences(tmp_path):
    results(tmp_path, T=3)

    with pytest.raises(UserError, match="needs 2 experiences in the own label space; here are 3"):
        table(tmp_path, "base-to-new")


def test_the_ablation_table_tells_the_difference_to_the_first_method(tmp_path):
    small(tmp_path, {"coop": [70] * 3, "lamm": [90] * 3})  # joint counts are half of these: (35 + 40) / 200 and 85 / 200

    first, second = read(to_csv([table(tmp_path, "ablation")]))

    assert (first["species"], second["species"]) == ("37.50", "42.50")
    assert (first["minus CoOp"], second["minus CoOp"]) == ("0.00", "5.00")


def test_the_cost_table_sums_the_seconds_of_all_stages(tmp_path):
    small(tmp_path, {"coop": [70] * 3})

    (row,) = read(to_csv([table(tmp_path, "cost")]))

    assert (row["trainable parameters"], row["seconds"], row["peak memory (MiB)"]) == ("2048", "2.0", "1")
    assert row["label tokens"] == ""


SETTING = {
    "backbones": ["ViT-B-16 openai"],
    "shots": [16],
    "datasets": ["AlphaSet", "Beta"],
    "stream": "halves",
    "label_space": "own",
    "train_label_space": "experience",
}
PUBLISHED = {
    "table2_class_incremental": {
        "source": "A paper, Table 2",
        "setting": SETTING,
        "columns": ["AlphaSet", "Beta"],
        "set1": [93.63, 54.63],
        "set2": [97.70, 76.57],
        "average": {"set1": 74.13, "set2": 87.14, "degradation": -12.95},
    },
    "base_to_new": {"source": "A readme", "setting": SETTING, "base": 80.47, "new": 71.69, "harmonic_mean": 75.83},
}


def as_published(folder, datasets=("alpha_set", "beta"), methods=("coop",), change=lambda run: run, **scenario):
    """Runs in the setting of PUBLISHED, or changed."""
    runs = [record([[5, 5], [90, 50], [70, 80]], dataset=d, method=m, **scenario) for d in datasets for m in methods]
    backbone = BackboneFacts("ViT-B-16", "openai", "b", "fp32")
    return write(folder, [change(replace(with_card(run, published=PUBLISHED), backbone=backbone)) for run in runs])


def cited(folder, kind):
    return [line for line in table(folder, kind).lines if line.origin in ("published", "difference")]


def test_published_numbers_are_rows_of_their_own_never_ranked_and_never_in_the_csv(tmp_path):
    shown = table(as_published(tmp_path, methods=("coop", "lamm")))
    lines = {line.labels[0].shown + line.labels[1].shown: line for line in shown.lines if line.origin != "measured"}

    assert [number.mean for number in lines["CoOp (published)1"].numbers] == [93.63, 54.63, 74.13, -12.95]
    first = [number.mean for number in lines["CoOp, ours minus published1"].numbers]
    assert first == pytest.approx([70 - 93.63, 70 - 54.63, 70 - 74.13, -20 + 12.95])
    assert all(n.rank == 0 for line in lines.values() for n in line.numbers)
    assert "CoOp (published): A paper, Table 2" in shown.notes
    assert "93.63" in to_markdown([shown]) and "93.63" not in to_csv([shown])


def test_a_published_average_stands_beside_that_of_the_same_datasets_only(tmp_path):
    whole, part, more = (
        as_published(tmp_path / name, datasets)
        for name, datasets in (("w", ("alpha_set", "beta")), ("p", ("alpha_set",)), ("m", ("alpha_set", "beta", "gamma")))
    )

    assert [n.mean for n in cited(whole, "base-to-new")[0].numbers] == [80.47, 71.69, 75.83]
    assert cited(part, "base-to-new") == cited(more, "base-to-new") == []
    for folder in (part, more):
        first = [number.mean for number in cited(folder, "degradation")[0].numbers]
        assert first[0] == 93.63 and np.isnan(first[len(first) - (1 if folder is part else 2) :]).all()  # none of an average


@pytest.mark.parametrize(
    ("what", "change", "scenario"),
    [
        ("backbone", lambda r: replace(r, backbone=replace(r.backbone, architecture="lamm-cl-mini")), {}),
        ("weights", lambda r: replace(r, backbone=replace(r.backbone, weights="laion2b")), {}),
        ("shots", lambda r: replace(r, run=replace(r.run, shots=4)), {}),
        ("class order", lambda r: replace(r, dataset=replace(r.dataset, order=(1, 0))), {}),
        ("training label space", lambda r: r, {"train_label_space": "seen"}),
        ("training images", lambda r: r, {"train_on": "gamma"}),
        ("label space", lambda r: replace(r, counts=tuple(c for c in r.counts if c.label_space == "joint")), {}),
    ],
)
def test_a_number_published_under_another_setting_is_not_shown(tmp_path, what, change, scenario):
    folder = as_published(tmp_path, change=change, **scenario)

    assert cited(folder, "degradation") == [], what


def test_a_dataset_of_another_size_is_another_dataset(tmp_path):
    def eurosat(classes, images):
        half = (classes - classes // 2, classes // 2)
        facts = {"classes": tuple(map(str, range(classes))), "order": tuple(range(classes)), "experiences": half}
        facts |= {"test_images": (images // 2, images // 2), "test_per_class": (1,) * classes}
        entry = {"source": "Gao et al., AAAI 2024, Table 2; more", "columns": ["EuroSAT"], "set1": [90.6], "set2": [91.8]}
        entry = {"table2_class_incremental": entry | {"average": {"set1": 1, "set2": 1, "degradation": 0}}}

        def change(one):
            counts = tuple(replace(count, total=images // 2) for count in one.counts)
            return replace(with_card(one, published=entry), dataset=replace(one.dataset, **facts), counts=counts)

        return as_published(tmp_path / f"{classes} {images}", ("eurosat",), change=change)

    assert [line.numbers[0].mean for line in cited(eurosat(10, 8100), "degradation")][:1] == [90.6]
    assert cited(eurosat(10, 500), "degradation") == cited(eurosat(6, 8100), "degradation") == []


def test_a_published_few_shot_column_stands_beside_runs_of_its_setting_only(tmp_path):
    entry = {"source": "A paper", "columns": [4, 16], "accuracy": [50.0, 60.0]}
    entry["setting"] = {**SETTING, "stream": "all", "shots": [4, 16]}
    backbone = BackboneFacts("ViT-B-16", "openai", "b", "fp32")
    runs = [record([[50], [80]], dataset=d, shots=k) for d in ("AlphaSet", "Beta") for k in (4, 8, 16)]
    runs = [replace(with_card(run, published={"table3_few_shot": entry}), backbone=backbone) for run in runs]
    runs = [run for run in runs if (run.run.dataset, run.run.shots) != ("Beta", 4)]  # no average over both at 4 shots

    shown = table(write(tmp_path, runs), "few-shot")

    assert [column.key for column in shown.columns] == ["4", "8", "16", "16 (published)"]


def test_an_entry_that_names_no_setting_is_not_shown_and_told(tmp_path):
    entry = {**PUBLISHED["base_to_new"]}
    del entry["setting"]
    shown = table(as_published(tmp_path, change=lambda r: with_card(r, published={"base_to_new": entry})), "base-to-new")

    assert not any(line.origin == "published" for line in shown.lines)
    note = "CoOp (published): published.base_to_new says no `setting` (see settings.yaml), so its numbers are not shown"
    assert note in shown.notes


def test_every_published_number_of_the_shipped_cards_and_scenarios_that_tables_read_has_a_setting():
    read = (REPOSITORY / "lamm_cl/reports/builders.py").read_text()
    facts = yaml_facts.parse(SETTINGS.read_bytes(), "settings")
    cards = [yaml_facts.parse(path.read_bytes(), path.name) for path in (REPOSITORY / "baselines").glob("*.yaml")]
    scenarios = [yaml_facts.parse(path.read_bytes(), path.name) for path in (REPOSITORY / "scenarios").glob("*.yaml")]
    cards += [each for scenario in scenarios for each in scenario.get("overrides", {}).values()]
    entries = [(key, each["source"]) for card in cards for key, each in card.get("published", {}).items()]

    assert len(entries) > 20
    for key, source in ((key, source) for key, source in entries if f'"{key}"' in read):
        begins = [setting["entries"][key] for setting in facts["settings"] if key in setting["entries"]]
        assert any(source.startswith(each) for each in begins), (key, source)


def test_the_sizes_that_settings_know_are_those_of_the_catalogue():
    infos = {info.name: (info.classes, info.test) for info in catalogue.names()}

    for name, size in yaml_facts.parse(SETTINGS.read_bytes(), "settings")["sizes"].items():
        assert infos[name] == tuple(size), name


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({**SETTING, "shot": 16}, "setting: no field 'shot'; did you mean 'shots'"),
        ({**SETTING, "stream": "thirds"}, "setting.stream: expected halves or all, found 'thirds'"),
        ({**SETTING, "shots": 16}, "setting.shots: expected a list, found '16'"),
    ],
)
def test_a_setting_of_another_form_is_refused_by_name(tmp_path, setting, said):
    entry = {**PUBLISHED["base_to_new"], "setting": setting}
    folder = as_published(tmp_path, change=lambda r: with_card(r, published={"base_to_new": entry}))

    with pytest.raises(UserError, match=f"coop: published.base_to_new: not in the form of the shipped cards .{said}"):
        table(folder, "base-to-new")


def test_papers_without_a_dataset_in_common_are_left_out(tmp_path):
    folder = as_published(tmp_path, ("species",), seeds=[1])

    shown = table(folder)

    assert cited(folder, "degradation") == [] and not shown.notes


def test_published_facts_of_another_form_are_refused_by_name(tmp_path):
    broken = {"table2_class_incremental": {"columns": ["species"], "set1": [1.0], "set2": "x"}}
    write(tmp_path, [with_card(record([[5, 5], [90, 50], [70, 80]]), published=broken)])

    with pytest.raises(UserError, match="coop: published.table2_class_incremental"):
        table(tmp_path)


WEIRD = '=&_<b>[red]"x"|$1%#{}~^\\\n\x1b[31m' + "y" * 80


def test_names_of_any_kind_are_shown_as_they_are_and_read_as_markup_by_no_format(tmp_path):
    write(tmp_path, [record([[5, 5], [9, 5], [7, 8]], dataset=WEIRD, method=WEIRD, seed=s) for s in SEEDS])
    shown = table(tmp_path)

    head, line, *_ = csv.reader(io.StringIO(to_csv([shown])))
    markdown, latex, terminal = to_markdown([shown]), to_latex([shown]), on_terminal(shown)

    assert head[2] == line[0] == "'" + WEIRD
    assert "&amp;\\_&lt;b&gt;\\[red\\]" in markdown and "\\|$1" in markdown
    assert [row.count("|") - row.count("\\|") for row in markdown.splitlines() if row.startswith("|")] == [5] * 6
    assert "=\\&\\_\\textless{}b\\textgreater{}[red]" in latex and "\\$1\\%\\#\\{\\}\\textasciitilde{}" in latex
    assert "[red]" in terminal and "\x1b[31m" not in terminal


def test_an_unknown_kind_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match="no table 'degredation'; did you mean 'degradation'"):
        builders.tables([tmp_path], "degredation")


def test_forty_datasets_and_every_kind_render_in_every_format(tmp_path):
    results(tmp_path, datasets=[f"dataset-{i:02}" for i in range(40)], seeds=[1], methods=["coop", "lamm"])

    for kind, shown in fitting(runs_in(tmp_path)).items():
        for render in RENDERERS.values():
            assert "dataset-39" in render(shown), kind
        assert on_terminal(shown[0])


@pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="no LaTeX (Debian: apt-get install --no-install-recommends texlive-latex-base texlive-latex-recommended)",
)
@pytest.mark.parametrize("case", ["plain", "weird", "wide", "long"])
def test_the_latex_of_every_kind_compiles_and_no_line_is_too_wide(tmp_path, case):
    names = {"plain": DATASETS, "weird": [WEIRD, "b"], "wide": [f"d{i}" for i in range(40)], "long": DATASETS}[case]
    methods = [f"{WEIRD} {i}" for i in range(2)] if case == "weird" else METHODS
    folder = results(tmp_path / "r", T=20 if case == "long" else 2, datasets=names, methods=methods, shots=(4, 16))
    floats = [to_latex(builders.tables([folder], kind)) for kind in fitting(runs_in(folder))]
    floats.append(to_latex(builders.tables([folder], "ablation")))
    floats.append(to_latex(compare([folder]).tables))
    head = "\\documentclass{article}\n\\usepackage[a4paper,margin=2cm]{geometry}\n\\usepackage{booktabs,graphicx}\n"
    body = "\n\\clearpage\n".join(floats)
    (tmp_path / "t.tex").write_text(f"{head}\\usepackage[T1]{{fontenc}}\n\\begin{{document}}\n{body}\n\\end{{document}}\n")

    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")

    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout and "Float too large" not in done.stdout


def test_more_than_five_sets_are_summed_up_for_people_and_whole_in_csv_json_and_frames(tmp_path):
    T = 8
    own = np.full((T + 1, T), 50)
    own[T] = np.arange(40, 40 + T)
    write(tmp_path, [record(own, seed=s, dataset=d) for s in SEEDS for d in ("a", "b")])
    shown = table(tmp_path)

    assert [line.labels[1].shown for line in shown.lines[:3]] == ["1", "2 to 7", "8"]
    assert [line.numbers[0].mean for line in shown.lines[:3]] == [40, np.mean(np.arange(41, 47)), 47]
    assert "2 to 7: mean over these sets" in to_markdown([shown])
    rows = read(to_csv([shown]))
    assert [(row["set"], row["a"]) for row in rows] == [(str(j), f"{39 + j}.00") for j in range(1, 9)]
    assert all(row["average"] == row["a"] for row in rows)
    (facts,) = json.loads(RENDERERS["json"]([shown]))
    assert [row["numbers"]["a"]["mean"] for row in facts["rows"] if row["origin"] == "measured"] == list(range(40, 48))
    assert [row["numbers"]["a"]["mean"] for row in facts["rows"] if row["origin"] == "chance"] == [100] * 8


def test_json_says_what_a_table_says_and_null_for_what_is_undefined(tmp_path):
    write(tmp_path, [record([[50], [80]], seed=s) for s in (1, 2)])
    shown = table(tmp_path)

    (facts,) = json.loads(RENDERERS["json"]([shown]))

    assert (facts["kind"], facts["scenario"], facts["shots"]) == ("degradation", "demo", "16")
    assert facts["columns"] == ["species", "degradation"]
    assert facts["rows"][0] == {"origin": "measured", "method": "coop", "set": "1", "numbers": {
        "species": {"mean": 80.0, "std": 0.0, "seeds": 2}, "degradation": {"mean": None, "seeds": 2}}}  # fmt: skip
    assert facts["notes"] == list(shown.notes)
