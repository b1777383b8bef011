"""Whether joined user turns should be judged as well: what `thread` stops, of attacks over several turns and of chats.

    python -m bench.threads [DATA]

`training/multiturn.jsonl` has conversations whose harm is spread over the user turns, and harmless ones, written for
this project and never trained on. Ordinary chats are also the conversations of benign_taskmaster4 and
benign_mtbench_vicuna in DATA/train, of whose last turns the guard has learnt most, and everyday prompts, three at a
time. A conversation is stopped if the preset blocks one of its user turns alone, or joined with the user turns before
it, from the P(unsafe) in the column's head on. The preset says how many are joined.
"""

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.pages import machine
from bench.shipped import weights
from guardproxy import app
from guardproxy.app.guards import members
from guardproxy.evaluation.datasets import read
from guardproxy.pipeline.thread import joined_text, thread_of
from guardproxy.policy import PRESETS, Policy, decide
from guardproxy.ports import Guard
from guardproxy.settings import load, load_text
from guardproxy.settings.presets import DEFAULT_PRESET
from guardproxy.types import Check, Conversation, Message, Part, Role, Verdict

ROOT = Path(__file__).parents[1]
OWN = ROOT / "training" / "multiturn.jsonl"
LEAST = (0.0, 0.8, 0.85, 0.9, 0.93, 0.96, 0.98)
CHATS = ("benign_taskmaster4", "benign_mtbench_vicuna")

Chat = tuple[Message, ...]


def chat(texts: Sequence[str]) -> Chat:
    """A conversation of these user turns, with an answer after each but the last."""
    roles: tuple[Role, Role] = ("user", "assistant")
    said = [text for turn in texts for text in (turn, "Here you are.")][:-1]
    return tuple(Message(roles[n % 2], (Part(f"messages[{n}].content", text),)) for n, text in enumerate(said))


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
    yield "everyday prompts, three at a time", [chat(prompts[n : n + 3]) for n in range(0, len(prompts), 3)]


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdicts on a conversation: on each user turn alone, and on each behind the user turns before it."""

    alone: tuple[Verdict, ...]
    joined: tuple[Verdict, ...]

    def stopped(self, policy: Policy, least: float | None) -> bool:
        """Whether a user turn is blocked alone, or behind others from a P(unsafe) of `least` on, if that is set."""
        counted = self.alone
        if least is not None:
            counted += tuple(verdict for verdict in self.joined if verdict.unsafe >= least)
        return any(decide(policy, "user", verdict).action == "block" for verdict in counted)


async def judged(guard: Guard, policy: Policy, messages: Chat) -> Judged:
    """The verdicts on every user turn."""
    alone, joined = [], []
    for place, message in enumerate(messages):
        if message.role == "user":
            alone.append(await guard.judge(Check(Conversation((message,)), "user")))
            if earlier := thread_of(messages[: place + 1], policy, lambda _: False):
                text = joined_text((*earlier, message.text), policy.thread.characters)
                part = replace(message.parts[0], text=text)
                joined.append(await guard.judge(Check(Conversation((replace(message, parts=(part,)),)), "user")))
    return Judged(tuple(alone), tuple(joined))


async def measured(data: Path) -> None:
    """Print a table for each preset, with a row for each group of conversations."""
    settings = load_text("version: 1", "bench", {}, app.catalogue())
    policies = {name: load(None, {}, app.catalogue(), name).policies.policies["default"] for name in PRESETS}
    (guard,) = members(settings)
    await guard.start()
    shipped = policies[DEFAULT_PRESET]
    results = {name: [await judged(guard, shipped, one) for one in chats] for name, chats in groups(data)}
    await guard.close()
    print(f"{machine()}, weights {weights()}; {shipped.thread.turns} turns, {shipped.thread.characters} characters")
    for preset, policy in policies.items():
        print(f"\n`{preset}`:\n")
        print(f"| conversations | number | by turn | {' | '.join(f'joined from {least:g}' for least in LEAST)} |")
        print(f"|---|--:|--:|{'--:|' * len(LEAST)}")
        for name, group in results.items():
            counts = [sum(one.stopped(policy, least) for one in group) for least in (None, *LEAST)]
            shares = " | ".join(f"{100 * count / len(group):.1f} % ({count})" for count in counts) if group else ""
            print(f"| {name} | {len(group)} | {shares} |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data")
    asyncio.run(measured(parser.parse_args().data))


if __name__ == "__main__":
    main()
