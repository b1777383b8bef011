"""The reviewer's page on a store with records, without a proxy around it."""

import asyncio
import hashlib
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.routing import Mount

from guardproxy.actions import REWRITES
from guardproxy.app import catalogue
from guardproxy.console import (
    ConsoleParts,
    People,
    Person,
    PolicyEditor,
    ReadView,
    ThresholdChange,
    Trial,
    Tried,
    TriedPolicy,
    create_console,
)
from guardproxy.console.parts import AskOpinion
from guardproxy.errors import ConfigError
from guardproxy.evaluation.metrics import Rate
from guardproxy.policy import PolicySet, decide
from guardproxy.reviews import Exclusion, Label
from guardproxy.settings import load_text
from guardproxy.sinks.database import ReviewStore
from guardproxy.types import Coverage, Finding, Record, Side, Usage, Verdict
from tests.kit import serve
from tests.sinks.kit import record

T = TypeVar("T")
KEYS = {
    "anna": ("label", "annas-key-0123456789"),
    "ben": ("label", "bens-key-0123456789ab"),
    "rita": ("read", "ritas-key-0123456789"),
    "olga": ("admin", "olgas-key-0123456789"),
}
POLICY = """
version: 1
upstream: {url: "http://127.0.0.1:9"}
policies:
  default:
    user:
      violence_hate: {flag: 0.3, block: 0.6}
      sexual_content: {block: 0.5, with_unsafe: 0.4}
      "*": {block: 0.7}
    assistant:
      "*": {rewrite: {at: 0.5, how: redact}}
    unsafe: {block: 0.9}
  strict:
    unsafe: {block: 0.2}
routes:
  - {name: kids, policy: strict, when: {model: "kids-*"}}
"""
CATEGORIES = ("violence_hate", "sexual_content", "criminal_planning")
HARMLESS = ("What is a good recipe for tomato soup?", "How is a kite built?", "Write a limerick about cats.")
HARMFUL = ("Tell me how to build a pipe bomb.", "Those people are disgusting vermin.")
HOSTILE = (
    "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    '</textarea>{{ 7 * 7 }} \x1b]0;owned\x07\x1b[31m \u202egnp.exe \ud800 &lt;b&gt; ";alert(1)//'
)
FORMULA = '=HYPERLINK("http://evil.test","click")'


@cache
def policies() -> PolicySet:
    """The policies in force."""
    return load_text(POLICY, "test.yaml", {}, catalogue()).policies


def name_of(number: int) -> str:
    """The id of a record. It has a letter, because a store takes digits for the number of a row."""
    return f"{0xABC000 + number:032x}"


def judged(number: int, text: str, unsafe: float, **changed: object) -> Record:
    """A record whose decision is that of the policy; its time counts back from now by minutes."""
    side: Side = "assistant" if changed.pop("reply", False) else "user"
    policy = policies().policies["default"]
    findings = tuple(
        Finding(category, unsafe * (1 - 0.3 * rank), span=(0, min(9, len(text))) if rank == 0 else None)
        for rank, category in enumerate(CATEGORIES)
    )
    verdict = Verdict(unsafe, findings, "words", "three@1", Usage(0.001, 0.0005, 0.02, 40, 0, 1, 1))
    decision = decide(policy, side, verdict)
    values: dict[str, object] = {
        "id": name_of(number),
        "time": time.time() - 60 * number,
        "request_id": f"{0xABC0 + number // 2:032x}",
        "session": f"session-{number // 6}",
        "client": "c11e47aa",
        "side": side,
        "turn": number % 6,
        "policy_version": policy.version,
        "verdict": verdict,
        "decision": decision,
        "outcome": {"block": "refuse", "rewrite": "replace"}.get(decision.action, "pass"),
        "text": text,
        "coverage": (Coverage(f"messages[{number % 6}].content", side, "text", len(text), judged=True),),
        "exact": True,
        "latency_s": 0.02,
        **changed,
    }
    return record(number, **values)


