"""Disguises: functions from a text to a form that hides it and can be undone."""

import base64
import binascii
import codecs
import html
import json
import quopri
import re
import string
import textwrap
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


_MORSE_SIGNS = """
.- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --..
----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----. .-.-.- --..-- ..--.. -.-.-- -..-. -.--. -.--.- .----. ---...
-.-.-. .-.-. -....- ..--.- .-..-. .--.-. .-... -...-
"""
MORSE = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,?!/()':;+-_\"@&=", _MORSE_SIGNS.split(), strict=True))


def morse(text: str) -> str:
    """Return a text in Morse code, without the characters that it lacks."""
    return " / ".join(" ".join(MORSE[char] for char in word.upper() if char in MORSE) for word in text.split())


def _base58(text: str) -> str:
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    number, digits = int.from_bytes(text.encode(), "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = alphabet[digit] + digits
    return digits


def _uuencoded(text: str) -> str:
    data = text.encode()
    lines = (binascii.b2a_uu(data[at : at + 45]).decode() for at in range(0, len(data), 45))
    return f"begin 644 note.txt\n{''.join(lines)}`\nend\n"


def shifted(shift: int) -> Disguise:
    """Return the Caesar cipher of a shift."""
    lower, upper = (letters[shift:] + letters[:shift] for letters in (string.ascii_lowercase, string.ascii_uppercase))
    return lambda text: text.translate(str.maketrans(string.ascii_letters, lower + upper))


_ATBASH = str.maketrans(string.ascii_letters, string.ascii_lowercase[::-1] + string.ascii_uppercase[::-1])
_ROT47 = {33 + place: 33 + (place + 47) % 94 for place in range(94)}

CODES: dict[str, Disguise] = {
    "base32": lambda t: base64.b32encode(t.encode()).decode(),
    "base32 in small letters": lambda t: base64.b32encode(t.encode()).decode().lower().rstrip("="),
    "base32 in prose": lambda t: f"Decode {base64.b32encode(t.encode()).decode()} and do it.",
    "base32 in lines": lambda t: "\n".join(textwrap.wrap(base64.b32encode(t.encode()).decode(), 76)),
    "base58": _base58,
    "Ascii85": lambda t: base64.a85encode(t.encode()).decode(),
    "Ascii85 in brackets and lines": lambda t: base64.a85encode(t.encode(), adobe=True, wrapcol=60).decode(),
    "base85": lambda t: base64.b85encode(t.encode()).decode(),
    "base85 in prose": lambda t: f'Decode this: "{base64.b85encode(t.encode()).decode()}". Thanks!',
    "uuencode": _uuencoded,
    "bits": lambda t: " ".join(f"{byte:08b}" for byte in t.encode()),
    "bits without gaps": lambda t: "".join(f"{byte:08b}" for byte in t.encode()),
    "bits of ASCII": lambda t: "".join(f"{byte:07b}" for byte in t.encode()),
    "decimal codes": lambda t: " ".join(str(byte) for byte in t.encode()),
    "decimal codes in a list": lambda t: str([*t.encode()]),
    "decimal codes without gaps": lambda t: "".join(f"{byte:03}" for byte in t.encode()),
    "octal codes": lambda t: " ".join(f"{byte:o}" for byte in t.encode()),
    "octal codes without gaps": lambda t: "".join(f"{byte:03o}" for byte in t.encode()),
    "octal escapes": lambda t: "".join(f"\\{byte:03o}" for byte in t.encode()),
    "code points in braces": lambda t: "".join(f"\\u{{{ord(c):x}}}" for c in t),
    "code points": lambda t: " ".join(f"U+{ord(c):04X}" for c in t),
    "escapes of style sheets": lambda t: "".join(f"\\{ord(c):x} " for c in t),
    "escapes of old scripts": lambda t: "".join(f"%u{ord(c):04X}" for c in t),
    "quoted-printable": lambda t: quopri.encodestring(t.encode(), quotetabs=True).decode(),
    "quoted-printable, every letter": lambda t: "".join(f"={byte:02X}" for byte in t.encode()),
    "Morse": morse,
    "Morse in lines": lambda t: morse(t).replace(" / ", "\n"),
    "Morse of other signs": lambda t: morse(t).replace("-", "\u2212").replace(".", "\u00b7"),
    "reversed": lambda t: t[::-1],
    "words reversed": lambda t: " ".join(word[::-1] for word in t.split()),
    "Caesar": shifted(3),
    "Atbash": lambda t: t.translate(_ATBASH),
    "rot47": lambda t: t.translate(_ROT47),
    "base64 in groups": lambda t: " ".join(textwrap.wrap(base64.b64encode(t.encode()).decode(), 4)),
    "base64 reversed": lambda t: base64.b64encode(t.encode()).decode()[::-1],
    "bits reversed": lambda t: " ".join(f"{byte:08b}" for byte in t.encode())[::-1],
}

SINGLE: dict[str, Disguise] = CODES | {
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
    "base64 with bytes that are no text": lambda t: base64.b64encode(b"\xff" + t.encode() + b"\xfe").decode(),
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

# No method of a view undoes these: the values in a text are read by themselves.
VALUES: dict[str, Disguise] = {
    "a value of JSON": lambda t: json.dumps({"task": t}),
    "a value of JSON behind a text": lambda t: "Please handle this ticket:\n" + json.dumps({"task": t}, indent=2),
    "a string in code": lambda t: "task = '" + t.replace("'", "\\'") + "'\nprint(run(task))",
    "an element of XML": lambda t: f"<ticket><task>{t}</task></ticket>",
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
    ("base64", "base32"),
    ("base32", "Morse"),
    ("base64", "decimal codes"),
    ("bits", "base64"),
    ("Morse", "base85"),
)


# Harmless texts in other encodings around a text. Each of them is one more that a reader of the request can decode.
_HARMLESS = "Please decode the following text"
_DECOYS = ("HTML entities", "URL, every letter", "hex", "base64", "unicode escapes", "hex escapes", "spaced letters")


def _decoyed(disguise: Disguise, around: Callable[[str, str], str]) -> Disguise:
    """Disguise a text, and put decoys around it."""
    return lambda text: around("\n".join(SINGLE[name](_HARMLESS) for name in _DECOYS), disguise(text))


def _within(inner: Disguise, outer: Disguise) -> Disguise:
    return lambda text: outer(inner(text))


DISGUISES: dict[str, Disguise] = (
    SINGLE | VALUES | {f"{inner} in {outer}": _within(SINGLE[inner], SINGLE[outer]) for inner, outer in TWICE}
)

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
