"""Runs every trick with every prompt through the pipeline and reports whether the text gets past."""

import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from guardproxy.actions import REGISTRY
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline import Exchange, Pipeline
from guardproxy.policy import Policy
from guardproxy.ports import Guard
from guardproxy.registry import load
from guardproxy.types import Category, Check, Finding, Origin, Taxonomy, Verdict
from guardproxy.wires.openai_chat import wire
from tests.escapes import tricks
from tests.escapes.disguises import DISGUISES

_CANARIES = Path(__file__).parent.parent.parent / "training" / "canaries.jsonl"
_MORE = Path(__file__).parent / "prompts.txt"
_FILE = "data:text/plain;base64,"


def canaries() -> list[str]:
    """Return the plain harmful texts that the embedded guard is held to."""
    rows = [json.loads(line) for line in _CANARIES.read_text().splitlines()]
    return [row["text"] for row in rows if row["unsafe"]]


def prompts() -> list[str]:
    """Return harmful texts in plain words, written for these tests: the canaries, and more."""
    return canaries() + _MORE.read_text().splitlines()


def squeezed(text: str) -> str:
    """Return a text without white space and case."""
    return "".join(text.split()).casefold()


def spelled(text: str) -> str:
    """Return the words of a text, without case and punctuation, as the scripted guard reads it."""
    return " ".join(re.findall(r"\w+", text)).casefold()


class KnowsThem:
    """A guard that finds the plain prompts and nothing else."""

    name = "scripted"
    taxonomy = Taxonomy("scripted", (Category("harm", "Harm"),))

    def __init__(self, texts: list[str]) -> None:
        self._texts = [spelled(text) for text in texts]

    async def judge(self, check: Check) -> Verdict:
        """Judge a turn unsafe if it contains a known prompt."""
        read = spelled(check.turn.text)
        unsafe = 0.99 if any(text in read for text in self._texts) else 0.01
        return Verdict(unsafe, (Finding("harm", unsafe),), self.name)

    def forget(self, stream: str) -> None:
        """Do nothing: nothing is cached."""

    async def start(self) -> None:
        """Do nothing: there is nothing to load."""

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""


class KnowsThemAlone(KnowsThem):
    """A guard that finds a plain prompt only if nothing else stands beside it."""

    async def judge(self, check: Check) -> Verdict:
        """Judge a turn unsafe if it is a known prompt."""
        unsafe = 0.99 if spelled(check.turn.text) in self._texts else 0.01
        return Verdict(unsafe, (Finding("harm", unsafe),), self.name)


@dataclass(frozen=True)
class Attempt:
    """A trick with a prompt, and whether the text got past the proxy."""

    kind: str
    trick: str
    prompt: str
    past: bool


class Attempts:
    """Tries tricks on the pipeline of a guard and a policy; `padding` is the harmless text in long requests."""

    def __init__(self, guard: Guard, policy: Policy, padding: str = tricks.PADDING) -> None:
        metrics = Metrics(CollectorRegistry())
        actions = {name: load(name, REGISTRY, "action") for name in REGISTRY}
        self._policy = policy
        self._places, self._replies = tricks.places(padding), tricks.replies(padding)
        self._pipeline = Pipeline(guard, Observers({}, metrics=metrics, text="none"), metrics, actions)

    def _exchange(self, body: tricks.Placed) -> Exchange:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = wire.parse_request("/v1/chat/completions", raw)
        return Exchange(wire, request, Origin("id", "default", wire.name, "u", "m"), self._policy)

    async def disguised(self, trick: str, prompt: str) -> Attempt:
        """Send the disguised prompt as the user's turn: past if it is forwarded."""
        body = tricks.ask(tricks.user(DISGUISES[trick](prompt)))
        review = await self._pipeline.review_request(self._exchange(body))
        return Attempt("disguise", trick, prompt, review.refusal is None)

    async def placed(self, trick: str, prompt: str) -> Attempt:
        """Send the prompt somewhere in the request: past if the forwarded body contains both halves of it."""
        review = await self._pipeline.review_request(self._exchange(self._places[trick](prompt)))
        past = False
        if review.refusal is None:
            fields = squeezed(_words(json.loads(review.body)))
            past = all(squeezed(half) in fields for half in tricks.halves(prompt))
        return Attempt("place", trick, prompt, past)

    async def replied(self, trick: str, prompt: str, *, streamed: bool) -> Attempt:
        """Put the prompt somewhere in the reply, whole or streamed: past if the client receives it."""
        exchange = self._exchange(tricks.ask(tricks.user("Hello."), stream=streamed))
        messages = self._replies[trick](prompt)
        if streamed:
            pieces = self._pipeline.review_stream(exchange, _played(tricks.stream(messages)), "text/event-stream")
            fields = _streamed_words(b"".join([piece async for piece in pieces]))
        else:
            fields = _words(json.loads((await self._pipeline.review_reply(exchange, tricks.reply(messages))).body))
        return Attempt("streamed reply" if streamed else "reply", trick, prompt, squeezed(prompt) in squeezed(fields))


async def _played(frames: list[bytes]) -> AsyncIterator[bytes]:
    for frame in frames:
        yield frame


def _words(value: Any) -> str:
    """Return every string in a body but roles and types, joined, with the strings in embedded JSON and in files."""
    if isinstance(value, str):
        decoded = ""
        if value.startswith(_FILE):
            decoded = base64.b64decode(value.removeprefix(_FILE)).decode()
        if value.startswith("{"):
            try:
                decoded = _words(json.loads(value))
            except ValueError:
                decoded = ""
        return value + " " + decoded
    if isinstance(value, dict):
        return " ".join(_words(item) for key, item in value.items() if key not in ("type", "role"))
    if isinstance(value, list):
        return " ".join(_words(item) for item in value)
    return ""


def _streamed_words(stream: bytes) -> str:
    """Return the text that a client assembles from a stream: each field of each choice, joined."""
    fields: dict[str, str] = {}
    for line in stream.decode().split("\n\n"):
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                for key, value in choice["delta"].items():
                    _gather(fields, f"{choice['index']}.{key}", value)
    return " ".join(fields.values()) + " " + " ".join(_words(text) for text in fields.values())


def _gather(fields: dict[str, str], key: str, value: Any) -> None:
    if isinstance(value, str):
        fields[key] = fields.get(key, "") + value
    elif isinstance(value, dict):
        for name, item in value.items():
            _gather(fields, f"{key}.{name}", item)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            index = item.get("index", place) if isinstance(item, dict) else place
            _gather(fields, f"{key}[{index}]", item)
