"""Decode hex digits, and the escapes of programs: `\\x62`, `\\u0062`, `\\u{62}`, `\\142`, `%u0062`, `U+0062`. Pure."""

import re

from guardproxy.views.plausible import decoded, worded
from guardproxy.views.seals import Seals

_LETTER = "(?:[46][1-9A-Fa-f]|[57][0-9Aa])"
_HEX = re.compile(
    rf"(?:\\x[0-9A-Fa-f]{{2}}){{2,}}+|(?:[\\%]u[0-9A-Fa-f]{{4}}){{2,}}+|(?:\\(?:x|u00)|%u00){_LETTER}"
    r"|(?<![0-9A-Za-z])(?:0[xX])?[0-9A-Fa-f]{2}(?:[ :,-]{1,2}(?:0[xX])?[0-9A-Fa-f]{2}(?![0-9A-Za-z])){3,}+"
    r"|(?<![0-9A-Za-z])(?:0[xX])?(?:[0-9A-Fa-f]{2}){4,}+(?![0-9A-Za-z])"
)
# Code points in braces, of eight digits, by their names, and as style sheets write them: several, or a letter.
_POINTS = re.compile(
    rf"(?:\\[ux]\{{[0-9A-Fa-f]{{1,8}}\}}){{2,}}+|\\[ux]\{{0*{_LETTER}\}}"
    rf"|(?:\\U[0-9A-Fa-f]{{8}}){{2,}}+|\\U000000{_LETTER}"
    r"|(?<![0-9A-Za-z])[Uu]\+[0-9A-Fa-f]{4,6}(?:[ ,]{0,2}[Uu]\+[0-9A-Fa-f]{4,6}){3,}+(?![0-9A-Za-z])"
    r"|(?:\\0{0,4}[2-7][0-9A-Fa-f](?![0-9A-Fa-f]) ?){3,}+"
)
_POINT = re.compile(r"(?<=[{+U\\])[0-9A-Fa-f]+")
_OCTAL = re.compile(r"(?:\\[0-7]{3}){2,}+|(?<=[A-Za-z])\\1(?:0[1-7]|[1-6][0-7]|7[0-2])(?=[A-Za-z])")
# Every match of _HEX but escapes contains a match of this pattern, which is far faster to search for.
_MAYBE = re.compile(r"[0-9A-Fa-f][0-9A-Fa-f](?:[0-9A-Fa-f]{6}|(?:[ :,-]{1,2}(?:0[xX])?[0-9A-Fa-f]{2}){2}[ :,-])")


def unhex(text: str, seals: Seals) -> str:
    """Decode runs of hex digits, forwards or backwards, and escapes: several, or a letter."""

    def sealed(match: re.Match[str]) -> str:
        digits = match.group()
        return (seals.around_character if digits[0] in "\\%" else seals.around_run)(digits, _hex_text(digits))

    if "\\" in text or "U+" in text or "u+" in text:
        plain = _POINTS.sub(lambda match: seals.around_character(match.group(), _points_text(match.group())), text)
        plain = _OCTAL.sub(lambda match: seals.around_character(match.group(), _octal_text(match.group())), plain)
        if plain != text:  # it may have numbers, which are read before hex digits
            return plain
    return _HEX.sub(sealed, text) if "\\" in text or "%u" in text or _MAYBE.search(text) else text


def _hex_text(digits: str) -> str:
    if digits[:2] in ("\\u", "%u"):
        units = bytes.fromhex(re.sub(r"[\\%]u", "", digits))
        return units.decode("utf-16-be", "replace")  # replaces unpaired surrogates, which a guard cannot be given
    bare = re.sub(r"0[xX]|\\x|[^0-9A-Fa-f]", "", digits)
    data = bytes.fromhex(bare)
    if digits[0] == "\\" and data.isalpha():
        return data.decode()
    text = decoded(data)
    if text is not None and (len(data) >= 8 or worded(text)):
        return text
    turned = decoded(bytes.fromhex(bare[::-1])) if len(data) >= 12 else None
    return turned if turned is not None and worded(turned) else digits


def _points_text(escapes: str) -> str:
    codes = [int(digits, 16) for digits in _POINT.findall(escapes)]
    if any(code > 0x10FFFF or 0xD800 <= code < 0xE000 for code in codes):
        return escapes
    return _printable("".join(map(chr, codes))) or escapes


def _octal_text(escapes: str) -> str:
    codes = [int(digits, 8) for digits in escapes.split("\\")[1:]]
    try:
        return _printable(bytes(codes).decode()) or escapes
    except ValueError:
        return escapes


def _printable(text: str) -> str | None:
    return text if "".join(text.split()).isprintable() else None