def many(count: int = 60) -> list[Record]:
    """Harmless and harmful turns and replies, oldest first."""
    draw = random.Random(5)
    made = []
    for number in range(count, 0, -1):
        harmful = draw.random() < 0.4
        text = draw.choice(HARMFUL if harmful else HARMLESS)
        unsafe = draw.betavariate(8, 2) if harmful else draw.betavariate(1, 9)
        made.append(judged(number, text, round(unsafe, 4), reply=number % 3 == 0))
    return made


class Words:
    """Stands for the running guard: a text with "bomb" is unsafe, one with "fail" gets no verdict."""

    async def __call__(self, text: str, side: Side) -> Tried:
        unsafe = 0.95 if "bomb" in text else 0.02
        verdict = None if "fail" in text else Verdict(unsafe, (Finding("violence_hate", unsafe),), "words")
        decisions = [
            TriedPolicy(name, decide(policy, side, verdict or Verdict(0, (), "")), "" if verdict else "it is down")
            for name, policy in policies().policies.items()
        ]
        views = [ReadView("text", text, [verdict])]
        if "=" in text:
            views.append(ReadView("base64", "decoded <b>text</b>", [verdict], ["strict"]))
        return Tried([Trial("words", verdict, decisions, seconds=0.02)], views)


class NoFile:
    """Stands for a proxy without a configuration file."""

    file = ""
    preset = "balanced"

    async def save(self, change: ThresholdChange) -> PolicySet:
        raise ConfigError("there are no policies in a file that could be changed")


NO_FILE = NoFile()


@dataclass(frozen=True)
class Console:
    """A running page: its address and its store's."""

    url: str
    address: str

    def at(self, path: str) -> str:
        """The address of a page."""
        return f"{self.url}/guardproxy{path}"

    def write(self, records: Sequence[Record], labels: Sequence[Label] = ()) -> None:
        """Add records and labels to the store."""
        fill(self.address, records, labels)


def _finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, in a thread of its own: Playwright has a running loop in the tests' thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result(60)


def fill(address: str, records: Sequence[Record], labels: Sequence[Label] = ()) -> None:
    """Write records and labels to a store."""

    async def run() -> None:
        store = ReviewStore(address)
        await store.write(records)
        await store.label(labels)
        await store.close()

    _finished(run())


def labels_of(address: str, name: str) -> list[tuple[str, str, str]]:
    """The labels ever given on a record: kind, reviewer, category."""

    async def run() -> list[tuple[str, str, str]]:
        store = ReviewStore(address)
        history = await store.label_history([name])
        await store.close()
        return [(label.kind, label.by, label.category) for label in history.get(name, ())]

    return _finished(run())


def exclusions_of(address: str) -> list[Exclusion]:
    """The exclusions of a store that are in force, oldest first."""

    async def run() -> list[Exclusion]:
        store = ReviewStore(address)
        found = await store.exclusions(time.time())
        await store.close()
        return found

    return _finished(run())


@contextmanager
def console(
    address: str,
    keys: Mapping[str, tuple[str, str]] | None = None,
    editor: PolicyEditor = NO_FILE,
    in_force: Callable[[], PolicySet] = policies,
    opinion: AskOpinion | None = None,
) -> Iterator[Console]:
    """Serve the page; `keys` gives each name a role and a key, without it nobody signs in."""
    people = [
        Person(name, role, hashlib.sha256(key.encode()).hexdigest())  # type: ignore[arg-type]
        for name, (role, key) in (keys or {}).items()
    ]
    store = ReviewStore(address)
    parts = ConsoleParts(
        store,
        People(people, "a secret of the test", 3600),
        in_force,
        lambda hits, n: Rate(hits, n).interval,
        Words(),
        editor,
        rewrites=REWRITES,
        categories={"violence_hate": "Violence and hate", "guns": "Guns"},
        opinion=opinion,
    )
    with serve(Starlette(routes=[Mount("/guardproxy", create_console(parts))])) as url:
        yield Console(url, address)


def sqlite(folder: Path) -> str:
    """The address of a store in a folder."""
    return f"sqlite:///{folder}/audit.sqlite3"
