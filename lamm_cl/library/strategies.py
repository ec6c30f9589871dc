"""record: a strategy of Avalanche with a model of one's own, in the same tables as our methods."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamm_cl.results.record import Record
    from lamm_cl.training.benchmarks import Benchmark


def record(strategy: Any, stream: "Benchmark", *, method: str, name: str | None = None, results: str | Path = "results",
           paper: str = "no paper named") -> "Record":  # fmt: skip
    """Train and test a strategy of Avalanche on `stream`, experience by experience -> its record, written as those of `run`.

    strategy: fresh, with a model whose logits are (B, C) over the class ids of the stream, or fewer while its head grows.
    method: the key that names its folder and rows; name: how people write it.  The record goes to
    results/<scenario>/runs/<dataset>/<method>/shots<k>-seed<s>, with records.csv and tables beside it.

    Counts are kept in both label spaces, before the first experience and after each.  A class not learned yet has no score,
    unless the model has an attribute `scores_unseen` that is true.  torch's generator is seeded for each experience from the
    stream's seed; initial values are the caller's to seed.  A model on images shares no backbone with other methods; one on
    features has theirs.  It is done in one go: a record that is there is given back, and nothing is trained.

    Raises UserError where a record of something else is there, or the results folder is of another scenario.

    >>> import lamm_cl, torch
    >>> from avalanche.training.supervised import Naive
    >>> stream = lamm_cl.stream("demo", dataset="digits", backbone="scenario")
    >>> _ = torch.manual_seed(1)
    >>> head = torch.nn.Linear(64, stream.n_classes)
    >>> naive = Naive(model=head, optimizer=torch.optim.SGD(head.parameters(), lr=1.0), criterion=torch.nn.CrossEntropyLoss(),
    ...               train_mb_size=32, train_epochs=5, eval_mb_size=256, evaluator=None)
    >>> found = lamm_cl.record(naive, stream, method="linear-naive", name="Linear, Naive")
    >>> found.accuracy("joint").shape, str(found)
    ((3, 2), 'demo: digits/linear-naive/shots16-seed1')
    >>> "linear-naive" in lamm_cl.table("results/demo", "incremental").index.get_level_values("method")
    True
    """
    from lamm_cl.cli import doors
    from lamm_cl.cli.run import check_writable
    from lamm_cl.errors import UserError
    from lamm_cl.results.file import read_record, write_record
    from lamm_cl.sweeping import locks
    from lamm_cl.sweeping.plan import Run, check_folder
    from lamm_cl.sweeping.publish import check_kept
    from lamm_cl.towers.devices import one_thread
    from lamm_cl.training import outside

    if not hasattr(stream, "origin"):
        raise UserError("stream: expected what lamm_cl.stream gave; counts need its classes and samples")
    card = outside.card_of(strategy, method, name or method, paper)
    origin, folder = stream.origin, outside.folder_of(Path(results), stream, method)
    run = Run(origin.scenario, origin.named, method, card, origin.shots, origin.seed, folder, origin.order)
    check_writable(folder.parents[3])
    check_folder(folder.parents[3], origin.scenario)
    check_kept([run])
    with locks.held(folder):
        if (folder / "record.json").exists():
            there = read_record(folder / "record.json")
            if there.card.get("provenance") != card.provenance or there.card.get("name") != card.name:
                told = "the record of another strategy, model or optimizer"
                raise UserError(f"{folder}: {told}; remove it, or choose another method=")
            return there
        with one_thread():
            found = outside.carry_out(strategy, stream, card)
        write_record(found, folder)
    doors.publish(run)
    return found
