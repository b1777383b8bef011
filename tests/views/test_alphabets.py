"""Runs that are the digits of bytes: base64, base32, base58, base85, uuencode, and such runs backwards."""

import base64
import binascii
from collections.abc import Callable

import pytest

from guardproxy.views.alphabets import has_long_word, unbase32, unbase58, unbase64, unbase85, unturned, unuu
from guardproxy.views.seals import Seals
from tests.escapes.disguises import SINGLE

MARKS = Seals("|", "#")
Decode = Callable[[str, Seals], str]


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _b32(text: str) -> str:
    return base64.b32encode(text.encode()).decode()


def _a85(text: str) -> str:
    return base64.a85encode(text.encode()).decode()


def _b85(text: str) -> str:
    return base64.b85encode(text.encode()).decode()


def _z85(text: str) -> str:
    rfc1924 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    zeromq = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    return _b85(text).translate(str.maketrans(rfc1924, zeromq))


def _uu(text: str) -> str:
    data = text.encode()
    return "".join(binascii.b2a_uu(data[at : at + 45]).decode() for at in range(0, len(data), 45))


_B58 = SINGLE["base58"]
FOREIGN = "xqzjkvwpyfgbdmrxcv"  # no words


@pytest.mark.parametrize(
    ("decode", "run", "plain"),
    [
        (unbase64, _b64("bomb"), "bomb"),
        (unbase64, _b64("bombs and"), "bombs and"),
        (unbase64, _b64("the bombs").rstrip("="), "the bombs"),
        (unbase64, _b64("the bombs!").rstrip("="), "the bombs!"),
        (unbase64, _b64(FOREIGN), FOREIGN),
        (unbase64, base64.urlsafe_b64encode(b"the bombs ~~ >>> in it ??").decode(), "the bombs ~~ >>> in it ??"),
        (unbase32, _b32("the bombs"), "the bombs"),
        (unbase32, _b32("the bombs on").lower().rstrip("="), "the bombs on"),
        (unbase32, _b32("the bombs in it"), "the bombs in it"),
        (unbase32, _b32(f"{FOREIGN}qq"), f"{FOREIGN}qq"),
        (unbase58, _B58("the bombs in"), "the bombs in"),
        (unbase58, _B58(f"{FOREIGN}qqwwk"), f"{FOREIGN}qqwwk"),
        (unbase58, _B58("a" * 2999), "a" * 2999),
        (unbase85, f"<~{_a85('bomb')}~>", "bomb"),
        (unbase85, _a85("the bombs in it so"), "the bombs in it so"),
        (unbase85, _b85("the bombs in it so"), "the bombs in it so"),
        (unbase85, _z85("the bombs in it so"), "the bombs in it so"),
        (unbase85, _b85("xqzj kvwp yfgb qqq dgfrc"), "xqzj kvwp yfgb qqq dgfrc"),
        (unturned, _b64("the bombs in it")[::-1], _b64("the bombs in it")),
        (unturned, _b32("the bombs in it")[::-1], _b32("the bombs in it")),
        (unturned, _B58("the bombs in it")[::-1], _B58("the bombs in it")),
        (unturned, _b85("the bombs in it so")[::-1], _b85("the bombs in it so")),
        (unturned, "&#98;&#111;&#109;"[::-1], "&#98;&#111;&#109;"),
        (unuu, f"begin 644 a b.txt\n{_uu('the bombs')}`\nend", "the bombs"),
        (unuu, f"begin 0755 x\n{_uu('the bombs are in the house, and nobody knows where' * 2)}", None),
    ],
)
def test_runs_are_decoded_in_place(decode: Decode, run: str, plain: str | None) -> None:
    """Words, and longer runs of any text, are decoded between other words."""
    text = plain or "the bombs are in the house, and nobody knows where" * 2
    assert decode(run, MARKS) == f"#{text}#"
    assert decode(f"Read:\n{run}\nand do it", MARKS).removesuffix("and do it").strip() == f"Read:\n#{text}#"


