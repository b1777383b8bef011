"""One turn judged outside of any exchange: what `guardproxy moderate` prints, and `guardproxy.moderate` returns."""

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from prometheus_client import CollectorRegistry

from guardproxy import app
from guardproxy.errors import GuardUnavailable, Unreadable
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline.judging import Judging, recent, scoped, side_of
from guardproxy.settings import Settings, load
from guardproxy.types import Conversation, Decision, Message, Part, Role, Side, Verdict

T = TypeVar("T")

_ROLES: Mapping[str, Role] = {role: role for role in get_args(Role)}


@dataclass(frozen=True, slots=True)
class Moderation:
    """A turn's verdict and what the default policy decides on it. `seconds` is what judging took, loading left out."""

    verdict: Verdict
    decision: Decision
    side: Side
    policy: str
    policy_version: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values: P(unsafe), every category's probability, the decision and its reasons."""
        reasons = [
            {
                "category": reason.category,
                "probability": reason.probability,
                "threshold": reason.threshold,
                "action": reason.action,
            }
            for reason in self.decision.reasons
        ]
        return {
            "unsafe": self.verdict.unsafe,
            "categories": {finding.category: finding.probability for finding in self.verdict.findings},
            "decision": {"action": self.decision.action, "how": self.decision.how, "reasons": reasons},
            "side": self.side,
            "guard": self.verdict.guard,
            "taxonomy": self.verdict.taxonomy,
            "policy": self.policy,
            "policy_version": self.policy_version,
            "seconds": self.seconds,
        }


def moderate(
    chat: Sequence[Mapping[str, str]], *, side: Side | None = None, config: str | os.PathLike[str] | None = None
) -> Moderation:
    """What `guardproxy.moderate` does."""
    conversation = read_chat(chat, side)
    return _guard_for(config).judge(conversation)


def read_chat(chat: Sequence[Mapping[str, str]], side: Side | None = None) -> Conversation:
    """The chat as a conversation; the role of its last message becomes `side` where that is given.

    Raises Unreadable with the place of what is wrong.
    """
    if not isinstance(chat, list | tuple) or not chat:
        raise Unreadable("must be a list of messages that is not empty", "chat")
    messages = [_message(one, f"chat[{place}]") for place, one in enumerate(chat)]
    if not messages[-1].text.strip():
        raise Unreadable("there is no text to judge", f"chat[{len(chat) - 1}].content")
    if side is not None and side_of(messages[-1]) != side:
        messages[-1] = replace(messages[-1], role=side)
    return Conversation(tuple(messages))


def _message(given: Any, path: str) -> Message:
    if not isinstance(given, Mapping):
        raise Unreadable("must be an object with role and content", path)
    unknown = set(given) - {"role", "content"}
    if unknown:
        raise Unreadable(f"unknown key {min(map(str, unknown))!r}; known: role, content", path)
    role, content = _ROLES.get(str(given.get("role"))), given.get("content")
    if role is None:
        raise Unreadable(f"must be one of {', '.join(_ROLES)}", f"{path}.role")
    if not isinstance(content, str):
        raise Unreadable("must be a text", f"{path}.content")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise Unreadable("has half of a surrogate pair, which is no character", f"{path}.content") from error
    return Message(role, (Part(f"{path}.content", content),))


class _Loaded:
    """A guard on an event loop of its own, so that it can be asked from anywhere, a running loop included."""

    def __init__(self, settings: Settings) -> None:
        self._policy = settings.policies.policies["default"]
        self._guard = app.guard(settings)
        metrics = Metrics(CollectorRegistry())
        observers = Observers({}, text="none", required=False, metrics=metrics)
        self._judging = Judging(self._guard, observers, metrics, {})
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="guardproxy-moderate", daemon=True).start()
        try:
            self._run(self._guard.start())
        except BaseException:
            self.close()
            raise

    def judge(self, conversation: Conversation) -> Moderation:
        """The verdict on the last turn and the decision on it. Raises GuardUnavailable."""
        *context, turn = conversation.messages
        started = time.perf_counter()
        verdict, decision, error = self._run(
            self._judging.judge(recent(context), scoped(turn, self._policy), self._policy)
        )
        if verdict is None:
            raise GuardUnavailable(error)
        seconds = time.perf_counter() - started
        return Moderation(verdict, decision, side_of(turn), self._policy.name, self._policy.version, seconds)

    def close(self) -> None:
        """Release the model and end the thread."""
        self._run(self._guard.close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


_lock = threading.Lock()
# The guard of the latest configuration: a second model would double the memory.
_loaded: dict[tuple[str | None, int], _Loaded] = {}


def _guard_for(config: str | os.PathLike[str] | None) -> _Loaded:
    """The loaded guard of a configuration; a file that has changed is read again."""
    with _lock:
        key = _key(config)
        if key not in _loaded:
            settings = load(config, os.environ, app.catalogue())
            _close()
            _loaded[key] = _Loaded(settings)
        return _loaded[key]


def _key(config: str | os.PathLike[str] | None) -> tuple[str | None, int]:
    if config is None:
        return None, 0
    path = Path(config).resolve()
    return str(path), path.stat().st_mtime_ns if path.exists() else 0


@atexit.register
def _close() -> None:
    for key in list(_loaded):
        _loaded.pop(key).close()
