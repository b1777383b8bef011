"""What judging each part of a message by itself changes: messages of several parts that are blocked, and their checks.

    python -m bench.parts docs/evaluation.md [DATA] [--rows 100] [--seed 0]

The texts are prompts of ToxicChat and replies of BeaverTails in DATA, at most `--rows` of each label, put into messages
of several parts as clients and models with tools write them. The last row has harmless calls, written for this project.
Verdicts are stored, as those of `evaluate`.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from prometheus_client import CollectorRegistry

from bench.pages import fill, machine
from bench.sampling import add_options, stratified
from bench.shipped import measured_guard, weights
from guardproxy.evaluation.datasets import read
from guardproxy.evaluation.metrics import Rate
from guardproxy.guards.cache import check_key
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline.judging import Judging
from guardproxy.policy import Policy
from guardproxy.sentences import SentencePolicy
from guardproxy.types import Conversation, Message, Part, Role

ROOT = Path(__file__).parents[1]
CALLS = Path(__file__).with_name("harmless_calls.jsonl")
QUESTION = Message("user", (Part("messages[0].content", "Please go on with the next step."),))
DOCUMENT = "The meeting starts at nine. Please bring the figures of the last quarter and a list of open questions."
AT_ONCE = 32
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


def harmless_calls() -> list[Conversation]:
    """Calls of tools with code, commands, queries and texts, each as a reply without a text."""
    calls = [json.loads(line) for line in CALLS.read_text().splitlines()]
    texts = [f"{call['name']}\n{json.dumps(call['arguments'], ensure_ascii=False)}" for call in calls]
    place = "tool_calls[0].function.arguments"
    return [Conversation((QUESTION, _parts("assistant", (place, text)))) for text in texts]


def harmless_json() -> list[Conversation]:
    """The arguments of the same calls as the content of a reply, as of one that must have the form of a schema."""
    calls = [json.loads(line) for line in CALLS.read_text().splitlines()]
    texts = [json.dumps(call["arguments"], indent=1) for call in calls]
    return [Conversation((QUESTION, _parts("assistant", ("content", text)))) for text in texts]


def as_it_is(chat: Conversation) -> Conversation:
    """The conversation itself: what texts that quote nothing, and those that do, change of their own accord."""
    return chat


def in_json(chat: Conversation) -> Conversation:
    """The text of the last message as a value of JSON."""
    message = chat.messages[-1]
    parts = _parts(message.role, ("messages[0].content", json.dumps({"id": 12, "text": message.text}, indent=1)))
    return Conversation((*chat.messages[:-1], parts))


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
    ("a prompt as a value of JSON", "toxicchat_train_human", in_json),
    ("a reply as a value of JSON", "beavertails_30k_test", in_json),
    ("a prompt as it is", "toxicchat_train_human", as_it_is),
    ("a reply as it is", "beavertails_30k_test", as_it_is),
)


async def compared(judging: Judging, chats: Sequence[Conversation], policy: Policy) -> tuple[str, str]:
    """How many of the chats are blocked with their parts joined only, and by themselves as well; and their checks."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def judged(chat: Conversation, by_part: bool) -> tuple[bool, int]:
        *context, message = chat.messages
        async with slots:
            found = await judging.judgement(tuple(context), message, policy, by_part=by_part)
        return found.decision.action == "block", len(found.scores.by_view) if found.scores else 0

    blocked, checks = [], []
    for by_part in (False, True):
        found = await asyncio.gather(*(judged(chat, by_part) for chat in chats))
        blocked.append(sum(is_blocked for is_blocked, _ in found))
        checks.append(fmean(count for _, count in found))
    low, high = Rate(blocked[1], len(chats)).interval
    return (
        f"{blocked[0]} → {blocked[1]} of {len(chats)} [{low:.0%}, {high:.0%}]",
        f"{checks[0]:.2f} → {checks[1]:.2f}",
    )


async def measured(data: Path, most: int, seed: int) -> list[str]:
    """The rows of the table."""
    metrics = Metrics(CollectorRegistry())
    lines = []
    async with measured_guard() as (guard, shipped):
        policy = replace(shipped, sentences=SentencePolicy())  # they have a measurement of their own
        judging = Judging(guard, Observers({}, text="none", required=False, metrics=metrics), metrics, {})
        for name, source, build in CASES:
            rows = read(data / f"{source}.jsonl.gz").rows
            cells = []
            for unsafe in (True, False):
                of_label = [row for row in rows if row.unsafe is unsafe]
                chosen = stratified([of_label], most, seed, lambda row: check_key(row.check))
                chats = [build(row.check.conversation) for row in chosen]
                blocked, checks = await compared(judging, chats, policy)
                cells += [blocked] if unsafe else [blocked, checks]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        for name, chats in (("a harmless call alone", harmless_calls()), ("its arguments as a text", harmless_json())):
            blocked, checks = await compared(judging, chats, policy)
            lines.append(f"| {name} | | {blocked} | {checks} |")
        print(f"{time.process_time():.0f} s of CPU time, {guard.new} checks, {guard.known} verdicts from the store")
    return lines


def main() -> None:
    """Measure, and write the table between the marks of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="the page with the marks")
    parser.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data" / "dev")
    add_options(parser, 100, "the most texts of each label")
    args = parser.parse_args()
    lines = [
        f"On {machine()}, weights `{weights()}`, drawn with the seed {args.seed}; in brackets 95 % Wilson intervals:",
        "",
        "| message | unsafe blocked | benign blocked | checks of a benign one |",
        "| --- | ---: | ---: | ---: |",
        *asyncio.run(measured(args.data, args.rows, args.seed)),
    ]
    fill(args.page, "parts", "\n".join(lines))


if __name__ == "__main__":
    main()
