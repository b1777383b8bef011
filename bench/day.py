"""A day of traffic for a reviewer: many requests of 50 users through a running proxy, and what its audit store holds.

    python -m bench.day FOLDER [--requests 10000] [--seed 1] [--data ../shared/data/dev] [--limit-s 3600]

The proxy is `guardproxy serve` as a process with the embedded guard; FOLDER gets its configuration, its store, its
log and `truth.jsonl`, so that a reviewer can go on with them. The upstream is in this process and answers at once with
short texts and with replies from the labelled data. Three of the users send mostly unsafe prompts. Chats are of several
turns, in eight protocols, streamed and whole; some clients leave early, some answers fail. The same seed gives the same
day.

It prints how the requests ended, and compares the store with what was sent: each turn must have one record. A turn of
the history may have another one only if the decision about it has changed; these are counted by themselves.
"""

import argparse
import asyncio
import json
import logging
import os
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.day_clients import REFUSAL, Day, held
from bench.day_traffic import ABUSERS, ROOT, Chat, DayUpstream, Said, planned
from guardproxy.observe.masking import short_hash
from guardproxy.sinks.database import AuditStore, default_store_url
from guardproxy.types import Record
from tests.e2e.test_serve import running
from tests.kit import serve

CONFIG = """version: 1
upstream: {{url: "{upstream}"}}
audit: {{text: full, sample_passed: 0.05, log: false}}
console:
  keys:
    - {{name: rita, role: admin, key: "${{env:REVIEWER_KEY}}"}}
policies:
  default:
    preset: balanced
  children:
    preset: strict
    stream: {{mode: hold_all}}
  watched:
    preset: permissive
    stream: {{mode: monitor}}
routes:
  - {{name: children, policy: children, when: {{model: "kids-*"}}}}
  - {{name: bulk, policy: watched, when: {{model: "bulk-*"}}, shadow: [default]}}
"""


@dataclass
class Holdings:
    """What the store holds of a day. `wrong` names differences between what was sent and what is stored."""

    records: int = 0
    of: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    stopped: Counter[tuple[str, str]] = field(default_factory=Counter)
    of_users: Counter[str] = field(default_factory=Counter)


async def stored(folder: Path) -> list[Record]:
    """Every record of the store."""
    store = AuditStore(default_store_url(str(folder)), create=False)
    records = [row.record async for row in store.scan()]
    await store.close()
    return records


def compared(chats: Sequence[Chat], day: Day, asked: Iterable[str], records: Sequence[Record]) -> Holdings:
    """Compare the records with what was sent. Records are found by the session, which no two chats share."""
    found = Holdings(len(records))
    by_session: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_session[record.origin.session].append(record)
    reached, sent = set(asked), set(day.sent)
    for chat in chats:
        requests: dict[str, list[Record]] = defaultdict(list)
        of_chat = by_session.pop(short_hash(chat.session.encode()), [])
        for record in of_chat:
            requests[record.origin.request_id].append(record)
        _compare_repeats(found, of_chat, requests)
        last = {max(r.turn for r in group if r.side == "user"): group for group in requests.values()}
        if len(last) < len(requests):
            found.wrong["requests with two ids"] += len(requests) - len(last)
        for number in range(len(chat.turns)):
            if chat.key(number) in sent:
                _compare(found, chat, number, last.pop(2 * number, []), chat.key(number) in reached)
        found.wrong["requests that nobody sent"] += len(last)
    found.wrong["records of sessions that nobody began"] += sum(map(len, by_session.values()))
    found.wrong = +found.wrong
    return found


def _compare_repeats(found: Holdings, of_chat: Sequence[Record], requests: dict[str, list[Record]]) -> None:
    """Find turns that were recorded again although nothing about them had changed, and judged refusals of the proxy."""
    current = {name: max(r.turn for r in group if r.side == "user") for name, group in requests.items()}
    latest: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for record in of_chat:
        turn = record.side, record.turn, record.text, record.policy, record.shadow
        decision, withheld = record.decision, record.outcome in ("refuse", "drop")
        said = decision.action, decision.cause, set(decision.categories), withheld, bool(record.error)
        if record.turn < current[record.origin.request_id]:
            found.wrong["turns recorded again with the same decision"] += latest.get(turn) == said
            found.wrong["refusals of the proxy that were judged"] += record.text == REFUSAL and turn[0] == "assistant"
        latest[turn] = said


