"""Padding of streamed events: characters that a server adds so that the length of an event does not tell its text.

It is a member at the end of an event: OpenAI's `obfuscation`, random letters and digits, in chat completions,
completions and responses (https://platform.openai.com/docs/api-reference/chat/create,
`stream_options.include_obfuscation`), and Mistral's `p`, the start of an alphabet
(https://docs.mistral.ai/resources/changelogs, May 2026). Azure sorts the members.

No client reads padding, but random letters look like words now and then. So padding is not judged, and as nothing may
pass that is not judged, as many characters of a hash of it take its place: nobody can steer them, and they compress as
badly. Pure.
"""

import re
from collections.abc import Iterable
from hashlib import shake_128
from string import ascii_letters, ascii_lowercase, digits
from typing import NamedTuple

_NAMES = (b'"obfuscation"', b'"p"')
# Members that may stand behind padding: nothing in them opens another object, so the last brace ends that of the event.
# None is padding, so that it is the last such member of the event that is found, wherever the search begins.
_BEHIND = rb'(?:, ?"(?!obfuscation"|p")[a-z_]{1,32}": ?(?:null|[0-9]{1,15}|"[0-9A-Za-z_.:-]{0,64}")){0,16}\}'
_MEMBER = re.compile(rb'(, ?"(?:obfuscation|p)": ?")([0-9A-Za-z]*)("' + _BEHIND + rb")")
_LAST_MEMBER = re.compile(_MEMBER.pattern + rb"(?=(?:\r?\n){2})")
_ALPHABETS = tuple(8 * letters.encode() for letters in (ascii_lowercase + digits, ascii_letters + digits))


class Unpadded(NamedTuple):
    """An event without the upstream's padding.

    `raw`: its bytes, with other characters as padding. `data`: its JSON text without padding. `before` and `behind`:
    what stands around the padding, both empty if the event has none.
    """

    raw: bytes
    data: bytes
    before: bytes = b""
    behind: bytes = b""


def unpadded(raw: bytes, data: bytes) -> Unpadded:
    """Return an event without the padding in its JSON text `data`, which is part of `raw`.

    Padding of other characters, in front of a list or an object, or within one, stays: it is judged as any other value.
    """
    start = data.rfind(b",", 0, max(0, *(data.rfind(name) for name in _NAMES)))
    found = _MEMBER.fullmatch(data, start) if start > 0 else None
    if found is None or not are_padding(found[1], [found[2]]):
        return Unpadded(raw, data)
    head = data[:start].rstrip()
    if head == b"{":  # no JSON; without the padding, it might be
        return Unpadded(raw, data)
    place = raw.rfind(found[0])
    other = raw[:place] + _other(found) + raw[place + len(found[0]) :]
    return Unpadded(other, head + found[3][1:], found[1], found[3])


def are_padding(before: bytes, values: Iterable[bytes]) -> bool:
    """Whether values behind `before` are padding: letters and digits, and as a `p` the start of an alphabet."""
    if b'"p"' in before:
        return all(any(alphabet.startswith(value) for alphabet in _ALPHABETS) for value in values)
    return all(value.isalnum() or not value for value in values)


def with_other_padding(events: bytes) -> bytes:
    """Return events with other characters as padding. Each has padding, and two line ends (LF or CR LF) behind it."""
    return _LAST_MEMBER.sub(_other, events)


def _other(found: re.Match[bytes]) -> bytes:
    count = len(found[2])
    return found[1] + shake_128(found[2]).hexdigest(count // 2 + 1)[:count].encode() + found[3]
