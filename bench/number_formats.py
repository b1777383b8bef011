"""The speed of guards in every number format of a CPU, relative to plain float32 in the same run.

    python -m bench.number_formats              both models of the embedded guard, SmolLM2; some minutes of one core
    python -m bench.number_formats --quick      fewer rounds, and 16 checks of SmolLM2 instead of 64
    python -m bench.number_formats --only embedded-small --rounds 5 --lengths 100

The formats take turns. Times are CPU seconds of one thread, the least of all rounds, so that other load counts little.
"Products" are the matrix products of the linear layers alone, with the same weights and numbers of rows: what a check
costs beyond them is attention, norms and Python.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.engine import smollm  # sets the wait policy, before torch is imported
from bench.pages import machine

import torch  # isort: skip

from guardproxy.engine.encoder.runner import ClassifierRunner
from guardproxy.engine.load import LoadedModel, load_classifier
from guardproxy.engine.number_format import NumberFormat, choose_format, linear_sizes
from guardproxy.engine.runner import WorkItem
from guardproxy.ports import ClassLogits, Piece, Prompt

CPU = torch.device("cpu")
ENCODERS = {"embedded-small": 16, "embedded-large": 8}  # the rounds of each
GENERATIVE = "smollm2"
FORMATS = [NumberFormat(dtype, packed) for dtype in (torch.float32, torch.bfloat16) for packed in (False, True)]


def least(acts: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The least CPU seconds of every act; they take turns."""
    took: dict[str, list[float]] = {name: [] for name in acts}
    for act in acts.values():
        act()
    for _ in range(rounds):
        for name, act in acts.items():
            began = time.thread_time()
            act()
            took[name].append(time.thread_time() - began)
    return {name: min(times) for name, times in took.items()}


def products(runner: ClassifierRunner, rows: int, size: int, inner: int) -> Callable[[], None]:
    """The linear layers of a runner alone."""
    encoder: Any = runner._packed  # noqa: SLF001
    hidden, wide = torch.randn(rows, size), torch.randn(rows, inner)
    hidden, wide = hidden.to(encoder._dtype), wide.to(encoder._dtype)  # noqa: SLF001

    def act() -> None:
        with torch.inference_mode():
            for layer in encoder._architecture.layers:  # noqa: SLF001
                layer.query_key_value(hidden)
                layer.out(hidden)
                layer.up(hidden)
                layer.down(wide)

    return act


def encoder_rows(name: str, loaded: LoadedModel, lengths: Sequence[int], rounds: int) -> None:
    """Print the rows of an encoder, for each length and batch."""
    config = loaded.model.config
    runners = {each.name: ClassifierRunner(loaded, CPU, threads=1, number_format=each) for each in FORMATS}
    labels = ClassLogits(tuple(f"LABEL_{at}" for at in range(config.num_labels)), "sigmoid")
    (work,) = runners["float32"].encode(Prompt((Piece("a", "judged"),), labels, "k"))
    draw = random.Random(7)
    for length in lengths:
        for batch in (1, 8, 32):
            texts = [tuple(draw.randrange(1000, 30000) for _ in range(length)) for _ in range(batch)]
            works = [WorkItem(length, type(work.data)(text, (0,) * length, labels)) for text in texts]
            acts: dict[str, Callable[[], Any]] = {}
            for each, runner in runners.items():
                acts[each] = lambda runner=runner, works=works: runner.run(works)  # type: ignore[misc]
                rows = length * batch
                acts[f"{each} products"] = products(runner, rows, config.hidden_size, config.intermediate_size)
            seconds = least(acts, rounds if batch < 32 else max(2, rounds // 4))
            show(f"{name}, {length} tokens, batch {batch}", seconds, batch)


def show(label: str, seconds: dict[str, float], checks: int) -> None:
    """Print one row: milliseconds of a check, the speed relative to plain float32, and to the products alone."""
    base = seconds["float32"]
    cells = [f"{1000 * base / checks:.1f} ms"]
    cells += [f"{base / seconds[each.name]:.2f}" for each in FORMATS[1:]]
    pairs = [(seconds[each.name], seconds.get(f"{each.name} products")) for each in FORMATS]
    cells += ["" if alone is None else f"{whole / alone:.2f}" for whole, alone in pairs]
    print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


def generative_rows(count: int, rounds: int) -> None:
    """Print the row of SmolLM2 under Llama Guard 1's prompt, with `count` concurrent checks."""
    benches = {each.name: smollm(CPU, None, count + 1, each) for each in FORMATS}
    for bench in benches.values():
        bench.clock = time.process_time
    took: dict[str, list[float]] = {name: [] for name in benches}
    for _ in range(rounds):
        for name, bench in benches.items():
            took[name].append(bench.concurrent(count, count)[0])
    show(f"SmolLM2-135M, {count} concurrent checks", {name: min(times) for name, times in took.items()}, count)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=(*ENCODERS, GENERATIVE), help="one model instead of all")
    parser.add_argument("--rounds", type=int, help="the rounds of a check at batch 1 (a quarter at 32), and of SmolLM2")
    parser.add_argument("--lengths", type=int, nargs="+", default=(30, 100), help="tokens of the encoders' checks")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = [each.name for each in FORMATS]
    print(machine(), torch.__version__)
    chosen = (args.only,) if args.only else (*ENCODERS, GENERATIVE)
    encoders = {name: load_classifier(name, CPU, torch.float32) for name in chosen if name in ENCODERS}
    for name, loaded in encoders.items():
        print(f"{name}: auto is", choose_format("auto", linear_sizes(loaded.model.base_model.encoder)).name)
    print(f"\n| check | {names[0]} | times its speed: " + " | ".join(names[1:]), end=" | ")
    print("times its products: " + " | ".join(names) + " |\n|---|" + "--:|" * (2 * len(names)))
    for name, loaded in encoders.items():
        encoder_rows(name, loaded, args.lengths, args.rounds or ENCODERS[name] // (4 if args.quick else 1))
    if GENERATIVE in chosen:
        with torch.inference_mode():
            generative_rows(16 if args.quick else 64, args.rounds or (1 if args.quick else 3))


if __name__ == "__main__":
    main()
