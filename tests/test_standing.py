"""Where a number stands: beside a published one only where everything matches, and what differs, fact by fact."""

from dataclasses import replace

import numpy as np
import pytest
from fake_records import record, with_card, write

from lamm_cl.cli.main import main
from lamm_cl.config.cards import card_names, load_scenario, scenario_names
from lamm_cl.config.identity import content_hash
from lamm_cl.errors import UserError
from lamm_cl.files import PACKAGE
from lamm_cl.reports.builders import tables
from lamm_cl.reports.standing import FACTS, claims, comparable, compared, experiences, known, named, verdict
from lamm_cl.reports.table import DIFFERENCE, PUBLISHED

PROTOCOL = "field-cifar100-b0-inc10"
ORDER = tuple(np.random.RandomState(1993).permutation(100).tolist())
SHARE = 0.7663  # SimpleCIL's last accuracy there, published


def made(seed=1, share=SHARE, method="simplecil", scenario=PROTOCOL, shots="full"):
    """A run of a protocol with CIFAR-100's sizes, as right after its end; every accuracy is `share`."""
    facts = load_scenario(scenario).model_dump(mode="json")
    R = np.full((11, 10), round(1000 * share))
    one = record(R, R, dataset="CIFAR-100", method=method, seed=seed, shots=shots, total=1000)
    one = replace(one, scenario=facts | {"seeds": [1, 2, 3], "methods": [method], "hash": content_hash(load_scenario(scenario))})
    data = replace(one.dataset, order=ORDER, experiences=(10,) * 10, classes=tuple(f"kind {i}" for i in range(100)),
                   test_images=(1000,) * 10, test_per_class=(100,) * 100)  # fmt: skip
    backbone = replace(one.backbone, architecture="ViT-B-16", weights="laion400m_e32")
    return replace(one, dataset=data, backbone=backbone, card={"name": "SimpleCIL", "hash": "c"})


def rows(results):
    (table,) = tables([results], "incremental")
    return {line.labels[2].shown: line for line in table.lines if line.origin in (PUBLISHED, DIFFERENCE)}, table


def said(capsys, *arguments):
    status = main([str(each) for each in arguments])
    told = capsys.readouterr()
    return status, told.out, told.err


# --- the table --------------------------------------------------------------------------------------------------------------


def test_a_published_number_stands_beside_runs_of_its_protocol_with_a_difference_and_a_verdict(tmp_path):
    write(tmp_path, [made(seed, share) for seed, share in ((1, 0.770), (2, 0.772), (3, 0.774))])

    found, table = rows(tmp_path)

    published = found["SimpleCIL (published, secondary)"]
    (difference,) = (line for line in found.values() if line.origin == DIFFERENCE)
    columns = [column.key for column in table.columns]
    values = dict(zip(columns, [number.mean for number in published.numbers], strict=True))
    assert (values["average incremental"], values["last"]) == (84.15, 76.63) and np.isnan(values["forgetting"])
    assert difference.numbers[columns.index("last")].mean == pytest.approx(77.2 - 76.63)
    assert "average incremental below the spread; last above the spread" in difference.labels[2].shown
    assert any("ENGINE (ICCV 2025)" in note and "secondary" in note for note in table.notes)


@pytest.mark.parametrize(
    "ours, said",
    [
        ([76.0, 77.0, 78.0], "inside the spread"),
        ([78.0, 78.1, 78.2], "above the spread"),
        ([75.0, 75.1, 75.2], "below the spread"),
        ([76.63], "one seed, no spread"),
    ],
)
def test_a_verdict_says_where_our_mean_lies_within_one_standard_deviation_of_the_published_number(ours, said):
    assert verdict(ours, 76.63) == said


def of_scenario(**changes):
    return lambda one: replace(one, scenario=one.scenario | changes)


def of_data(**changes):
    return lambda one: replace(one, dataset=replace(one.dataset, **changes))


