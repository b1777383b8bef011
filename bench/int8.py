"""The effect of int8 weights on a CPU, for a generative guard and for the embedded guard: its errors and its speed.

    python bench/int8.py                  SmolLM2-135M under Llama Guard 1's prompt, 200 prompts, one thread
    python bench/int8.py --prompts 20
    python bench/int8.py --embedded ../shared/data/dev/xstest.jsonl.gz       the embedded guard; AUPRC on these sets

torch's dynamic quantization: weights in int8 per output channel, activations in int8 per tensor, scaled when they are
computed. The variants leave some layers in float32, among them those behind the activation function, whose inputs have
outliers. Times are CPU seconds of this thread; every figure is measured in this run.
"""

import argparse
import copy
import random
import re
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

from guardproxy.demo.model import weights
from guardproxy.engine.decoder.runner import GenerativeRunner
from guardproxy.engine.encoder.runner import ClassifierRunner
from guardproxy.engine.load import LoadedModel, load_causal, load_classifier
from guardproxy.engine.number_format import NumberFormat, Product
from guardproxy.engine.runner import WorkItem
from guardproxy.evaluation.datasets import LabelledRow, read
from guardproxy.evaluation.metrics import measure
from guardproxy.families.classifier import open_family as open_classifier
from guardproxy.families.llama_guard import open_family
from guardproxy.types import Check, Conversation, Message, Part

CPU = torch.device("cpu")
ENGINES = ("x86", "onednn")  # of torch's quantized products: FBGEMM and oneDNN behind it, or oneDNN alone
WORDS = "the old town by a river keeps boats nets gardens and people who read aloud about ships trade bread and winter"


# The linear layers that become int8 (a pattern of their names), and the number of layers at each end that do not.
VARIANTS = {
    "every linear layer": ("", 0),
    "all but down_proj": ("(q|k|v|o|gate|up)_proj", 0),
    "the same, not in the first and last three layers": ("(q|k|v|o|gate|up)_proj", 3),
    "gate_proj and up_proj": ("(gate|up)_proj", 0),
    "q_proj, k_proj and v_proj": ("(q|k|v)_proj", 0),
}


def quantized(loaded: LoadedModel, pattern: str, ends: int) -> LoadedModel:
    """A copy with int8 weights in the linear layers that `pattern` matches, except in `ends` layers at each end."""
    model = copy.deepcopy(loaded.model)
    layers = model.get_decoder().layers
    for block in layers[ends : len(layers) - ends]:
        chosen = {
            name: per_channel_dynamic_qconfig
            for name, module in block.named_modules()
            if isinstance(module, torch.nn.Linear) and re.search(pattern, name)
        }
        quantize_dynamic(block, chosen, dtype=torch.qint8, inplace=True)
    return LoadedModel(model, loaded.backend, loaded.tokenizer, None)


def judge(loaded: LoadedModel, texts: list[str]) -> tuple[list[float], float]:
    """P(unsafe) of each text, and CPU seconds per check."""
    runner = GenerativeRunner(loaded, CPU, floor=1.0, threads=1)
    family = open_family(version="1")
    checks = [Check(Conversation((Message("user", (Part("", text),)),)), "user") for text in texts]
    works = [runner.encode(family.render(check)[0])[0] for check in checks]
    runner.run(works[:1])  # puts the policy text into the prefix cache
    began = time.thread_time()
    unsafe = [runner.run([work])[0].reading.probabilities[0] for work in works]
    return unsafe, (time.thread_time() - began) / len(texts)


