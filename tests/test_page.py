"""The page: one file, every number from the records, nothing asked from any network, usable in a real browser.

The tests with a browser need Chromium (Debian: apt-get install chromium) and skip without it.
"""

import importlib.util
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, Browser
from fake_records import record, with_card, write

from lamm_cl.cli import main
from lamm_cl.errors import UserError
from lamm_cl.reports import builders
from lamm_cl.reports.builders import fitting
from lamm_cl.reports.page import page
from lamm_cl.reports.renderers import RENDERERS, to_html
from lamm_cl.results.csv import write_records_csv
from lamm_cl.results.record import Count
from lamm_cl.results.runs import runs_in

pytest.importorskip("plotly")
pytest.importorskip("jinja2")

DATASETS, METHODS = ["rare", "compo"], ["zero-shot", "coop", "lamm"]
WEIRD = '</script><b>&_"$x$\n' + "y" * 80


def results(folder, T=2, datasets=DATASETS, methods=METHODS, shots=(16,), missing=()):
    """Random counts, with counts per class: two classes an experience, of 20, 10, 20, 10, ... test images each."""
    rng = np.random.default_rng(0)
    images = [10 + 10 * (j % 2) for j in range(1, T + 1)]

    def one(dataset, method, seed, k):
        each = rng.integers(0, 11, (2, T + 1, T, 2))
        counts = tuple(
            Count(i, j, space, None, 2 * images[j - 1], None)
            if space == "joint" and j > i
            else Count(i, j, space, int(each[s, i, j - 1].sum()), 2 * images[j - 1], tuple(map(int, each[s, i, j - 1])))
            for s, space in enumerate(("own", "joint"))
            for i in range(T + 1)
            for j in range(1, T + 1)
        )
        zero = np.zeros((T + 1, T), int)
        run = record(zero, dataset=dataset, method=method, seed=seed, shots=k, datasets=datasets, methods=methods)
        names = tuple(f"{dataset} class {c}" for c in range(2 * T))
        facts = {
            "classes": names,
            "order": tuple(range(2 * T)),
            "experiences": (2,) * T,
            "test_images": tuple(2 * n for n in images),
        }
        return replace(
            run, counts=counts, dataset=replace(run.dataset, **facts, test_per_class=tuple(n for n in images for _ in (0, 1)))
        )

    runs = [one(d, m, s, k) for d in datasets for m in methods for s in (1, 2, 3) for k in shots]
    return write(folder, [run for run in runs if (run.run.dataset, run.run.method, run.run.seed) not in missing])


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


@pytest.mark.parametrize("T", [1, 2, 20])
def test_every_accuracy_of_the_page_equals_its_recomputation_from_records_csv(tmp_path, T):
    results(tmp_path, T, missing=[("rare", "lamm", 2)])
    rows = pd.read_csv(write_records_csv(tmp_path))

    (group,) = data_of(page.page([tmp_path]))["groups"]

    checked = 0
    for space in ("own", "joint"):
        for p, place in enumerate([*DATASETS, None]):
            for m, method in enumerate(METHODS):
                here = rows[(rows.method == method) & (rows.label_space == space)]
                by_seed = {seed: part for seed, part in here.groupby("seed") if place or part.dataset.nunique() == 2}
                by_seed = {s: part[part.dataset == place] if place else part for s, part in by_seed.items()}
                by_seed = {s: part for s, part in by_seed.items() if len(part)}
                shown = group["accuracy"][space][p][m]
                assert {*map(int, shown)} == {*by_seed}
                for seed, part in by_seed.items():
                    R = part.pivot_table(index="trained", columns="tested", values="accuracy", aggfunc="mean", dropna=False)
                    assert np.allclose(np.array(shown[str(seed)], float), R.to_numpy(float), atol=6e-4, equal_nan=True)
                    seen = part[(part.tested <= part.trained)].groupby(["dataset", "trained"])[["correct", "total"]].sum()
                    learned = (100 * seen.correct / seen.total).groupby("trained").mean()
                    assert np.allclose(group["learned"][space][p][m][str(seed)], learned, atol=6e-4)
                    checked += 1
    assert checked == 2 * 3 * 3 * 3 - 2 * 2