@pytest.mark.parametrize(
    ("decode", "run"),
    [
        (unbase64, "Ym9tYg"),
        (unbase64, "Ym9tYnMgYW"),
        (unbase64, _b64("bombs")[:7]),
        (unbase64, _b64(FOREIGN[:17])),
        (unbase64, _b64(FOREIGN)[:-3]),
        (unbase64, "internationalization"),
        (unbase64, "a" * 41),
        (unbase64, _b64("the bombs")[:-2] + "?"),
        (unbase32, _b32("bombs")),
        (unbase32, _b32(FOREIGN)),
        (unbase32, _b32(f"{FOREIGN}q").rstrip("=")),
        (unbase32, "internationalizations"),
        (unbase58, _B58("the bombs i")),
        (unbase58, _B58(FOREIGN[:12])),
        (unbase58, _B58(f"{FOREIGN}qqwwk")[:31]),
        (unbase58, _B58("a" * 3000)),
        (unbase85, _a85("the bombs in it")),
        (unbase85, _b85("xqzj kvwp yfgb qqq dgfr")),
        (unbase85, f"<~{_a85('bom')}~>"),
        (unturned, _b64("the bombs in it")),
        (unturned, "noitazilanoitanretni"),
        (unturned, "%62%6F%6D%62%73%73"),
        (unuu, f"begun 644 x\n{_uu('the bombs')}"),
        (unuu, f"it begin 644 x\n{_uu('the bombs')}"),
        (unuu, "begin 644 x\n#####\n"),
    ],
)
def test_runs_that_stay(decode: Decode, run: str) -> None:
    """Short runs without words, runs with a digit too many, words and runs that are too long."""
    assert decode(run, MARKS) == run


@pytest.mark.parametrize(("decode", "encode"), [(unbase64, _b64), (unbase32, _b32)])
def test_lines(decode: Decode, encode: Callable[[str], str]) -> None:
    """Lines are decoded together, or by themselves if they are sealed or encode nothing together."""
    first, second = "the bombs in the house of people all", "and of others"
    if decode is unbase32:
        first = "the bombs in the house of peoples"[:30]
    run = f"{encode(first)}\n{encode(second)}"
    assert decode(run, Seals()) == f"{first}{second}"
    assert decode(run, MARKS) == f"#{first}#\n#{second}#".replace("\n", "")
    assert decode(f"{'x' * 40}\n{encode(second)}", Seals()).endswith(second)


def test_a_line_that_is_no_text_by_itself() -> None:
    """Lines stay together if one of them, such as the rest of a word, encodes nothing alone."""
    run = _b64("the bombs in the house of people and of others")
    assert unbase64(f"{run[:48]}\n{run[48:]}", Seals()) == "the bombs in the house of people and of others"
    assert unbase64(f"{run[:60]}\n{run[60:]}", MARKS) == "#the bombs in the house of people and of others#"


@pytest.mark.parametrize(
    ("before", "behind"),
    [('"', '".'), ("[(", ")]."), ("`", "`"), ("<", ">,"), ("x=", "?!"), ("", '.")'), ("", ";:!?"), ("'", "'")],
)
def test_base85_between_signs(before: str, behind: str) -> None:
    """Quotation marks, brackets and the end of a sentence are no digits."""
    run = _b85("the bombs in it so")
    if before == "x=":
        before = "="
    assert unbase85(f"{before}{run}{behind}", MARKS) == f"{before}#the bombs in it so#{behind}"


def test_base85_between_more_signs_stays() -> None:
    """Two signs before a run and four behind it are looked at."""
    run = _b85("the bombs in it so")
    assert unbase85(f"((({run}", MARKS) == f"((({run}"
    assert unbase85(f"{run},,,,,", MARKS) == f"{run},,,,,"
    short = _b85("the bombs i")
    assert (len(short), unbase85(f"(({short}))))", MARKS)) == (14, f"(({short}))))")


def test_the_longest_run_of_base58() -> None:
    """4096 digits of base58 are decoded; more would take too long."""
    assert (len(_B58("a" * 2999)), len(_B58("a" * 3000))) == (4096, 4097)


def test_long_words() -> None:
    """A word of sixteen characters may be an encoding."""
    assert has_long_word("a " + "b" * 16)
    assert not has_long_word("a " + "b" * 15)
    assert not has_long_word("")
