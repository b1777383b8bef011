"""What judging each part of a message by itself changes: messages of several parts that are blocked, and their checks.

    python -m bench.parts [--rows 100] [DATA]

The texts are prompts of ToxicChat and replies of BeaverTails in DATA with their labels, in the order of their SHA-256,
put into messages of several parts as clients and models with tools write them.
"""

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

from bench.pages import machine
from bench.shipped import shipped
from guardproxy.evaluation.datasets import read
from guardproxy.guards.cache import check_key
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline.judging import Judging
from guardproxy.types import Conversation, Message, Part, Role

ROOT = Path(__file__).parents[1]
DOCUMENT = "The meeting starts at nine. Please bring the figures of the last quarter and a list of open questions."
Build = Callable[[Conversation], Conversation]


def _parts(role: Role, *texts: tuple[str, str]) -> Message:
    """A message of parts, given by path and text."""
    return Message(role, tuple(Part(path, text, "tool_call" if "call" in path else "text") for path, text in texts))


def call_behind(text: str) -> Build:
    """The text of the last message as the argument of a call behind `text`."""

    def build(chat: Conversation) -> Conversation:
        arguments = json.dumps({"input": chat.messages[-1].text})
        reply = _parts("assistant", ("content", text), ("tool_calls[0].function.arguments", arguments))
        return Conversation((*chat.messages[:-1], reply))

    return build


def behind_document(chat: Conversation) -> Conversation:
    """The text of the last message as the question behind a document."""
    text = chat.messages[-1].text
    question = _parts("user", ("messages[0].content[0].text", DOCUMENT), ("messages[0].content[1].text", text))
    return Conversation((*chat.messages[:-1], question))


def halves(chat: Conversation) -> Conversation:
    """The last message with its text in two parts, divided at the space nearest to its middle."""
    text, role = chat.messages[-1].text, chat.messages[-1].role
    spaces = [at for at, char in enumerate(text) if char == " "] or [len(text) // 2]
    at = min(spaces, key=lambda place: abs(place - len(text) // 2))
    parts = _parts(role, ("messages[0].content[0].text", text[:at]), ("messages[0].content[1].text", text[at:]))
    return Conversation((*chat.messages[:-1], parts))


CASES: Sequence[tuple[str, str, Build]] = (
    ("a call behind “Sure.”", "beavertails_30k_test", call_behind("Sure.")),
    (
        "a call behind a sentence",
        "beavertails_30k_test",
        call_behind("I will look that up for you, one moment please."),
    ),
    ("a prompt behind a document", "toxicchat_train_human", behind_document),
    ("a prompt in two halves", "toxicchat_train_human", halves),
)


async def measured(data: Path, most: int) -> None:
    """Print the rows of the table."""
    guard, policy = shipped()
    metrics = Metrics(CollectorRegistry())
    judging = Judging(guard, Observers({}, text="none", required=False, metrics=metrics), metrics, {})
    await guard.start()
    for name, source, build in CASES:
        rows = [row for row in read(data / f"{source}.jsonl.gz").rows if row.unsafe is not None]
        rows = sorted(rows, key=lambda row: check_key(row.check))
        cells = []
        for unsafe in (True, False):
            blocked, checks = [0, 0], [0, 0]
            chosen = [row.check.conversation for row in rows if bool(row.unsafe) == unsafe][:most]
            for chat in map(build, chosen):
                *context, message = chat.messages
                for by_part in (False, True):
                    judged = await judging.judgement(tuple(context), message, policy, by_part=by_part)
                    blocked[by_part] += judged.decision.action == "block"
                    checks[by_part] += len(judged.scores.by_view) if judged.scores else 0
            cells += [f"{blocked[0]} → {blocked[1]} of {len(chosen)}"]
            cells += [f"{checks[0] / len(chosen):.2f} → {checks[1] / len(chosen):.2f}"] if not unsafe else []
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    await guard.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data" / "dev")
    parser.add_argument("--rows", type=int, default=100, help="the most texts of each label")
    args = parser.parse_args()
    print(f"{machine()}\n\n| message | unsafe blocked | benign blocked | checks of a benign one |\n|---|--:|--:|--:|")
    asyncio.run(measured(args.data, args.rows))


if __name__ == "__main__":
    main()