def test_every_table_that_fits_is_on_the_page_with_its_copies(tmp_path):
    results(tmp_path)
    text = page.page([tmp_path])
    copies = data_of(text)["copies"]

    for kind, found in fitting(runs_in(tmp_path)).items():
        assert to_html(found) in text
        (name,) = (name for name in copies if name.rpartition("-")[0] == kind)
        assert copies[name] == {form: RENDERERS[form](found) for form in ("csv", "md", "tex")}


def test_points_lost_by_a_class_are_its_accuracy_when_learned_minus_in_the_end(tmp_path):
    results(tmp_path, T=3)
    one = next(run for run in runs_in(tmp_path)[0].of("coop") if run.run.seed == 1)
    by_key = {(c.trained, c.tested): c.correct_per_class for c in one.counts if c.label_space == "own"}

    (group,) = data_of(page.page([tmp_path]))["groups"]
    drops = group["drops"]["own"][0]

    assert drops["classes"] == [f"rare class {c}" for c in range(4)] and drops["experiences"] == [1, 1, 2, 2]
    expected = [100 / (20, 10)[j - 1] * (by_key[j, j][c] - by_key[3, j][c]) for j in (1, 2) for c in (0, 1)]
    assert drops["lost"][1]["1"] == pytest.approx(expected)


def test_provenance_tells_scenario_card_departures_commit_machine_and_hashes(tmp_path):
    run = with_card(record([[5, 5], [9, 5], [7, 8]]), paper="A Paper, 2024", departures=["<departs>"], hash="c" * 64)
    write(tmp_path, [replace(run, measured=replace(run.measured, commit="abc123", device="a machine"))])

    text = page.page([tmp_path])

    for fact in ("A Paper, 2024", "&lt;departs&gt;", "abc123", "a machine", "c" * 12, "lamm-cl-mini"):
        assert fact in text


def test_charts_have_chance_and_the_effort_that_all_runs_counted(tmp_path):
    """Two classes in each of two experiences."""
    results(tmp_path)

    (group,) = data_of(page.page([tmp_path]))["groups"]

    assert group["chance"]["own"][0]["accuracy"] == [[50, 50]] * 3
    assert group["chance"]["joint"][2]["learned"] == [50, 25]
    assert group["cost"]["effort_name"] == "seconds a run, machine busy as not recorded"
    assert group["cost"]["effort"][0][1] == {"1": 2, "2": 2, "3": 2}


def summarised(folder, last, lost=0):
    """The summary of results with these joint counts of Set 1 in the end, method -> one for each seed."""
    runs = [
        record([[5, 5], [90, 50], [90 - lost * (m == "coop") - s, 80]], [[0, 0], [60, 0], [n, 60]], method=m, seed=s)
        for m, each in last.items()
        for s, n in enumerate(each, start=1)
    ]
    return page.summary(runs_in(write(folder, runs))[0])


def test_the_summary_names_the_best_where_that_is_shown(tmp_path):
    text = summarised(tmp_path, {"coop": [40, 41, 42], "lamm": [61, 62, 61], "maple": [41, 43, 41]})

    assert "LAMM ends with the highest accuracy on all classes, 60.7 %, 9.8 points before MaPLe (95 % interval 9.1 to" in text
    assert "paired t over 3 seeds, which rests on their differences being normal, Holm's correction over 3 pairs" in text


@pytest.mark.parametrize("last", [{"coop": [50], "lamm": [61]}, {"coop": [50, 70, 60], "lamm": [61, 62, 70]}])
def test_the_summary_names_nobody_the_best_where_no_difference_is_shown(tmp_path, last):
    text = summarised(tmp_path, last)

    assert "no difference shown in the final accuracy on all classes between LAMM (" in text and " and CoOp (" in text
    assert "highest" not in text and "before" not in text


def test_the_summary_tells_who_lost_more_where_that_is_shown(tmp_path):
    last = {"coop": [40, 41, 42, 40, 41], "lamm": [61, 62, 61, 60, 61]}

    assert "CoOp lost more on earlier sets (23.0 points) than LAMM (change of −3.0)" in summarised(tmp_path / "a", last, 20)
    assert "no difference shown in what the methods that learn lost" in summarised(tmp_path / "b", last)


def test_the_summary_of_one_method_compares_nothing(tmp_path):
    assert summarised(tmp_path, {"lamm": [60, 61]}).endswith("LAMM ends with an accuracy of 60.2 % on all classes.")


