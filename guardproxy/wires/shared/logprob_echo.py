"""Texts that repeat another text: they may not say anything that the judged text does not."""

import re
from collections.abc import Mapping
from typing import Any

from guardproxy.errors import Unreadable
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import handled_in_code, passed, walk

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
        self._text = bytearray()  # text that no token has spelled yet
        self._tokens = bytearray()  # token bytes that the text does not have yet
        self._differs = False

    def add(self, text: str, tokens: bytes) -> None:
        """Add what a frame brings of the text and of the tokens."""
        self._text += text.encode()
        self._tokens += tokens
        common = min(len(self._text), len(self._tokens))
        if self._text[:common] != self._tokens[:common]:
            self._differs = True
        del self._text[:common], self._tokens[:common]

    @property
    def ahead(self) -> bool:
        """Whether the tokens spell anything that the text so far does not."""
        return self._differs or bool(self._tokens)

    def close(self, builder: MessageBuilder) -> None:
        """Make the log probabilities an opaque part if they spell anything that the text does not.

        Call this when the text is complete. Tokens are reported once: calling it again adds a part only if more tokens
        have come.
        """
        if self.ahead:
            builder.opaque(self._path, "log probabilities of another text")
            self._tokens.clear()
            self._differs = False


def token_list(builder: MessageBuilder, value: Any, path: str) -> bytes:
    """The bytes that a list of tokens with log probabilities (OpenAI's `logprobs.content`) spells.

    Alternatives other than the token itself become an opaque part: no text that is judged contains them.
    """
    if value is None:
        return b""
    if not isinstance(value, list):
        raise builder.error("must be a list", path)
    return b"".join(_token(builder, entry, f"{path}[{index}]", path) for index, entry in enumerate(value))


def _token(builder: MessageBuilder, entry: Any, path: str, where: str) -> bytes:
    if not isinstance(entry, dict):
        raise builder.error("must be an object", path)
    walk(builder, entry, path, _ENTRY)
    spelled = _spelled(builder.error, entry, path)
    others = entry.get("top_logprobs") or []
    if not isinstance(others, list):
        raise builder.error("must be a list", f"{path}.top_logprobs")
    for number, other in enumerate(others):
        same = isinstance(other, dict) and isinstance(other.get("token"), str)
        if same:
            walk(builder, other, f"{path}.top_logprobs[{number}]", _ENTRY)
        if not same or _spelled(builder.error, other, f"{path}.top_logprobs") != spelled:
            builder.opaque(f"{where}.top_logprobs", "token alternatives")
    return spelled


def _spelled(error: type[Unreadable], entry: Mapping[str, Any], path: str) -> bytes:
    """What a token says, as a text and as bytes. Raises where the two are not the same."""
    token, numbers = entry.get("token"), entry.get("bytes")
    if not isinstance(token, str):
        raise error("must be a string", f"{path}.token")
    said = token.encode()
    if numbers is None:
        return said
    try:
        raw = bytes(numbers)
    except (TypeError, ValueError) as problem:
        raise error("must be a list of bytes", f"{path}.bytes") from problem
    unescaped = _ESCAPED_BYTE.sub(lambda found: bytes([int(found[1], 16)]), said.removeprefix(b"bytes:"))
    if raw not in (said, unescaped) and raw.decode(errors="replace") != token:
        raise error("the token and its bytes are different texts", path)
    return raw
