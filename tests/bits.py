"""Whether a change of the code changed a bit: sha256 of the learned tensors and of the counts of the shipped cards.

    python tests/bits.py -o before.json             before the change (two and a half minutes on one core)
    python tests/bits.py --against before.json      after it: prints each difference; exit status 1 if there is one

Compare on one machine with one installation: another processor or torch may round differently. A card that is new since
`before.json` is no difference, one that is gone is. Two streams, restricted with --toy or --digits:

    toy      every card: tests/toy.py with the tiny generated CLIP, each three ways (WAYS)
    digits   `lamm-cl run` on the data set digits with the embedded CLIP, seed 1; cards and overrides as in demo-methods and
             demo-prompts, zero-shot-* and coop-16* too: the latter with 20 epochs instead of 200, no augmentation
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
TOP = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP), str(TOP / "tests")]

import yaml  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

COUNT = ("trained", "tested", "label_space", "correct", "total", "correct_per_class")  # what a count says in record format 1
DEMOS = ("demo-prompts", "demo-methods")
WAYS = {  # on the toy stream -> changes of its scenario, and of a card's training
    "plain": ({}, {}),
    "augmented": ({}, {"augmentation": "random_resized_crop+flip"}),
    "seen": ({"experiences": 3, "order": {"seed": 5}, "train_label_space": "seen", "shots": "full"}, {}),
}


def cards(stream: str = "toy") -> list[str]:
    every = sorted(path.stem for path in (TOP / "baselines").glob("*.yaml"))
    demos = [method for demo in DEMOS for method in scenario(demo)["methods"]]
    return [card for card in every if stream == "toy" or card in demos or card.startswith(("zero-shot-", "coop-16"))]


def scenario(name: str) -> dict:
    return yaml.safe_load((TOP / f"scenarios/{name}.yaml").read_text())


def digests(folder: Path) -> dict[str, str]:
    """Of a finished run's folder: of its counts, and of each learned tensor with its type and shape."""
    counts = [[count[key] for key in COUNT] for count in json.loads((folder / "record.json").read_text())["counts"]]
    found = {"counts": hashlib.sha256(json.dumps(counts).encode()).hexdigest()}
    for name, tensor in sorted(load_file(folder / "learned.safetensors").items()):
        found[name] = hashlib.sha256(f"{tensor.dtype} {tensor.shape} ".encode() + tensor.tobytes()).hexdigest()
    return found


# --- the two streams -----------------------------------------------------------------------------------------------------


def on_toy(methods: list[str], jobs: int) -> dict[str, dict[str, str]]:
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(toy_card, methods))
    return dict(zip(methods, found, strict=True))


def toy_card(method: str) -> dict[str, str]:
    import torch
    import toy

    from lamm_cl.config.cards import load_card

    torch.set_num_threads(1)
    found = {}
    for way, (scenario, training) in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            override = toy.shallow(method)
            if asked := load_card(method).training:
                lengths = {name: None for name in ("steps", "steps_per_shot") if getattr(asked, name) is not None}
                override |= {"training": toy.SMALL | lengths | training}
            if method in toy.NARROW:
                override |= {"head": toy.NARROW[method]}
            toy.run(Path(folder), method, overrides={method: override}, **scenario)
            found |= {f"{way}: {name}": digest for name, digest in digests(Path(folder) / "run").items()}
    return found


def on_digits(methods: list[str], jobs: int) -> dict[str, dict[str, str]]:
    prompts, measured = map(scenario, DEMOS)
    every = prompts["overrides"] | measured["overrides"]
    for method in methods:
        if method.startswith("coop-16"):
            every[method] = {"training": {"epochs": 20, "augmentation": "none"}}
    overrides = {method: override for method, override in every.items() if method in methods}
    measured |= {"name": "bits", "datasets": ["digits"], "seeds": [1], "methods": methods, "overrides": overrides}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bits.yaml").write_text(yaml.safe_dump(measured))
        places = ["--results", str(folder), "--cache", str(folder / "cache"), "--device", "cpu", "--jobs", str(jobs)]
        command = [sys.executable, "-m", "lamm_cl", "run", str(folder / "bits.yaml"), *places]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(TOP)}, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"lamm-cl run:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return {method: digests(folder / f"bits/runs/digits/{method}/shots16-seed1") for method in methods}


STREAMS = {"toy": on_toy, "digits": on_digits}


# --- before and after ------------------------------------------------------------------------------------------------------


def differences(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> list[str]:
    """Of one stream, in the order of `before`."""
    found = []
    for card, old in before.items():
        new = after.get(card)
        if new is None:
            found.append(f"{card}: is gone")
            continue
        found += [f"{card}: {name} {'differs' if name in new else 'is gone'}" for name in old if new.get(name) != old[name]]
        found += [f"{card}: {name} is new" for name in new if name not in old]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the digests to FILE")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with the digests of FILE")
    parser.add_argument("--toy", action="store_true", help="this stream only")
    parser.add_argument("--digits", action="store_true", help="this stream only")
    parser.add_argument("--card", action="append", choices=cards(), metavar="CARD", help="this card only; again for several")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes, one thread each (default: 1)")
    args = parser.parse_args()
    if not (args.output or args.against):
        parser.error("expected -o FILE or --against FILE")
    before = json.loads(args.against.read_text()) if args.against else None
    named = [name for name in STREAMS if getattr(args, name)] or list(STREAMS)
    after, found, compared = {}, [], []
    for name in named:
        if before is not None and name not in before:
            parser.error(f"{args.against} knows nothing of {name}")
        pinned = {card: old for card, old in (before or {}).get(name, {}).items() if not args.card or card in args.card}
        wanted = [card for card in cards(name) if (not args.card or card in args.card) and (args.output or card in pinned)]
        after[name] = STREAMS[name](wanted, args.jobs) if wanted else {}
        found += [f"{name}: {text}" for text in differences(pinned, after[name])]
        compared.append(f"{len(pinned if before else after[name])} on {name}")
    if args.output:
        args.output.write_text(json.dumps(after, indent=1) + "\n")
        print(f"wrote {args.output}")
    told = ", ".join(compared).replace(" on", " cards on", 1)
    print("\n".join(found) if found else f"{'same bits: ' if before else ''}{told}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
