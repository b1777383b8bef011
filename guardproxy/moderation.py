"""Judges one turn outside of an exchange: for the command `guardproxy moderate` and for `guardproxy.moderate(chat)`."""

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from prometheus_client import CollectorRegistry

from guardproxy import app
from guardproxy.errors import GuardUnavailable, Unreadable
from guardproxy.frozen import frozen
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline import Exclusions, Judging, in_scope, recent_context, thread_of
from guardproxy.settings import Settings, load
from guardproxy.types import Conversation, Decision, Message, Part, Role, Side, Verdict
from guardproxy.verdicts import worst_findings

T = TypeVar("T")

_ROLES: Mapping[str, Role] = {role: role for role in get_args(Role)}


@frozen
class Moderation:
    """The verdict on a turn and the default policy's decision. `seconds` is the time of judging, without loading.

    `unread` are the languages of the turn that the guard does not read.
    """

    verdict: Verdict
    decision: Decision
    side: Side
    policy: str
    policy_version: str
    seconds: float
    unread: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As JSON values: P(unsafe), the probability of every category, the decision and its reasons."""
        reasons = [
            {
                "category": reason.category,
                "probability": reason.probability,
                "threshold": reason.threshold,
                "with_unsafe": reason.with_unsafe,
                "action": reason.action,
            }
            for reason in self.decision.reasons
        ]
        return {
            "unsafe": self.verdict.unsafe,
            "categories": {name: found.probability for name, found in worst_findings(self.verdict.findings).items()},
            "decision": {"action": self.decision.action, "how": self.decision.how, "reasons": reasons},
            "view": self.verdict.view,
            "side": self.side,
            "guard": self.verdict.guard,
            "taxonomy": self.verdict.taxonomy,
            "policy": self.policy,
            "policy_version": self.policy_version,
            "seconds": self.seconds,
            "unread_languages": list(self.unread),
        }


def moderate(
    chat: Sequence[Mapping[str, str]], *, side: Side | None = None, config: str | os.PathLike[str] | None = None
) -> Moderation:
    """Judge the last turn of `chat`. See `guardproxy.moderate`."""
    conversation = read_chat(chat, side)
    return _guard_for(config).judge(conversation)


def read_chat(chat: Sequence[Mapping[str, str]], side: Side | None = None) -> Conversation:
    """The chat as a conversation. If `side` is set, the last message gets its role.

    Raises Unreadable with the path of the mistake.
    """
    if not isinstance(chat, list | tuple) or not chat:
        raise Unreadable("must be a list of at least one message", "chat")
    messages = [_message(message, f"chat[{index}]") for index, message in enumerate(chat)]
    if not messages[-1].text.strip():
        raise Unreadable("there is no text to judge", f"chat[{len(chat) - 1}].content")
    if side is not None and messages[-1].side != side:
        messages[-1] = replace(messages[-1], role=side)
    return Conversation(tuple(messages))


def _message(value: Any, path: str) -> Message:
    if not isinstance(value, Mapping):
        raise Unreadable("must be an object with role and content", path)
    unknown = set(value) - {"role", "content"}
    if unknown:
        raise Unreadable(f"unknown key {min(map(str, unknown))!r}; known: role, content", path)
    role, content = _ROLES.get(str(value.get("role"))), value.get("content")
    if role is None:
        raise Unreadable(f"must be one of {', '.join(_ROLES)}", f"{path}.role")
    if not isinstance(content, str):
        raise Unreadable("must be a text", f"{path}.content")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise Unreadable("contains an unpaired surrogate", f"{path}.content") from error
    return Message(role, (Part(f"{path}.content", content),))


class _Loaded:
    """A guard on an event loop in its own thread, so that synchronous code can call it, even in a running loop."""

    def __init__(self, settings: Settings) -> None:
        self._policy = settings.policies.policies["default"]
        self._guard = app.guard(settings)
        metrics = Metrics(CollectorRegistry())
        observers = Observers({}, text="none", required=False, metrics=metrics)
        exclusions = Exclusions()
        exclusions.use("configuration", app.exclusions_of(settings))
        reads = app.languages_read(settings)
        traits = app.traits(settings)
        self._judging = Judging(self._guard, observers, metrics, {}, reads=reads, exclusions=exclusions, traits=traits)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="guardproxy-moderate", daemon=True).start()
        try:
            self._run(self._guard.start())
        except BaseException:
            self.close()
            raise

    def judge(self, conversation: Conversation) -> Moderation:
        """The verdict on the last turn and the decision. Raises GuardUnavailable."""
        *context, turn = conversation.messages
        started, policy = time.perf_counter(), self._policy
        thread = thread_of(conversation.messages, policy, self._judging.excluded)
        readable = in_scope(turn, policy.judge)
        judged = self._run(self._judging.judgement(recent_context(context), readable, policy, thread=thread))
        if judged.verdict is None:
            raise GuardUnavailable(judged.error)
        seconds = time.perf_counter() - started
        return Moderation(
            judged.verdict, judged.decision, turn.side, policy.name, policy.version, seconds, judged.unread
        )

    def close(self) -> None:
        """Release the model and end the thread."""
        self._run(self._guard.close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


_lock = threading.Lock()
# The guard of the latest configuration only: a second model would double the memory.
_loaded: dict[tuple[str | None, int], _Loaded] = {}


def _guard_for(config: str | os.PathLike[str] | None) -> _Loaded:
    """The loaded guard of a configuration. If the file has changed, it is read again and the guard is loaded anew."""
    with _lock:
        key = _key(config)
        if key not in _loaded:
            settings = load(config, os.environ, app.catalogue(), without_secrets=True)
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
