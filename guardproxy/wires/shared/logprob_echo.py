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


class Repeat:
    """Follows a text and its repetition as both grow; each may be ahead of the other."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._repeat = bytearray()
        self.differs = False

    def add(self, text: str, repeat: bytes) -> None:
        """The text and its repetition go on."""
        self._text += text.encode()
        self._repeat += repeat
        both = min(len(self._text), len(self._repeat))
        if self._text[:both] != self._repeat[:both]:
            self.differs = True
        del self._text[:both], self._repeat[:both]

    @property
    def ahead(self) -> bool:
        """Whether the repetition says more than the text so far."""
        return self.differs or bool(self._repeat)


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
