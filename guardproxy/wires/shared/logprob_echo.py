"""Log probabilities echo the text token by token: they must not contain anything that the judged text does not."""

import re
from collections.abc import Mapping
from typing import Any

from guardproxy.errors import Unreadable
from guardproxy.wires.shared.body import guard_text
from guardproxy.wires.shared.identifiers import label_words
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import handled_in_code, passed, read_fields

_ESCAPED_BYTE = re.compile(rb"\\x([0-9a-fA-F]{2})")
_ENTRY = {
    "token": handled_in_code,
    "bytes": handled_in_code,
    "logprob": passed,
    "top_logprobs": handled_in_code,
    "token_id": passed,
}


class LogprobEcho:
    """Compares a text with the tokens of its log probabilities while both grow; either may be ahead of the other.

    `path` is the place of the log probabilities in the body.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._unspelled: list[str] = []  # text that came while there was no token
        self._text = bytearray()  # the text before it that no token has spelled yet
        self._tokens = bytearray()  # token bytes that the text does not have, and that are not judged
        self._reported = 0  # how many of them are in an opaque part
        self._differs = False  # the tokens do not spell the text, whatever comes

    def add(self, text: str, tokens: bytes) -> None:
        """Add what a frame brings of the text and of the tokens."""
        self._tokens += tokens
        if not self._differs:
            self._unspelled.append(text)
            if not self._tokens:
                return
            self._text += "".join(self._unspelled).encode()
            self._unspelled.clear()
            common = min(len(self._text), len(self._tokens))
            self._differs = self._text[:common] != self._tokens[:common]
            if not self._differs:
                del self._text[:common], self._tokens[:common]

    @property
    def ahead(self) -> bool:
        """Whether the tokens spell anything that the text so far does not, and that is not reported."""
        return len(self._tokens) > self._reported

    def close(self, builder: MessageBuilder) -> None:
        """Make the log probabilities an opaque part if they spell anything that the text does not.

        These tokens are judged as well as soon as they have several words. Call this when the text is complete.
        Tokens are reported once: calling it again adds a part only if more tokens have come.
        """
        if self.ahead:
            builder.opaque(self._path, "log probabilities of another text")
            self._differs = True
            self._reported = len(self._tokens)
            spelled = self._tokens.decode(errors="replace")
            if builder.text(self._path) or label_words(spelled) > 1:
                builder.add(self._path, spelled)
                self._tokens.clear()
                self._reported = 0


def token_list(builder: MessageBuilder, value: Any, path: str) -> bytes:
    """Return the bytes that a list of tokens with log probabilities (OpenAI's `logprobs.content`) spells.

    Alternatives that differ from their token become an opaque part, because no judged text contains them.
    """
    if value is None:
        return b""
    if not isinstance(value, list):
        raise builder.error("must be a list", path)
    return b"".join(_token(builder, entry, f"{path}[{index}]", path) for index, entry in enumerate(value))


def _token(builder: MessageBuilder, entry: Any, path: str, list_path: str) -> bytes:
    if not isinstance(entry, dict):
        raise builder.error("must be an object", path)
    read_fields(builder, entry, path, _ENTRY)
    spelled = _spelled(builder.error, entry, path)
    others = entry.get("top_logprobs") or []
    if not isinstance(others, list):
        raise builder.error("must be a list", f"{path}.top_logprobs")
    for number, other in enumerate(others):
        readable = isinstance(other, dict) and isinstance(other.get("token"), str)
        if readable:
            read_fields(builder, other, f"{path}.top_logprobs[{number}]", _ENTRY)
        if not readable or _spelled(builder.error, other, f"{path}.top_logprobs") != spelled:
            builder.opaque(f"{list_path}.top_logprobs", "token alternatives")
            judge_token(builder, other, f"{path}.top_logprobs[{number}]")
    return spelled


def judge_token(builder: MessageBuilder, alternative: Any, path: str) -> None:
    """Judge an alternative to a token as JSON text if it has several words: no token has."""
    text = guard_text(alternative)
    if label_words(text) > 2:
        builder.name(path, text)


def _spelled(error: type[Unreadable], entry: Mapping[str, Any], path: str) -> bytes:
    """Return the bytes of a token. Raises `error` if its `token` and its `bytes` are different texts."""
    token, numbers = entry.get("token"), entry.get("bytes")
    if not isinstance(token, str):
        raise error("must be a string", f"{path}.token")
    text = token.encode()
    if numbers is None:
        return text
    try:
        raw = bytes(numbers)
    except (TypeError, ValueError) as problem:
        raise error("must be a list of bytes", f"{path}.bytes") from problem
    unescaped = _ESCAPED_BYTE.sub(lambda found: bytes([int(found[1], 16)]), text.removeprefix(b"bytes:"))
    if raw not in (text, unescaped) and raw.decode(errors="replace") != token:
        raise error("the token and its bytes are different texts", path)
    return raw
