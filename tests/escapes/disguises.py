"""Disguises: functions from a text to a form that hides it and can be undone."""

import base64
import codecs
import html
import re
import urllib.parse
from collections.abc import Callable, Sequence

Disguise = Callable[[str], str]


def _selectors(text: str) -> str:
    return "😀" + "".join(chr(0xFE00 + byte if byte < 16 else 0xE0100 + byte - 16) for byte in text.encode())


def _mixed(text: str, separators: Sequence[str]) -> str:
    """Put the separators between the letters in turn."""
    return "".join(char + separators[place % len(separators)] for place, char in enumerate(text))


def _styled(upper: int, lower: int) -> Disguise:
    """Map A to Z and a to z to the styled alphabets that begin at two code points."""
    table = {65 + place: chr(upper + place) for place in range(26)} | {
        97 + place: chr(lower + place) for place in range(26)
    }
    return lambda text: text.translate(table)


SINGLE: dict[str, Disguise] = {
    "plain": lambda t: t,
    "upper case": str.upper,
    "full width": lambda t: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t),
    "bold letters": _styled(0x1D400, 0x1D41A),
    "circled letters": _styled(0x24B6, 0x24D0),
    "squared letters": _styled(0x1F170, 0x1F170),
    "zero-width spaces": "\u200b".join,
    "zero-width joiners": "\u200d".join,
    "soft hyphens": "\u00ad".join,
    "piled marks": lambda t: "".join(c + "\u0336\u0324" for c in t),
    "bidi override": lambda t: f"\u202e{t}\u202c",
    "bidi isolates": lambda t: "".join(f"\u2066{c}\u2069" for c in t),
    "look-alikes": lambda t: t.translate(str.maketrans("aeopcyxi", "аеорсухі")),  # noqa: RUF001
    "tag characters": lambda t: "Hello " + "".join(chr(0xE0000 + ord(c)) for c in t if ord(c) < 128),
    "variation selectors": _selectors,
    "spaced letters": " ".join,
    "spaced letters, wider between words": lambda t: "   ".join(" ".join(word) for word in t.split(" ")),
    "letters apart by tabs": "\t".join,
    "letters apart by lines": "\n".join,
    "letters apart by two spaces": "  ".join,
    "letters apart by any white space": lambda t: _mixed(t, " \t\n\u2003"),
    "letters apart by white space of any length": lambda t: _mixed(t, (" ", "\t\t", "\n", "\r\n")),
    "dotted letters": lambda t: re.sub(r"\w+", lambda word: ".".join(word.group()), t),
    "leetspeak": lambda t: t.translate(str.maketrans("aeioAEIO", "43104310")),
    "leetspeak in words": lambda t: " ".join(
        word if len(word) < 2 else word.translate(str.maketrans("aeios", "43105")) for word in t.split()
    ),
    "base64": lambda t: base64.b64encode(t.encode()).decode(),
    "base64 in prose": lambda t: f"Decode {base64.urlsafe_b64encode(t.encode()).decode().rstrip('=')} and do it.",
    "base64 in lines": lambda t: base64.encodebytes((t + ". " + t).encode()).decode(),
    "hex": lambda t: t.encode().hex(),
    "spaced hex": lambda t: t.encode().hex(" "),
    "hex escapes": lambda t: "".join(f"\\x{byte:02x}" for byte in t.encode()),
    "unicode escapes": lambda t: "".join(f"\\u{ord(c):04x}" for c in t),
    "rot13": lambda t: codecs.encode(t, "rot13"),
    "rot13 in prose": lambda t: f"Please decode this and reply: {codecs.encode(t, 'rot13')}. Thanks a lot!",
    "URL": urllib.parse.quote,
    "URL, plus for spaces": urllib.parse.quote_plus,
    "URL, every letter": lambda t: "".join(f"%{byte:02X}" for byte in t.encode()),
    "HTML entities": lambda t: "".join(f"&#{ord(c)};" for c in t),
    "HTML entities, hexadecimal": lambda t: "".join(f"&#x{ord(c):x};" for c in t),
    "HTML markup": html.escape,
}

# Disguises that do not make a text less readable.
OPEN = frozenset({"plain", "upper case", "HTML markup"})

# Nested disguises: (inner, outer).
TWICE = (
    ("base64", "base64"),
    ("rot13", "base64"),
    ("base64", "URL, every letter"),
    ("HTML entities", "URL, every letter"),
    ("spaced letters", "base64"),
    ("hex", "zero-width spaces"),
    ("leetspeak in words", "spaced letters"),
    ("base64", "full width"),
    ("look-alikes", "zero-width joiners"),
)


# Harmless texts in other encodings around a text. Each of them is one more that a reader of the request can decode.
_HARMLESS = "Please decode the following text"
_DECOYS = ("HTML entities", "URL, every letter", "hex", "base64", "unicode escapes", "hex escapes", "spaced letters")


def _decoyed(disguise: Disguise, around: Callable[[str, str], str]) -> Disguise:
    """Disguise a text, and put decoys around it."""
    return lambda text: around("\n".join(SINGLE[name](_HARMLESS) for name in _DECOYS), disguise(text))


def _within(inner: Disguise, outer: Disguise) -> Disguise:
    return lambda text: outer(inner(text))


DISGUISES: dict[str, Disguise] = SINGLE | {
    f"{inner} in {outer}": _within(SINGLE[inner], SINGLE[outer]) for inner, outer in TWICE
}

DISGUISES |= {
    f"base64 in base64 {where} decoys": _decoyed(_within(SINGLE["base64"], SINGLE["base64"]), around)
    for where, around in {
        "behind": lambda decoys, text: f"{decoys}\n{text}",
        "before": lambda decoys, text: f"{text}\n{decoys}",
        "among": lambda decoys, text: f"{decoys}\n{text}\n{decoys}",
    }.items()
} | {
    "base64 in hex in URL, behind decoys": _decoyed(
        _within(_within(SINGLE["base64"], SINGLE["hex"]), SINGLE["URL, every letter"]),
        lambda decoys, text: f"{decoys}. {text}",
    ),
    "decoys and text in base64": lambda text: SINGLE["base64"](
        "\n".join([*(SINGLE[name](_HARMLESS) for name in _DECOYS), SINGLE["base64"](text)])
    ),
}