def test_names_are_escaped_everywhere(tmp_path):
    write(tmp_path, [record([[5, 5], [9, 5], [7, 8]], dataset=WEIRD, method=WEIRD, name=WEIRD)])

    text = page.page([tmp_path])

    assert "<b>&_" not in text
    assert text.count("</script>") == 3  # data, plotly, ours
    assert data_of(text)["groups"][0]["places"][0]["key"] == WEIRD


def test_the_same_records_give_the_same_page(tmp_path):
    results(tmp_path)

    assert page.page([tmp_path]) == page.page([tmp_path])


def test_the_page_of_four_datasets_and_four_methods_is_under_6_megabytes(tmp_path):
    results(tmp_path, datasets=list("abcd"), methods=["zero-shot", "coop", "maple", "lamm"])

    assert page.write_page([tmp_path], tmp_path / "report.html").stat().st_size < 6e6


def test_without_the_extra_the_user_is_told_what_to_install(tmp_path, monkeypatch):
    results(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "plotly" else find(name))

    with pytest.raises(UserError, match=r"needs the package plotly.*pip install 'lamm-cl\[report\]'"):
        page.page([tmp_path])


def test_the_command_writes_the_page_beside_the_results_and_prints_its_path(tmp_path, capsys):
    folder = results(tmp_path / "demo")

    assert main.main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"wrote {folder / 'report.html'}\n"
    assert (folder / "report.html").read_text() == page.page([folder])


def test_several_results_folders_share_a_page(tmp_path):
    folders = [results(tmp_path / "one"), results(tmp_path / "two", T=3, shots=("full",))]

    text = page.page(folders)

    names = [group["name"] for group in data_of(text)["groups"]]
    assert names == ["demo (folder 1), 16 shots", "demo (folder 2), all training images"]


# In a browser


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium (Debian: apt-get install chromium)")
    with Browser() as opened:
        yield opened


@pytest.fixture
def opened(browser, tmp_path):
    """A browser with the page of a results folder open, and that folder."""
    folder = results(tmp_path / "demo", shots=(4, 16))
    browser.open(page.write_page([folder], tmp_path / "report.html"))
    return browser, folder


def choose(browser, control, value):
    browser.run(f"(() => {{ const s = document.getElementById({control!r}); s.value = {json.dumps(value)};"
                "s.dispatchEvent(new Event('change')); })()")  # fmt: skip


def drawn(browser, chart):
    """method -> y of its line or points."""
    return dict(browser.run(f"document.getElementById({chart!r}).data.filter(t => t.meta).map(t => [t.meta, [...t.y]])"))


def test_the_page_opens_without_an_error_and_without_a_request(opened):
    browser, _ = opened

    assert browser.problems == []
    assert [url.partition(":")[0] for url in browser.requests] == ["file"]  # the page itself
    assert browser.run("document.querySelectorAll('.js-plotly-plot').length") == 5


def test_names_of_any_kind_and_one_experience_open_without_an_error(browser, tmp_path):
    folder = results(tmp_path / "demo", T=1, datasets=[WEIRD, "b"], methods=[WEIRD, "constructor"])
    browser.open(page.write_page([folder], tmp_path / "report.html"), width=390)

    assert browser.problems == []
    assert browser.run("document.documentElement.scrollWidth") <= 390
    texts = browser.run("document.getElementById('curves-chart').data.map(t => String(t.text)).join()")
    assert "&lt;b&gt;" in texts and "<b>&_" not in texts  # plotly would take <b> for markup
    assert WEIRD.split("\n")[0] in browser.run("document.querySelector('#methods label').textContent")