OTHERWISE = {  # each fact, alone, that makes it another setting
    "weights": lambda one: replace(one, backbone=replace(one.backbone, weights="openai")),
    "resize": of_scenario(backbone={"architecture": "ViT-B-16", "weights": "laion400m_e32"}),
    "order": of_data(order=tuple(range(100))),
    "experiences": of_data(experiences=(50, 10, 10, 10, 10, 10), test_images=(5000, 1000, 1000, 1000, 1000, 1000)),
    "names": of_scenario(classes="underscored"),
    "split": of_data(split="another"),
    "test images": of_data(test_images=(900,) * 10),
    "replay": lambda one: with_card(one, memory={"use": "exemplars.Exemplars", "per_class": 20}),
    "numbers of the card": of_scenario(overrides={"simplecil": {"head": {"use": "simplecil.SimpleCIL"}}}),
    "images": lambda one: replace(one, run=replace(one.run, shots=16)),
    "method": lambda one: replace(one, run=replace(one.run, method="ranpac")),
    "dataset": lambda one: replace(one, run=replace(one.run, dataset="CIFAR-10")),
}


@pytest.mark.parametrize("fact", OTHERWISE)
def test_a_number_measured_under_another_setting_never_stands_beside_a_published_one(fact, tmp_path):
    """SimpleCIL reads no text and has no loss, so templates and masking are no facts of its number."""
    one = OTHERWISE[fact](made())
    claim = named("SimpleCIL, CIFAR100 B0-Inc10")

    assert comparable(made(), claim) and not comparable(one, claim)
    assert fact in [each.fact for each in compared(one, claim) if each.same is False]
    if fact not in ("experiences", "test images"):  # whose counts would be others
        assert not rows(write(tmp_path, [one]))[0]


def test_templates_and_masking_keep_a_number_away_where_the_method_has_them():
    zero = replace(made(method="zero-shot-protocol"), card={"name": "zero-shot"})
    proof = replace(with_card(made(method="proof"), memory={"use": "exemplars.Exemplars", "total": 2000}, label_space="seen"))

    assert comparable(zero, named("zero-shot, CIFAR100 B0-Inc10")) and comparable(proof, named("PROOF, CIFAR100 B0-Inc10"))
    assert not comparable(of_scenario(templates="good-photo")(zero), named("zero-shot, CIFAR100 B0-Inc10"))
    assert not comparable(with_card(proof, label_space="experience"), named("PROOF, CIFAR100 B0-Inc10"))
    fewer = with_card(proof, memory={"use": "exemplars.Exemplars", "per_class": 20})
    assert not comparable(fewer, named("PROOF, CIFAR100 B0-Inc10"))


def test_what_a_source_does_not_state_matches_nothing():
    unstated = [claim for claim in claims() if any(value is None for fact, value in claim.facts.items() if fact != "seeds")]

    assert {"RanPAC (no first-session adaptation)", "ENGINE"} <= {claim.method for claim in unstated}
    for claim in unstated:
        assert not comparable(made(method=(claim.cards or ("none",))[0]), claim)


def test_no_run_of_the_shipped_demo_has_a_published_row():
    (table,) = tables([PACKAGE.parent / "results" / "reference" / "demo"], "incremental")

    assert table.lines and not [line for line in table.lines if line.origin in (PUBLISHED, DIFFERENCE)]


# --- the data ---------------------------------------------------------------------------------------------------------------


def test_every_number_names_its_source_its_setting_and_cards_that_may_stand_beside_it():
    assert len({claim.name for claim in claims()}) == len(claims())
    assert all(claim.source and claim.setting and set(claim.facts) == set(FACTS) for claim in claims())
    later = {"proof", "engine", "bofa", "bofa-c3box"}  # cards that may come
    assert {card for claim in claims() for card in claim.cards} <= {*card_names(), *later}


