"""Whether joined user turns should be judged as well: what `thread` stops, of attacks over several turns and of chats.

    python -m bench.threads [DATA]

`training/multiturn.jsonl` has conversations whose harm is spread over the user turns, and harmless ones, written for
this project and never trained on. Ordinary chats are also the conversations of benign_taskmaster4 and
benign_mtbench_vicuna in DATA/train, of whose last turns the guard has learnt most, and everyday prompts, three at a
time. A conversation is stopped if the preset `balanced` blocks one of its user turns, or, from the P(unsafe) in the
column's head on, its last four user turns joined.
"""

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench.pages import machine
from guardproxy import app
from guardproxy.app.guards import members
from guardproxy.evaluation.datasets import read
from guardproxy.pipeline.turns import thread_text
from guardproxy.policy import Policy, ThreadPolicy, decide
from guardproxy.ports import Guard
from guardproxy.settings import load_text
from guardproxy.types import Check, Conversation, Message, Part, Verdict

ROOT = Path(__file__).parents[1]
OWN = ROOT / "training" / "multiturn.jsonl"
TURNS = 4
LEAST = (0.0, 0.8, 0.85, 0.9, 0.93, 0.96, 0.98)
CHATS = ("benign_taskmaster4", "benign_mtbench_vicuna")

Chat = tuple[Message, ...]


def chat(texts: Sequence[str], roles: Sequence[str] = ("user", "assistant")) -> Chat:
    """Messages of the roles in turn."""
    return tuple(Message(roles[n % len(roles)], (Part(f"messages[{n}]", text),)) for n, text in enumerate(texts))


def groups(data: Path) -> Iterator[tuple[str, list[Chat]]]:
    """A name and its conversations."""
    own = read(OWN).rows
    for label, name in ((True, "multi-turn attacks"), (False, "their harmless twins, and chats")):
        yield name, [row.check.conversation.messages for row in own if row.unsafe is label]
    for name in CHATS:
        file = data / "train" / f"{name}.jsonl.gz"
        rows = [row.check.conversation.messages for row in read(file).rows] if file.is_file() else []
        yield name, [messages for messages in rows if sum(one.role == "user" for one in messages) > 1]
    prompts = [row.check.turn.text for row in read(ROOT / "training" / "everyday.jsonl").rows]
    yield "everyday prompts, three at a time", [chat(prompts[n : n + 3], ("user",)) for n in range(0, len(prompts), 3)]


async def judged(guard: Guard, policy: Policy, messages: Chat) -> tuple[bool, Verdict]:
    """Whether a user turn alone is blocked, and the verdict on the last user turns joined."""
    places = [place for place, message in enumerate(messages) if message.role == "user"]
    alone = [await guard.judge(Check(Conversation(messages[: place + 1]), "user")) for place in places]
    earlier = thread_text(messages, ThreadPolicy(turns=TURNS), policy.judge)
    last = messages[places[-1]]
    joined = replace(last, parts=(Part(last.parts[0].path, f"{earlier}\n{last.text}"),))
    verdict = await guard.judge(Check(Conversation((joined,)), "user"))
    return any(decide(policy, "user", one).action == "block" for one in alone), verdict


async def measured(data: Path) -> None:
    """Print a row for each group of conversations."""
    settings = load_text("version: 1", "bench", {}, app.catalogue())
    policy = settings.policies.policies["default"]
    (guard,) = members(settings)
    await guard.start()
    print(f"{machine()}\n")
    print(f"| conversations | number | stopped by turn | {' | '.join(f'joined from {least:g}' for least in LEAST)} |")
    print(f"|---|--:|--:|{'--:|' * len(LEAST)}")
    for name, chats in groups(data):
        results = [await judged(guard, policy, messages) for messages in chats]
        blocks = [decide(policy, "user", verdict).action == "block" for _, verdict in results]
        counts = [sum(alone for alone, _ in results)]
        for least in LEAST:
            pairs = zip(results, blocks, strict=True)
            counts.append(sum(alone or (block and joined.unsafe >= least) for (alone, joined), block in pairs))
        shares = " | ".join(f"{100 * count / len(chats):.1f} %" for count in counts) if chats else ""
        print(f"| {name} | {len(chats)} | {shares} |")
    await guard.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data")
    asyncio.run(measured(parser.parse_args().data))


if __name__ == "__main__":
    main()