def test_curves_show_the_means_over_seeds_of_what_is_chosen(opened):
    browser, folder = opened
    rows = pd.read_csv(write_records_csv(folder)).query("method == 'coop' and shots == 4 and dataset == 'compo'")
    own = rows[(rows.label_space == "own") & (rows.tested == 2)].groupby("trained").accuracy

    choose(browser, "group", "0")
    choose(browser, "place", "1")
    choose(browser, "space", "own")
    choose(browser, "curve", "2")

    assert drawn(browser, "curves-chart")["coop"] == pytest.approx(own.mean().tolist(), abs=0.001)
    texts = browser.run(
        "[...document.querySelectorAll('#curves-values tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    mean, std = own.mean()[2], own.std(ddof=1)[2]
    hover = browser.run("document.getElementById('curves-chart').data.find(t => t.meta === 'coop').text[2]")
    by_seed = [f"seed {s}: {x:.2f}" for s, x in zip((1, 2, 3), own.get_group(2), strict=True)]
    assert hover == "<br>".join(["<b>CoOp</b>", f"after 2: {mean:.2f} ± {std:.2f} %", *by_seed])
    assert texts[1][0] == "CoOp" and texts[1][3] == f"{mean:.2f} ± {std:.2f}"
    assert browser.problems == []


def test_matrices_and_class_drops_show_what_is_chosen(opened):
    browser, folder = opened
    runs = runs_in(folder)[0]
    lost = np.mean([record.class_drops("own")[:2] for record in runs.records["rare", "coop"].values()], axis=0)
    R = np.mean([record.accuracy("own") for record in runs.records["rare", "coop"].values()], axis=0)

    choose(browser, "group", "0")
    choose(browser, "place", "0")
    choose(browser, "space", "own")

    cells = browser.run(
        "[...document.querySelectorAll('#matrices-grid table')[1].querySelectorAll('td')].map(c => c.textContent)"
    )
    assert [float(cell) for cell in cells] == pytest.approx(R.ravel(), abs=0.051)
    points = browser.run("document.getElementById('classes-chart').data.find(t => t.meta === 'coop').x")
    assert sorted(points) == pytest.approx(sorted(lost), abs=0.001)


def test_a_method_can_be_switched_off_and_on(opened):
    browser, _ = opened
    click = "document.querySelector('[data-method=coop]').click()"

    browser.run(click)
    assert {*drawn(browser, "curves-chart")} == {"zero-shot", "lamm"}
    browser.run(click)
    assert {*drawn(browser, "curves-chart")} == {"zero-shot", "coop", "lamm"}


def test_tables_are_sorted_by_value_down_up_and_back(opened):
    browser, _ = opened
    column = "[...document.querySelectorAll('#tables table')[0].tBodies[0].rows].map(r => parseFloat(r.cells[2].dataset.value))"
    click = "document.querySelectorAll('#tables table')[0].tHead.rows[0].cells[2].querySelector('button').click()"
    before = browser.run(column)

    found = []
    for _ in range(3):
        browser.run(click)
        found.append(browser.run(column))

    assert found == [sorted(before, reverse=True), sorted(before), before]


@pytest.mark.parametrize("form", ["csv", "tex", "md"])
def test_a_table_can_be_copied(opened, form):
    browser, folder = opened
    browser.run("navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }")

    browser.run(f"document.querySelector('[data-copy={form}]').click()")
    browser.run("new Promise(done => setTimeout(done, 50))")

    first = builders.tables([folder])[0]
    assert browser.run("window.copied") == RENDERERS[form]([first])
    assert "copied" in browser.run("document.querySelector('.copy [role=status]').textContent")


def test_the_page_follows_the_system_s_dark_mode_and_the_button_overrides_it(browser, tmp_path):
    path = page.write_page([results(tmp_path / "demo")], tmp_path / "report.html")
    ground = "getComputedStyle(document.body).backgroundColor"
    line = "document.getElementById('curves-chart').data.find(t => t.meta === 'lamm').line.color"

    browser.open(path)
    light = browser.run(ground), browser.run(line)
    browser.open(path, dark=True)
    dark = browser.run(ground), browser.run(line)
    browser.run("document.getElementById('theme').click()")  # system -> light
    overridden = browser.run(ground), browser.run(line)

    assert light == overridden == ("rgb(255, 255, 255)", "#332288")
    assert dark == ("rgb(20, 23, 28)", "#a79bff")


def test_every_control_has_a_name_and_every_part_can_be_reached_by_keyboard(opened):
    browser, _ = opened

    assert browser.run("[...document.querySelectorAll('select, input')].every(c => c.labels.length === 1)")
    assert browser.run("[...document.querySelectorAll('button')].every(b => b.textContent.trim() && b.tabIndex === 0)")
    assert browser.run(
        "[...document.querySelectorAll('section')].every(s => document.getElementById(s.getAttribute('aria-labelledby')))"
    )
    assert browser.run("[...document.querySelectorAll('#tables .scroll')].every(s => s.tabIndex === 0 && s.ariaLabel)")


@pytest.mark.parametrize("width", [390, 1440])
def test_no_width_makes_the_page_scroll_sideways(browser, tmp_path, width):
    browser.open(page.write_page([results(tmp_path / "demo", T=20)], tmp_path / "report.html"), width=width)

    assert browser.run("document.documentElement.scrollWidth") <= width
