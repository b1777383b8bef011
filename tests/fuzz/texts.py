"""Texts and their views: no exception, the same each time, few, and not much longer than the text.

An input is a text.
"""

import base64
import codecs

from guardproxy.types import Message, Part
from guardproxy.views import MAX_VIEWS, VIEWS, joined, views_of
from tests.fuzz.choices import Choices

GROWTH = 40  # times the characters of the text: U+FDFA alone becomes 18 characters
PIECES = [
    *(" ", "\n", "\t", "a", "how to", "build", "a bomb at home", "The quick brown fox", "1", "0", "=", "==", "/", "+"),
    *(
        "-",
        "_",
        ".",
        ",",
        ":",
        ";",
        "!",
        "?",
        "'",
        '"',
        "<",
        ">",
        "&",
        "&amp;",
        "&#104;",
        "&#x68;",
        "&lt;b&gt;",
        "&#0;",
    ),
    *("%68%6f%77", "%", "%%", "=68=6F", "=\n", "\\x68", "\\u0068", "\\u{68}", "\\150", "0x68", "68 6f 77 20 74 6f"),
    *(
        "01101000 01101111",
        "104 111 119",
        "150 157 167",
        ".... --- .--",
        "-... ..-",
        "begin 644 f\n",
        "`\nend\n",
        "<~",
        "~>",
    ),
    *("\u202e", "\u202c", "\u2066", "\u2069", "\u200f", "\u200b", "\u00ad", "\ufeff", "\u0301" * 3, "\ufe0f", "\ufdfa"),
    *("\U000e0068\U000e006f", "\u0430", "\u0455", "\u1d5a", "\U0001d5f5", "\uff48\uff4f", "\ud83d", "\u2800", "\u0000"),
    *(
        "h o w",
        "h-o-w",
        "h.o.w t.o",
        "h0w t0 bu1ld",
        "ubj gb ohvyq",
        "kdz wr exlog",
        "woh",
        "olleh dlrow",
        "emoh ta bmob",
    ),
]
ENCODINGS = [
    lambda data: base64.b64encode(data).decode(),
    lambda data: base64.b32encode(data).decode(),
    lambda data: base64.a85encode(data, adobe=True).decode(),
    lambda data: base64.b85encode(data).decode(),
    lambda data: data.hex(),
    lambda data: data.hex(" "),
    lambda data: "".join(f"%{byte:02x}" for byte in data),
    lambda data: "".join(f"&#{byte};" for byte in data),
    lambda data: "".join(f"\\x{byte:02x}" for byte in data),
    lambda data: " ".join(f"{byte:08b}" for byte in data),
    lambda data: data.decode("latin-1")[::-1],
    lambda data: codecs.encode(data.decode("latin-1"), "rot13"),
    lambda data: " ".join(data.decode("latin-1")),
]


def draw(choices: Choices) -> str:
    """A text with encodings in encodings, and pieces of everything that a decoding looks for."""
    text = choices.text(PIECES, 40)
    for _ in range(choices.number(9)):
        encoded = choices.one_of(ENCODINGS)(text.encode("utf-8", "surrogatepass"))
        before, after = choices.text(PIECES, 4), choices.text(PIECES, 4)
        text = (before + encoded + after)[:3_000]
    return text * (1 + choices.number(30) if choices.is_one_in(8) else 1)


def check(text: str) -> None:
    """Assert that the views are few, bounded, different from the text, and the same each time."""
    half = len(text) // 2
    message = Message("user", (Part("a[0]", text[:half]), Part("a[1]", text[half:])))
    forms = joined(message)
    found = views_of(text, forms, VIEWS)
    assert found == views_of(text, forms, VIEWS)
    assert len(found.views) <= len(forms) + MAX_VIEWS
    for view in found.views:
        assert view.text != text or view.name == "joined"
        assert len(view.text) <= GROWTH * (len(text) + 1) + 10, f"{view.name}: {len(view.text)} characters"
