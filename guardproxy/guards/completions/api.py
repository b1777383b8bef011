"""One call of `/v1/completions`: the tokens that may follow a prompt and their probabilities, as the server shows them.

The formats of the answer are OpenAI's (legacy completions: `tokens`, `token_logprobs`, `top_logprobs` as an object; a
chat: `content` with a list for each token) and that of llama.cpp's own server (as in a chat, with an `id` for each).
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from guardproxy.errors import Overloaded
from guardproxy.guards.http_calls import Answered, HttpCalls
from guardproxy.guards.links import ReplicaFailed

Name = int | str
"""How a server names a token: by its number, or by its text."""

BIAS: Final = 100.0
"""What is added to the logit of a token that is forced: more than any two logits differ."""

# vLLM names a token by its number in this form.
_NUMBERED: Final = "token_id:"
# Rounding may move a log-probability this far above 0.
_ROUNDING: Final = 1e-3
# The most characters of a server's own message to quote.
_QUOTED: Final = 300
_TOO_MANY: Final = 429


class CallRefused(Exception):
    """The server refuses a call, with this status; its message says why, and may quote the prompt."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"it answers {status}: {said}" if said else f"it answers {status}")
        self.status = status


@dataclass(frozen=True, slots=True)
class NextToken:
    """The token that a server has chosen behind a prompt, and the most probable ones, by their names.

    `chosen` is None if the server shows none, as llama-cpp-python at the end of an answer. `shown` has probabilities;
    the chosen token is among them. `reused` of the prompt's tokens were not computed again.
    """

    chosen: Name | None
    shown: Mapping[Name, float] = field(repr=False)
    prompt_tokens: int
    reused: int = 0

    @property
    def rest(self) -> float:
        """The probability of all tokens that are not shown."""
        return max(0.0, 1.0 - sum(self.shown.values()))

    @property
    def most_unseen(self) -> float:
        """The most probability that one token which is not shown can have.

        The chosen token does not count: it is shown whatever its probability is.
        """
        least = min((share for name, share in self.shown.items() if name != self.chosen), default=1.0)
        return min(least, self.rest)


