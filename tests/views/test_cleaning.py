"""Hidden, invisible, styled and look-alike characters; what a reader sees of a text."""

import unicodedata

import pytest

from guardproxy.views import says_something
from guardproxy.views.cleaning import CLEANINGS

UNSEEN = (
    *("", " \n\t", "\u200b\u200d\u2060", "\u3164\u115f\uffa0", "\u2800", "\ufe0f\U000e0100", "\u0301\u0336", "..."),
    *("?!", "\U000e0041\U000e0042", "\u202e\u202c", "\x00\x1b", "\u00ad", "\U0001d159", "\u00a0\u2003"),
)


@pytest.mark.parametrize("text", UNSEEN)
def test_a_reader_sees_nothing_said(text: str) -> None:
    """White space, invisible characters, lone marks and punctuation say nothing."""
    assert not says_something(text)


@pytest.mark.parametrize("text", ["ok", "7", "是", "да", "👍", "€", "+", "\u200bA", "... и"])
def test_a_reader_sees_something_said(text: str) -> None:
    """A letter of any alphabet, a digit or a symbol says something."""
    assert says_something(text)


def _tagged(text: str) -> str:
    return "".join(chr(0xE0000 + ord(char)) for char in text)


def _selected(text: str) -> str:
    return "".join(chr(0xFE00 + byte if byte < 16 else 0xE0100 + byte - 16) for byte in text.encode())


# Escaped, because nobody could tell these characters from others.
CLEANED = {
    "tags": [
        (f"a{_tagged('bo mb~ ')}c", "abo mb~ c"),
        (f"\U000e0001{_tagged('b')}\U000e007f", "b"),
        ("\U000e0002\U000e001f\U000e0080", None),
        (f"x{_selected('bomb')}", "xbomb"),
        (f"x{_selected('bomb' + chr(10) + 'here')}", "xbomb\nhere"),
        ("x" + _selected("\u00e9\u00e8 and so on"), "x\u00e9\u00e8 and so on"),
        (f"x{_selected('bom')}", None),
        ("x\ufe0f\ufe0f\ufe0f\ufe0f", None),
    ],
    "bidi": [
        ("a\u202eb\u2066c\u2069\u200e\u200f\u061cd\u202a", "abcd"),
        ("abcd", None),
    ],
    "invisible": [
        ("b\x00o\x1bm\x7fb\x9f", "bomb"),
        ("b\u200bo\u2060mb", "bomb"),
        ("b\u00ado\u034fm\u3164b\u2800", "bomb"),
        ("b\u180eo\U0001d159mb\uffa0", "bomb"),
        ("b\u200do\u200cm\ufe0fb\U000e0100", "bomb"),
        ("\u0431\u200d\u043e", "\u0431\u043e"),
        ("\u03b1\u200c\u03b2", "\u03b1\u03b2"),
        ("\u0645\u200c\u06cc", None),
        ("\u0915\u094d\u200d\u0937", None),
        ("1\ufe0f\u20e3", None),
        ("1\ufe0f\u20e3 and 2\ufe0f\u20e3.", None),
        ("1\u200d\u20e3", "1\u20e3"),
        ("1\ufe0fa", "1a"),
        ("\u2764\ufe0f", None),
        ("\u200db", None),
        ("\n\u200dx", "\nx"),
        ("e\u0301 caf\u00e9", None),
        ("e\u0301x\u0302", "ex"),
        ("o\u0336\u0324", "o"),
        ("b\u0336omb e\u0301", "bomb e"),
        ("\u0431\u0336\u043e", "\u0431\u043e"),
        ("\u0301a", None),
        ("a\u20dd", "a"),
        ("a\u20e3", None),
        ("\u1e0b\u0323", None),
        ("\ud55c\ub294\u0336", None),
    ],
    "nfkc": [
        ("\U0001d41b\U0001d428mb", "bomb"),
        ("\u24d1omb \uff42\uff4f", "bomb bo"),
        ("\U0001f150\U0001f151\U0001f169", "ABZ"),
        ("\U0001f170\U0001f171\U0001f17e\U0001f189", "ABOZ"),
        ("\u249c \ufb01", "(a) fi"),
        ("\u249d\u24aa\u24a8\u249d", "(b)(o)(m)(b)"),
        ("\u3392 \uff42", "MHz b"),
        ("\u210c\u00b2", "H2"),
        ("\u2122 \uff42", "TM b"),
        ("\ufdfa \uff42", "\ufdfa b"),
        ("\u3315 \u2152 \uff42", "\u3315 1\u204410 b"),
        ("\u33ff \u3358 \uff42", "gal 0\u70b9 b"),
        ("100\u00b2 \uff01 \u00bd", None),
        ("\u2122 \u2103 \u2116 \u00ba \u017f", None),
        ("\U0001f18a \uff42", "\U0001f18a b"),
    ],
    "confusables": [
        ("b\u043emb", "bomb"),
        ("\u03ba\u03b9ll", "kill"),
        ("\u1d00\u0299\u1d04", "abc"),
        ("\u0440\u0430\u0441\u0435", "pace"),
        ("\u0440\u0430\u0441\u0435 \u0436\u0443\u043a", "pace \u0436\u0443\u043a"),
        ("\u0440\u0430\u0441\u0435 \u0436\u0443\u043a \u044e\u043b\u0430", None),
        ("\u0431\u043e\u043c\u0431\u0430", None),
        (
            "\u043aill \u0436\u0443\u043a \u044e\u043b\u0430 \u0440\u0430\u0441\u0435",
            "kill \u0436\u0443\u043a \u044e\u043b\u0430 \u0440\u0430\u0441\u0435",
        ),
        ("\u043aill b\u043emb \u0436\u0443\u043a \u0440\u0430\u0441\u0435", "kill bomb \u0436\u0443\u043a pace"),
        ("b\u0131r stra\u00dfe caf\u00e9", None),
        ("bo1\u043emb", "bo1omb"),
        ("\u0440\u0430\u0441\u0435 stra\u00dfe \u00fcber", "pace stra\u00dfe \u00fcber"),
        ("plain words", None),
    ],
}


@pytest.mark.parametrize(
    ("name", "text", "plain"), [(name, *case) for name, cases in CLEANED.items() for case in cases]
)
def test_cleanings(name: str, text: str, plain: str | None) -> None:
    """What each cleaning removes or replaces, and what it leaves."""
    assert CLEANINGS[name](text) == (text if plain is None else plain)


def test_the_names_of_the_cleanings() -> None:
    """The names that a configuration may have, in the order in which the cleanings are done."""
    assert tuple(CLEANINGS) == ("tags", "bidi", "invisible", "nfkc", "confusables")


def test_every_character_without_a_sight_is_removed() -> None:
    """Format characters of Unicode are invisible, but for joiners, tags and bidirectional controls."""
    kept = {*"\u200c\u200d\u200e\u200f\u061c", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
    for code in (*range(0x80, 0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE1000)):
        char = chr(code)
        if unicodedata.category(char) == "Cf" and char not in kept and not 0xE0000 <= code <= 0xE007F:
            assert CLEANINGS["invisible"](f"b{char}b") == "bb", hex(code)


def test_every_styled_letter_is_plain() -> None:
    """Mathematical, circled, boxed and wide letters are letters."""
    capitals = (0x1D400, 0x1D434, 0x1D5A0, 0x1D670, 0x24B6, 0xFF21, 0x1F130, 0x1F150, 0x1F170)
    for start in capitals:
        text = "".join(chr(start + place) for place in range(26))
        assert CLEANINGS["nfkc"](text) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ", hex(start)
