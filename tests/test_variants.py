"""What cards say that their variants change is what shipped results hold."""

import manual
import pytest

from lamm_cl.config.cards import card_names, load_card, load_scenario

BEGINS = "By how much (average / last accuracy"


@pytest.fixture(scope="module")
def pages():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(manual.TOP / "docs" / "hooks")
        import pages

        yield pages


@pytest.mark.parametrize("key", card_names())
def test_a_card_says_what_its_variants_change_as_shipped_results_do(pages, key):
    told = [text for text in load_card(key).departures if str(text).startswith(BEGINS)]
    expected = pages.measured_variants(key)

    assert told == ([expected] if expected else [])


def test_the_table_of_variants_is_that_of_the_shipped_results(pages):
    assert pages.variants() in (manual.TOP / "docs/results.md").read_text()


@pytest.mark.parametrize("name", ["field-demo", "features-imagenet-10", "features-pets25"])
def test_variants_stand_in_the_stream_of_their_defaults(name):
    default, variants = load_scenario(name), load_scenario(f"{name}-variants")
    free = {"name", "description", "methods", "overrides", "label_spaces", "bounds"}
    facts = [scenario.model_dump(exclude=free) for scenario in (default, variants)]

    assert facts[0] == facts[1]


def test_all_of_it_are_means_of_three_seeds(pages):
    assert {len(load_scenario(name).seeds) for names in pages.STREAMS for name in names} == {3}