def test_a_protocol_with_a_number_is_a_shipped_scenario_of_the_same_facts():
    """Of the two families whose settings are known whole: what the scenario says is what the number needs."""
    scenarios = [load_scenario(name) for name in scenario_names() if name.startswith("field-")]
    for claim in (claim for claim in claims() if claim.facts["resize"]):
        facts = claim.facts
        fitting = [
            s
            for s in scenarios
            if s.datasets == (facts["dataset"],) and (s.split or "own") == facts["split"]
            and (s.classes or "own") == facts["names"] and s.templates == facts["templates"]
            and s.backbone.resize == facts["resize"]
            and f"{s.backbone.architecture} {s.backbone.weights}" in facts["weights"]
            and (s.experiences == facts["experiences"] or s.experiences == len(facts["experiences"]))
        ]  # fmt: skip
        assert len(fitting) == 1, claim.name


def test_a_protocol_is_read_as_the_classes_of_each_experience():
    assert experiences("B0-Inc10", 100) == (10,) * 10 and experiences("B50-Inc10", 100) == (50, *(10,) * 5)
    assert experiences("unstated", 100) is None and experiences("B0-Inc10", None) is None


# --- the commands -----------------------------------------------------------------------------------------------------------


def test_published_lists_what_is_known_of_a_data_set_with_sources_and_settings(capsys):
    status, out, _ = said(capsys, "published", "--dataset", "CIFAR100")

    assert status == 0
    assert "86.77" in out and "79.11" in out and "logs/proof" in out  # PROOF's own
    assert "secondary" in out and "disputed" in out and "laion400m_e32" in out and "seed 1993" in out
    assert "55.81" not in out  # of another data set
    assert said(capsys, "published", "--dataset", "cifar-100")[1] == out  # as we call it
    assert "gda, few_shot_16" in said(capsys, "published", "--dataset", "DTD")[1]  # which only cards know


def test_explain_tells_what_differs_fact_by_fact(tmp_path, capsys):
    write(tmp_path, [OTHERWISE["weights"](OTHERWISE["resize"](made()))])

    status, out, _ = said(capsys, "explain", tmp_path, "--against", "SimpleCIL, CIFAR100 B0-Inc10")

    assert status == 0
    line = {row.split("  ")[1].strip(): row for row in out.splitlines() if row.startswith("  ") and len(row.split("  ")) > 2}
    assert "ViT-B-16 openai" in line["weights"] and "laion400m_e32" in line["weights"] and "differs" in line["weights"]
    assert "crop" in line["resize"] and "squeeze" in line["resize"] and "the same" in line["order"]
    assert "not comparable: differs in weights, resize" in out
    for fact in ("order", "weights", "resize", "names", "templates", "split", "replay", "masking", "seeds"):
        assert fact in line
    assert "76.63" not in out  # the number itself is not shown beside ours


def test_explain_says_that_nothing_differs(tmp_path, capsys):
    write(tmp_path, [made()])

    assert "all facts are the same" in said(capsys, "explain", tmp_path, "--against", "simplecil, cifar100 b0-inc10")[1]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("published", "--dataset", "CIFAR1000"), "--dataset: nothing is known of 'CIFAR1000'; did you mean 'CIFAR100'?"),
        (("published", "--method", "PROFF"), "--method: nothing is known of 'PROFF'; did you mean 'PROOF'?"),
        (("explain", "HERE", "--against", "PROOF, CIFAR10 B0-Inc10"), "did you mean 'PROOF, CIFAR100 B0-Inc10'?"),
        (("explain", "HERE", "--against", "PROOF, CIFAR100 B0-Inc10", "--method", "simplcil"), "did you mean 'simplecil'?"),
        (("explain", "nowhere", "--against", "PROOF, CIFAR100 B0-Inc10"), "nowhere"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest_spelling_and_status_2(arguments, expected, tmp_path, capsys):
    write(tmp_path, [made()])

    status, out, err = said(capsys, *(tmp_path if each == "HERE" else each for each in arguments))

    assert status == 2 and not out and err.count("\n") == 1 and expected.lower() in err.lower()


def test_known_and_named_raise_for_a_word_that_is_near_nothing():
    with pytest.raises(UserError):
        known("Zebra crossing")
    with pytest.raises(UserError):
        named("")
