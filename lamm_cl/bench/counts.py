"""Images through the image tower in a run, counted from its plan: ours, and those of a toolbox's loop.

A toolbox (C3Box, LAMDA-PILOT) keeps no feature: its loop encodes every training image in every epoch, and after each experience
the test images of all classes seen; where a query chooses the prompts, each of these twice; where a step also shows noisy images,
those of training twice.  Ours keeps what the frozen tower
says of a view.  What goes through a tower in which something is learned is tested on all experiences, before the first and behind
each, for the accuracy on classes still to come: more passes than a toolbox's, and more numbers.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from lamm_cl.bench.instruments import Measure
from lamm_cl.config.cards import card_for, load_scenario
from lamm_cl.config.schema import Card
from lamm_cl.config.schema import Piece as Chosen
from lamm_cl.learner.build import find
from lamm_cl.learner.pieces import ContextLearner, Head, Piece, Words
from lamm_cl.methods.engine import Engine
from lamm_cl.methods.exemplars import Exemplars
from lamm_cl.sweeping.estimate import Asked, Sizes, counts_of, images_of, lengths_of, passes
from lamm_cl.sweeping.plan import Run

SCENARIO, DATASET, SIZES = "cifar100-b0-inc10", "CIFAR-100", Sizes(classes=100, train=50_000, test=10_000)
METHODS = ("zero-shot", "simplecil", "ranpac", "acil", "fecam", "gda", "rapf", "l2p", "dualprompt", "codaprompt", "moe", "mgclip",
           "coop", "lamm", "engine", "proof", "bofa", "cliplora", "finetune")  # fmt: skip
FROZEN = {"frozen", "raw", "trunk"}


def asked_by(card: Card) -> Asked:
    """What its pieces say, without building them."""
    context: type[ContextLearner] = find(card.context.use, card.key) if card.context else Words
    head: type[Head] = find(card.head.use, card.key) if card.head else Head
    others: list[type[Piece]] = [find(each.use, card.key) for each in (card.loss, card.memory) if each]
    prompted = context.prompts_images or card.tower is not None
    needs = context.needs.union(head.needs, *(other.needs for other in others))
    noisy = issubclass(head, Engine) and card.head is not None and bool(card.head.options["image"])
    return Asked(prompted, not prompted or bool(needs & FROZEN), head.reads_text, context.reads_images,
                 observed=observed(card, [head, *others]), again=head.looks_again, unseen=head.scores_unseen, noisy=noisy,
                 **({"replayed": replayed(card.memory)} if card.memory else {}))  # fmt: skip


def replayed(memory: Chosen) -> Callable[[int, float], float]:
    """Of so many old classes with so many images each, how many are shown again; 0 of a memory of another kind."""
    kind = find(memory.use, "")
    if not issubclass(kind, Exemplars):
        return lambda classes, each: 0
    kept = kind(**memory.options)
    if kept.shared:
        return lambda classes, each: classes * min(each, kept.room(classes)) if classes else 0
    return lambda classes, each: min(classes * each, kept.total)


def observed(card: Card, kinds: list[type[Piece]]) -> int:
    """Passes of an experience's images through the frozen tower for `observe`: as they are, and as each view of an option."""
    if not any(kind.observe is not Piece.observe and not kind.looks_again for kind in kinds):
        return 0
    views = card.head.options.get("views", 1) if card.head else 1
    return 1 + views if isinstance(views, int) and views > 1 else 1


def toolbox(run: Run, size: Sizes, asked: Asked) -> int:
    """Passes of the loop above: of the images of steps, and of a classifier's own epochs behind them."""
    (n, _), counts, how_long = images_of(run, size), counts_of(run, size), lengths_of(run, size, asked)
    trained = round(sum(each.images for each in how_long))
    tested = sum(size.test * sum(counts[: i + 1]) // size.classes for i in range(len(counts)))
    query = 2 if asked.prompted and asked.frozen else 1
    behind = n * (1 + run.card.head.options["epochs"]) if asked.again and run.card.head else 0
    return query * tested + (query + asked.noisy) * trained + n * asked.observed * (not trained) + behind


def counts() -> Iterator[Measure]:
    """CIFAR-100 in ten experiences, all training images, each method as its card and the scenario say."""
    scenario = load_scenario(SCENARIO)
    for method in METHODS:
        run = Run(scenario, DATASET, method, card_for(scenario, method), "full", 1, Path())
        asked = asked_by(run.card)
        ours, theirs = passes(run, SIZES, asked), toolbox(run, SIZES, asked)
        total = ours.encoded + ours.prompted
        note = f"{ours.encoded:,} for the bank, {ours.prompted:,} with prompts or additions; a toolbox's loop {theirs:,}"
        yield Measure(f"{method}_images", total, "images", theirs / total, note=note)
