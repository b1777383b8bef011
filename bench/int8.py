"""The effect of int8 weights on a generative guard on a CPU: the change of P(unsafe), and the cost of a check.

    python bench/int8.py                  SmolLM2-135M under Llama Guard 1's prompt, 200 prompts, one thread
    python bench/int8.py --prompts 20

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

import torch
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

from guardproxy.demo.model import weights
from guardproxy.engine.decoder.runner import GenerativeRunner
from guardproxy.engine.load import LoadedModel, load_causal
from guardproxy.families.llama_guard import open_family
from guardproxy.types import Check, Conversation, Message, Part

CPU = torch.device("cpu")
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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=200)
    count = parser.parse_args().prompts
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)
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
