"""Characters in binary, decimal and octal numbers, and in Morse code."""

import base64

import pytest

from guardproxy.views.numbers import unmorse, unnumbered
from guardproxy.views.seals import Seals
from tests.escapes.disguises import morse

MARKS = Seals("|", "#")


def _bits(text: str, size: int = 8, gap: str = " ") -> str:
    return gap.join(f"{byte:0{size}b}" for byte in text.encode())


def _codes(text: str, form: str = "d", gap: str = " ") -> str:
    return gap.join(format(byte, form) for byte in text.encode())


def _is_number(numbers: str, plain: str) -> None:
    assert unnumbered(numbers, MARKS) == f"#{plain}#"
    assert unnumbered(f"Read {numbers} now", MARKS) == f"Read #{plain}# now"


@pytest.mark.parametrize("gap", [" ", "", ", ", "|", "-", "\n", "_"])
def test_bits_of_bytes(gap: str) -> None:
    """Eight bits are a character, whatever is between them; four characters are a text."""
    _is_number(_bits("bomb", gap=gap), "bomb")
    assert unnumbered(_bits("bom", gap=gap), MARKS) == _bits("bom", gap=gap)


def test_bits_of_ascii() -> None:
    """Seven bits are a character: apart, or together if their number is no multiple of eight."""
    _is_number(_bits("bombs", 7), "bombs")
    _is_number(_bits("bombs", 7, ""), "bombs")
    assert unnumbered(_bits("bomb", 7), MARKS) == _bits("bomb", 7)  # less than 32 bits
    _is_number("".join(_bits("bombs there and then", 7, "")), "bombs there and then")
    _is_number(" ".join(f"{byte:b}" for byte in b"bomb 12 bombs"), "bomb 12 bombs")  # six and seven


def test_bits_in_groups_that_are_no_characters() -> None:
    """Groups of other sizes are read together."""
    bits = _bits("bombs", gap="")
    _is_number(" ".join(bits[at : at + 4] for at in range(0, len(bits), 4)), "bombs")
    _is_number(" ".join(bits[at : at + 10] for at in range(0, len(bits), 10)), "bombs")
    _is_number(" ".join([bits[:6], bits[6:16], bits[16:]]), "bombs")
    _is_number("0b" + " 0b".join(_bits("bombs").split()), "bombs")


def test_numbers_backwards() -> None:
    """Digits that are turned around are read as well."""
    _is_number(_bits("bombs")[::-1], "bombs")
    _is_number(_codes("the bombs in")[::-1], "the bombs in")


@pytest.mark.parametrize(
    ("numbers", "plain"),
    [
        (_codes("bombing"), "bombing"),
        (_codes("the bombs", "o"), "the bombs"),
        (_codes("the bombs", "o", ", 0o").replace("164", "0o164", 1), "the bombs"),
        (_codes("the bombs", "03d", ""), "the bombs"),
        (_codes("bombsthere", "o", ""), "bombsthere"),
        (_codes("the bombs", "03o", ""), "the bombs"),
        (_codes("the the\n the"), "the the\n the"),
        (_codes("it is, they said; and so on!"), "it is, they said; and so on!"),
        (_codes('it\'s "so": the-end?'), 'it\'s "so": the-end?'),
        (_codes("THE Bombs are HERE"), "THE Bombs are HERE"),
        (_codes("eïnen süß"), "eïnen süß"),
        (_codes("\u00ff".encode().decode() * 5), "\u00ff" * 5),
        (_codes(base64.b64encode(b"How do I bui").decode()), base64.b64encode(b"How do I bui").decode()),
        (_codes("the x&y of the z*w and so on in it"), "the x&y of the z*w and so on in it"),
    ],
)
def test_codes_of_characters(numbers: str, plain: str) -> None:
    """Decimal and octal numbers of words, of other alphabets and of encodings."""
    _is_number(numbers, plain)


@pytest.mark.parametrize(
    "numbers",
    [
        _codes("them"),
        _codes("xqzj kvw"),
        _codes("the x&y of"),
        _codes("the \x00 the"),
        _codes("12 the 13 there ab"),
        "98 256 109 98 115 116 117",
        "200 201 202 203 204 205 206",
        "300 301 302 303 304 305 306",
        "9811110998115321051161",
        "10 20 30 40 50 60 70 80",
    ],
)
def test_numbers_that_are_no_text(numbers: str) -> None:
    """Few numbers, numbers that are no bytes or no words, and rows of digits with one too many."""
    assert unnumbered(numbers, MARKS) == numbers


def test_numbers_within_numbers() -> None:
    """The numbers of numbers are read at once."""
    assert unnumbered(_codes(_codes("the bombs ")), Seals()) == "the bombs "
    assert unnumbered(_codes(_bits("the bombs")), Seals()) == "the bombs"
    assert unnumbered(_codes(morse("the bombs in it")), Seals()) == morse("the bombs in it")


def test_lines_of_numbers() -> None:
    """Lines are read together, and each by itself if results are kept apart and each is a text."""
    lines = f"{_bits('bomb')}\n{_bits('them')}"
    assert unnumbered(lines, Seals()) == "bombthem"
    assert unnumbered(lines, MARKS) == "#bomb#\n#them#"
    half = f"{_bits('bomb')}\n{_bits('the')}"
    assert unnumbered(half, MARKS) == "#bombthe#"
    assert unnumbered(f"{_codes('the bombs')}\n{_codes('are there')}", MARKS) == "#the bombs#\n#are there#"


@pytest.mark.parametrize(
    ("signs", "plain"),
    [
        (morse("the bombs"), "THE BOMBS"),
        (morse("bombing"), "BOMBING"),
        (morse("the bombs")[::-1], "THE BOMBS"),
        (morse("the bombs").replace("-", "\u2014").replace(".", "\u2022"), "THE BOMBS"),
        (morse("the bombs").replace(" / ", "   "), "THE BOMBS"),
        (morse("what (is) this?"), "WHAT (IS) THIS?"),
        (morse("xqzjkvwb yfgp ab"), "XQZJKVWB YFGP AB"),
        (morse("theonb"), "THEONB"),
    ],
)
def test_morse(signs: str, plain: str) -> None:
    """Words, or sixteen characters of eight kinds, forwards or backwards."""
    assert unmorse(signs, MARKS) == f"#{plain}#"
    assert unmorse(f"Read ({signs}), please", MARKS) == f"Read (#{plain}#), please"


@pytest.mark.parametrize(
    "signs",
    [
        morse("bombs"),
        morse("xqzjkv"),
        morse("xqzjkvwbyfgp ab"[:15]),
        morse("xqx qxq vjv jvj qbq"),
        morse("theon theon"),
        ".- .- .- .- .- .- .-",
        "...... " + morse("the bombs"),
        "- - - - - - - - and . . . . . . .",
    ],
)
def test_dots_and_lines_that_are_no_morse(signs: str) -> None:
    """Few letters, few different ones, and signs that no letter has."""
    assert unmorse(signs, MARKS) == signs
