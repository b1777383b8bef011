"""A server with OpenAI's chat completions API as a replica of a guard that answers with a label."""

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx

from guardproxy.asking import Asker
from guardproxy.errors import GuardproxyError, GuardUnavailable, Overloaded, Unintelligible
from guardproxy.guards.completions.api import CallRefused, described, failure_of_call, json_object
from guardproxy.guards.completions.reader import gathered
from guardproxy.guards.completions.words import word_reading
from guardproxy.guards.http_calls import HttpCalls
from guardproxy.guards.links import GuardIdentity, ReplicaFailed
from guardproxy.guards.services import windows
from guardproxy.questions import ChatAnswer, LabelFamily, Question
from guardproxy.types import Check, Conversation, Message, Part, Span, Usage, Verdict
from guardproxy.verdicts import usage_in_parallel, worst

# With these in an answer's content, the server has not taken the model's channels apart: what is reasoning, and what
# the answer, would be a guess.
_CHANNELS: Final = ("<|channel|>", "<|message|>", "<|start|>", "<think>", "</think>")


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How a model is asked in a chat: at most `calls` run at once.

    Where the probabilities of a word are read, the server shows `top` tokens, and a verdict that may be off by more
    than `uncertainty` counts as none.
    """

    calls: int = 32
    top: int = 20
    uncertainty: float = 0.01


class ChatLink:
    """Implements `ReplicaLink` with the API of a server. `url` is its address, `guard` the name of the guard.

    `model` is the model's name there, `prefix` the path of the API.
    """

    def __init__(
        self,
        url: str,
        guard: str,
        family: LabelFamily,
        *,
        calls: HttpCalls,
        model: str,
        prefix: str = "/v1",
        options: ChatOptions = ChatOptions(),
    ) -> None:
        self.name = url
        self._guard = guard
        self._family = family
        self._http = calls
        self._model = model
        self._chat = calls.url(f"{prefix}/chat/completions")
        self._models = calls.url(f"{prefix}/models")
        self._options = options
        self._calls = asyncio.Semaphore(options.calls)
        self._sees = False
        self._judging = 0
        taxonomy = family.taxonomy
        version = hashlib.sha256(f"{model}\n{taxonomy.version}".encode()).hexdigest()[:12]
        self._identity = GuardIdentity(guard, f"{taxonomy.id}@{taxonomy.version}", f"{version} ({model})")

    def facts(self) -> dict[str, str | int]:
        """Nothing is found out: the options say how the server is asked."""
        return {}

    async def identity(self) -> GuardIdentity:
        """What the guard is. Raises ReplicaFailed if the server does not answer, or has no model of the name."""
        # Some servers answer one call at a time: behind checks that run, this question would wait as long as they do.
        if not self._judging:
            try:
                await described(self._http, self._models, self._model)
            except Overloaded as busy:
                raise ReplicaFailed("declined", str(busy)) from None
        return self._identity

    async def judge(self, check: Check, asker: Asker) -> tuple[Verdict, str]:
        """The verdict. Raises as `ReplicaLink.judge`; a server has no clients of ours, so the asker is not told."""
        del asker
        self._judging += 1
        try:
            return await self._judged(check), self._identity.version
        except (ReplicaFailed, GuardproxyError):
            raise
        except CallRefused as refused:
            # The server's message may quote the text.
            raise Unintelligible(
                f"the server refuses the question ({refused.status}): the text may be longer than the model reads, or "
                "the server may not know options.response_format, or read no images"
            ) from None
        except Exception as error:
            raise GuardUnavailable(f"the label cannot be read: {type(error).__name__}") from error
        finally:
            self._judging -= 1

    async def forget(self, stream: str) -> None:
        """Do nothing: the server's prefix cache forgets by itself."""

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def _judged(self, check: Check) -> Verdict:
        turn = check.turn
        pieces = windows(turn.text, self._family.limit, in_bytes=False)
        if len(turn.images) > 1:
            raise GuardUnavailable("a question shows one image, and the check has several")
        if turn.images and not self._sees:
            await self._require_sight(check)
        if len(pieces) == 1:
            return await self._window(check)
        verdicts = await gathered([self._window(_with_text(check, piece)) for piece in pieces])
        step = self._family.limit - self._family.limit // 10
        placed = [
            _at(verdict, (index * step, index * step + len(piece)))
            for index, (verdict, piece) in enumerate(zip(verdicts, pieces, strict=True))
        ]
        return replace(worst(placed), usage=usage_in_parallel([verdict.usage for verdict in verdicts]))

    async def _window(self, check: Check) -> Verdict:
        question = self._family.ask(check)
        began = time.perf_counter()
        async with self._calls:
            called = time.perf_counter()
            content = await self._asked(question)
        ended = time.perf_counter()
        text, line, options = read_answer(content), question.line, self._options
        reading = word_reading(content, text, line, options.top, options.uncertainty) if line else None
        verdict = self._family.parse(check, ChatAnswer(text, reading), self._guard)
        computed, reused = _tokens(content)
        usage = Usage(called - began, 0.0, ended - called, computed, reused, batch=1)
        return replace(verdict, usage=usage)

    async def _asked(self, question: Question) -> Mapping[str, Any]:
        """The server's answer. Raises CallRefused, ReplicaFailed, Overloaded."""
        body = {
            "model": self._model,
            "messages": _messages(question),
            "max_tokens": self._family.tokens,
            "temperature": 0,
            "stream": False,
            **({"logprobs": True, "top_logprobs": self._options.top} if question.line else {}),
            **question.options,
        }
        answer = await self._http.call("POST", self._chat, json.dumps(body).encode())
        if answer.status != httpx.codes.OK:
            failure = failure_of_call(answer)
            refused = isinstance(failure, CallRefused) and question.image is None
            if refused and answer.status >= httpx.codes.INTERNAL_SERVER_ERROR:
                failure = ReplicaFailed("failed", f"it answers {answer.status}")
            raise failure
        return json_object(answer.body)

    async def _require_sight(self, check: Check) -> None:
        """Compare how many tokens the server reads with an image and without it, once. Raises GuardUnavailable."""
        question = self._family.ask(_with_text(check, "Hello."))
        async with self._calls:
            seen, unseen = [_tokens_read(await self._asked(one)) for one in (question, replace(question, image=None))]
        if seen <= unseen:
            # No failure of the replica: a client that sends images would take the server out of use for texts.
            raise GuardUnavailable(
                f"the server reads {unseen} tokens without an image and {seen} with one: it leaves images out"
            )
        self._sees = True