class CompletionsApi:
    """The API of one server, for one model: `model` is its name there. `top` tokens are shown, if the server allows it.

    `prefix` is the path of its API below the server's address.
    """

    def __init__(self, calls: HttpCalls, model: str, *, top: int, prefix: str = "/v1") -> None:
        self._calls = calls
        self._model = model
        self.top = top
        self._completions = calls.url(f"{prefix}/completions")
        self._chat = calls.url(f"{prefix}/chat/completions")
        self._models = calls.url(f"{prefix}/models")

    async def described(self) -> Mapping[str, Any]:
        """What the server says of the model. Raises ReplicaFailed, also if it has no model of that name."""
        return await described(self._calls, self._models, self._model)

    async def next_token(self, prompt: Sequence[int] | str, forced: Sequence[int] = ()) -> NextToken:
        """The tokens that may follow `prompt`. The server is made to choose one of the `forced` tokens, if it can be.

        Raises CallRefused, ReplicaFailed, Overloaded.
        """
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": self.top,
            # vLLM then names tokens by their numbers; other servers ignore it.
            "return_tokens_as_token_ids": True,
        }
        if forced:
            body["logit_bias"] = {str(token): BIAS for token in forced}
        return read_next(await self._answer(self._completions, body))

    async def first_tokens(self, chat: Mapping[str, Any], forced: Sequence[int] = ()) -> list[NextToken]:
        """The first two tokens of the answer to a chat, or one if the answer ends there, each among the most probable.

        `chat` has the messages and further fields of the call. Raises as `next_token`.
        """
        body = {
            "model": self._model,
            **chat,
            "max_tokens": 2,
            "temperature": 0,
            "stream": False,
            "logprobs": True,
            "top_logprobs": self.top,
            "return_tokens_as_token_ids": True,
        }
        if forced:
            body["logit_bias"] = {str(token): BIAS for token in forced}
        return read_first(await self._answer(self._chat, body))

    async def _answer(self, url: httpx.URL, body: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = await self._calls.call("POST", url, json.dumps(body).encode())
        if answer.status != httpx.codes.OK:
            raise failure_of_call(answer)
        return json_object(answer.body)

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.close()


async def described(calls: HttpCalls, models: httpx.URL, model: str) -> Mapping[str, Any]:
    """What a server lists of a model at the address `models`. Raises ReplicaFailed, also if it has no such model."""
    answer = await calls.call("GET", models)
    if answer.status != httpx.codes.OK:
        failure = failure_of_call(answer)
        raise ReplicaFailed("failed", str(failure)) if isinstance(failure, CallRefused) else failure
    data = json_object(answer.body).get("data")
    listed = [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []
    for one in listed:
        if one.get("id") == model:
            return one
    names = ", ".join(repr(one.get("id")) for one in listed) or "none"
    raise ReplicaFailed("failed", f"it has no model {model!r}, but {names}; write its name in guard.model")


def read_next(answer: Mapping[str, Any]) -> NextToken:
    """The next token of a completions answer. Raises ReplicaFailed for an answer that is none, or without logprobs."""
    (found,) = _read(answer, lambda shown: [_numbered(shown["content"]) if "content" in shown else _legacy(shown)])
    return found


def read_first(answer: Mapping[str, Any]) -> list[NextToken]:
    """The first tokens of a chat's answer, at least one. Raises as `read_next`."""
    return _read(answer, lambda shown: [_numbered([one]) for one in shown["content"]] or [_numbered([])])


def _read(
    answer: Mapping[str, Any], places: Callable[[Mapping[str, Any]], list[tuple[Name | None, dict[Name, Any]]]]
) -> list[NextToken]:
    try:
        (choice,) = answer["choices"]
        usage = answer["usage"]
        tokens = _count(usage["prompt_tokens"])
        details = usage.get("prompt_tokens_details") or {}
        reused = min(tokens, _count(details.get("cached_tokens") or 0))
        logprobs = choice["logprobs"]
        if logprobs is None:
            raise ReplicaFailed("failed", "its answer has no logprobs; the server has to be started with them")
        found = [
            NextToken(chosen, {name: _probability(value) for name, value in shown.items()}, tokens, reused)
            for chosen, shown in places(logprobs)
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ReplicaFailed("failed", f"its answer is no completion: {type(error).__name__}") from None
    if any(sum(one.shown.values()) > 1 + _ROUNDING * len(one.shown) for one in found):
        raise ReplicaFailed("failed", "the probabilities in its answer sum to more than 1")
    return found


def _legacy(logprobs: Mapping[str, Any]) -> tuple[Name | None, dict[Name, Any]]:
    if not logprobs["tokens"]:
        return None, {}
    chosen = _name(logprobs["tokens"][0])
    top = logprobs["top_logprobs"][0] if logprobs.get("top_logprobs") else None
    return chosen, {chosen: logprobs["token_logprobs"][0], **{_name(key): value for key, value in (top or {}).items()}}


def _numbered(content: Sequence[Mapping[str, Any]]) -> tuple[Name | None, dict[Name, Any]]:
    if not content:
        return None, {}
    first = content[0]
    chosen = _name_in(first)
    return chosen, {chosen: first["logprob"], **{_name_in(one): one["logprob"] for one in first["top_logprobs"]}}


def _name_in(entry: Mapping[str, Any]) -> Name:
    number = entry.get("id")
    return number if isinstance(number, int) else _name(entry["token"])


def _name(text: Any) -> Name:
    if not isinstance(text, str):
        raise TypeError
    digits = text.removeprefix(_NUMBERED)
    return int(digits) if digits != text and digits.isascii() and digits.isdecimal() else text


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError
    return value


def _probability(logprob: Any) -> float:
    if isinstance(logprob, bool) or not isinstance(logprob, int | float) or not logprob <= _ROUNDING:
        raise ValueError
    return min(1.0, math.exp(float(logprob)))


def json_object(body: bytes) -> Mapping[str, Any]:
    """The object in the body of an answer. Raises ReplicaFailed."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise ReplicaFailed("failed", "its answer is not JSON") from None
    if not isinstance(content, dict):
        raise ReplicaFailed("failed", "its answer is no JSON object")
    return content


def failure_of_call(answer: Answered) -> Exception:
    """The error for an answer with a status other than 200."""
    status = answer.status
    if status == _TOO_MANY:
        return Overloaded("the guard's server has too many requests (429)", retry_s=answer.retry_s or 1.0)
    if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        return ReplicaFailed("failed", f"it refuses the key ({status}); check guard.replicas.key")
    if status == httpx.codes.SERVICE_UNAVAILABLE:
        return ReplicaFailed("declined", f"it answers {status}")
    if status == httpx.codes.NOT_FOUND:
        return ReplicaFailed("failed", "it has no such path or model (404): check guard.replicas.urls and guard.model")
    # Some servers have no other status than 500 for a request that they cannot read.
    return CallRefused(status, _said(answer.body))


def _said(body: bytes) -> str:
    """The message of an error body, shortened; empty if it has none."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    error = content.get("error", content) if isinstance(content, dict) else content
    said = error.get("message", error.get("detail", "")) if isinstance(error, dict) else error
    return " ".join(str(said).split())[:_QUOTED]