def _compare(found: Holdings, chat: Chat, number: int, group: Sequence[Record], reached: bool) -> None:
    """Compare the records of one request."""
    turn, current = chat.turns[number], 2 * number
    shadows = 2 if chat.model.startswith("bulk-") else 1
    prompts = [r for r in group if r.side == "user" and r.turn == current]
    replies = [r for r in group if r.side == "assistant" and r.turn == current + 1]
    again = len(group) - len(prompts) - len(replies)
    found.of["user turns"] += len(prompts)
    found.of["replies and errors"] += len(replies)
    found.of["turns of the history, decided anew"] += again
    if turn.leaves == "waiting" and not group and not reached:
        found.of["requests that were given up before they were read"] += 1
    elif len(prompts) != (wanted := _wanted(prompts, shadows)):
        found.wrong[f"user turns with {len(prompts)} records instead of {wanted}"] += 1
    wanted = _wanted(replies, shadows) if reached else 0
    if (turn.leaves or turn.breaks) and not any(r.text for r in replies):
        # Nothing of the reply was read, so nothing was judged: there may be a record of the acting policy.
        found.of["replies of which nothing was read"] += reached
        wanted = len(replies) if len(replies) <= 1 else shadows
    if len(replies) != wanted:
        found.wrong[f"replies with {len(replies)} records instead of {wanted}"] += 1
    found.wrong["wrong end users"] += sum(r.origin.user != short_hash(chat.user.encode()) for r in group)
    found.wrong["wrong texts"] += sum(r.exact and r.text != turn.prompt.text for r in prompts)
    found.wrong["wrong texts"] += sum(r.complete and r.exact and r.text != turn.reply.text for r in replies)
    _count(found, chat, "prompts", turn.prompt, prompts)
    _count(found, chat, "replies", turn.reply, replies)


def _wanted(records: Sequence[Record], shadows: int) -> int:
    """How many records a turn must have: without a verdict, a shadow policy has nothing to decide about."""
    return 1 if any(record.verdict is None for record in records) else shadows


def _count(found: Holdings, chat: Chat, what: str, said: Said, records: Sequence[Record]) -> None:
    """Count what was decided about a text, by what is true of it."""
    kind = {True: "unsafe", False: "harmless", None: "unlabelled"}[said.unsafe]
    for record in records:
        if not record.shadow:
            found.stopped[f"{kind} {what}", record.decision.action] += 1
            found.of_users[chat.user] += record.decision.action == "block" and what == "prompts"


def write_truth(path: Path, chats: Sequence[Chat]) -> None:
    """A line for each labelled turn: session as the store has it, turn, side, and whether it is unsafe."""
    with path.open("w") as file:
        for chat in chats:
            session = short_hash(chat.session.encode())
            for number, turn in enumerate(chat.turns):
                for side, said in (("user", turn.prompt), ("assistant", turn.reply)):
                    if said.unsafe is not None:
                        row = {"session": session, "turn": 2 * number + (side == "assistant"), "side": side}
                        print(json.dumps({**row, "user": chat.user, "unsafe": said.unsafe}), file=file)


def report(day: Day, found: Holdings) -> str:
    """The report as text."""
    lines = [f"{len(day.sent)} requests in {day.seconds:.0f} s, {len(day.sent) / day.seconds:.1f} a second"]
    if day.stopped:
        lines.append("the time was up: the rest of the day was left out")
    lines += [f"  {number:>7} {what}" for what, number in day.outcomes.most_common()]
    lines.append(f"{found.records} records")
    lines += [f"  {number:>7} {what}" for what, number in found.of.most_common()]
    actions = ("pass", "flag", "rewrite", "block")
    lines.append(f"  {'':<20}" + "".join(f"{action:>9}" for action in actions))
    for kind in sorted({kind for kind, _ in found.stopped}):
        lines.append(f"  {kind:<20}" + "".join(f"{found.stopped[kind, action]:>9}" for action in actions))
    worst = ", ".join(f"{user} {number}" for user, number in found.of_users.most_common(5))
    lines.append(f"blocked prompts by user: {worst} (sent mostly unsafe ones: {', '.join(ABUSERS)})")
    lines.append("every turn is recorded once" if not found.wrong else "WRONG:")
    lines += [f"  {number:>7} {what}" for what, number in found.wrong.most_common()]
    return "\n".join(lines)


def main() -> int:
    """Run a day, print the report; return 1 if the store does not hold what was sent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "dev")
    parser.add_argument("--limit-s", type=float, default=3600, help="seconds after which no further chat begins")
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    os.environ.setdefault("REVIEWER_KEY", "the-key-of-the-reviewer")
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it tells of every answer that breaks off
    chats = planned(args.requests, args.seed, args.data)
    write_truth(args.folder / "truth.jsonl", chats)
    upstream = DayUpstream(chats)
    began = time.monotonic()
    with serve(upstream) as below, running(args.folder, config=CONFIG.format(upstream=below), timeout_s=600) as url:
        print(f"the proxy is ready after {time.monotonic() - began:.0f} s", flush=True)
        day = asyncio.run(held(url, chats, args.limit_s))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = compared(chats, day, upstream.asked, asyncio.run(stored(args.folder)))
    print(report(day, found))
    print(f"CPU time of the proxy, with its start: {used.ru_utime + used.ru_stime:.0f} s")
    print(f"review it: guardproxy serve --config {args.folder}/guardproxy.yaml --data-dir {args.folder}")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