def read_answer(answer: Mapping[str, Any]) -> str:
    """The text of an answer that the model has ended by itself.

    Raises Unintelligible if it was cut off, refused, calls a tool, or is not the final channel alone; ReplicaFailed if
    this is no chat completion.
    """
    try:
        (choice,) = answer["choices"]
        message, finish = choice["message"], choice["finish_reason"]
        content, calls, refusal = message.get("content"), message.get("tool_calls"), message.get("refusal")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ReplicaFailed("failed", "its answer is no chat completion with one choice") from None
    if finish == "length":
        raise Unintelligible("the answer was cut off; if the family has options.max_answer_tokens, raise it")
    if calls or message.get("function_call"):
        raise Unintelligible("the model called a tool instead of answering")
    if refusal or finish == "content_filter":
        raise Unintelligible("the model or its server refused to answer")
    if finish != "stop":
        raise Unintelligible("the model did not end its answer by itself")
    if not isinstance(content, str) or not content.strip():
        raise Unintelligible("the answer is empty: the model wrote nothing in its final channel")
    if any(marker in content for marker in _CHANNELS):
        raise Unintelligible(
            "the server does not take the model's channels apart; start it with the parser of the model's reasoning"
        )
    return content


def _messages(question: Question) -> list[dict[str, Any]]:
    """The messages of a call. The image stands before the text of the last message of the user."""
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in question.messages]
    if question.image is not None:
        url = f"data:{question.image.media_type};base64,{question.image.data}"
        last = next(one for one in reversed(messages) if one["role"] == "user")
        shown = {"type": "image_url", "image_url": {"url": url}}
        last["content"] = [shown, {"type": "text", "text": last["content"]}]
    return messages


def _tokens_read(answer: Mapping[str, Any]) -> int:
    """The number of tokens of a prompt, as a server counts them."""
    usage = answer.get("usage")
    return _count(usage.get("prompt_tokens")) if isinstance(usage, dict) else 0


def _tokens(answer: Mapping[str, Any]) -> tuple[int, int]:
    """How many tokens a server has computed, those of the answer included, and reused, as far as it says so."""
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    read, written = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    reused = min(read, _count(details.get("cached_tokens")) if isinstance(details, dict) else 0)
    return read - reused + written, reused


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 2**31 else 0


def _with_text(check: Check, text: str) -> Check:
    """The check with another text beside its images."""
    *context, turn = check.conversation.messages
    parts = (Part("window", text), *turn.images)
    return replace(check, conversation=Conversation((*context, Message(turn.role, parts))))


def _at(verdict: Verdict, span: Span) -> Verdict:
    """The verdict on a window, whose labels name its place in the text."""
    findings = tuple(replace(one, span=span) if one.kind == "label" else one for one in verdict.findings)
    return replace(verdict, span=span, findings=findings)