class Int8Format(NumberFormat):
    """A number format of the packed encoder whose linear layers have int8 weights, by an engine of torch."""

    engine = ENGINES[0]

    def product(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        """The linear layer: weights scaled per output, activations per tensor."""
        scales = (weight.abs().amax(1) / 127).double()
        rounded = torch.quantize_per_channel(weight, scales, torch.zeros(len(weight)).long(), 0, torch.qint8)
        torch.backends.quantized.engine = self.engine
        packed = torch.ops.quantized.linear_prepack(rounded, bias)
        return lambda rows: torch.ops.quantized.linear_dynamic(rows, packed, False)


class OneDNNInt8Format(Int8Format):
    """The same by oneDNN alone."""

    engine = ENGINES[1]


def embedded(paths: list[Path], limit: int) -> None:
    """Print the speed of the embedded guard in every format, and the change of its AUPRC on the sets."""
    single = torch.float32
    formats = {
        "float32": NumberFormat(single),
        "float32 packed": NumberFormat(single, packed=True),
        "bfloat16 packed": NumberFormat(torch.bfloat16, packed=True),
        "int8, engine x86": Int8Format(single),
        "int8, engine onednn": OneDNNInt8Format(single),
    }
    loaded = load_classifier("embedded-small", CPU, single)
    runners = {name: ClassifierRunner(loaded, CPU, threads=1, number_format=each) for name, each in formats.items()}
    family = open_classifier()
    text = " ".join(random.Random(7).choices(WORDS.split(), k=98))
    (work,) = runners["float32"].encode(
        family.render(Check(Conversation((Message("user", (Part("", text),)),)), "user"))[0]
    )
    print(f"\n| {work.cost} tokens at batch | " + " | ".join(formats) + " |\n|---" + "|--:" * len(formats) + "|")
    for size in (1, 8, 32):
        # Different windows: equal ones are computed once.
        ids = [(*work.data.ids[:-2], 2000 + at, work.data.ids[-1]) for at in range(size)]
        works = [WorkItem(work.cost, replace(work.data, ids=each)) for each in ids]
        times: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(7):
            for name, runner in runners.items():
                began = time.thread_time()
                runner.run(works)
                times[name].append(time.thread_time() - began)
        base = min(times["float32"])
        print(
            f"| {size}, times float32's speed | "
            + " | ".join(f"{base / min(row):.2f}" for row in times.values())
            + " |"
        )
    for path in paths:
        rows = [row for row in read(path).rows if row.unsafe is not None]
        rows = random.Random(7).sample(rows, min(limit, len(rows)))
        labels = np.array([bool(row.unsafe) for row in rows])
        values = {name: _auprc(runner, rows, labels) for name, runner in runners.items() if name != "float32 packed"}
        print(
            f"{path.name}, {len(rows)} rows, AUPRC: "
            + ", ".join(f"{name} {value:.4f}" for name, value in values.items()),
            flush=True,
        )


def _auprc(runner: ClassifierRunner, rows: list[LabelledRow], labels: Any) -> float:
    family = open_classifier()
    scores: list[float] = []
    for row in rows:
        done = runner.run(runner.encode(family.render(row.check)[0]))
        scores.append(max(each.reading.probabilities[0] for each in done))
    return float(measure(np.array(scores), labels, resamples=1).values["auprc"] or 0.0)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--embedded", nargs="*", type=Path, help="the embedded guard, with AUPRC on these sets")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of each set, drawn at random")
    args = parser.parse_args()
    count = args.prompts
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)
    if args.embedded is not None:
        embedded(args.embedded, args.rows)
        return
    draw = random.Random(7)
    texts = [" ".join(draw.choices(WORDS.split(), k=draw.randint(20, 100))) for _ in range(count)]
    stock = load_causal(str(weights()), CPU, torch.float32)
    exact, base = judge(LoadedModel(copy.deepcopy(stock.model), stock.backend, stock.tokenizer, None), texts)
    print(f"float32: {base:.3f} s a check, P(unsafe) from {min(exact):.3f} to {max(exact):.3f} over {count} prompts\n")
    print("| int8 in | times float32's speed | largest change of P(unsafe) | mean change |\n|---|--:|--:|--:|")
    for name, (pattern, ends) in VARIANTS.items():
        unsafe, cost = judge(quantized(stock, pattern, ends), texts)
        changes = [abs(a - b) for a, b in zip(unsafe, exact, strict=True)]
        print(f"| {name} | {base / cost:.2f} | {max(changes):.3f} | {sum(changes) / count:.3f} |", flush=True)


if __name__ == "__main__":
    main()
