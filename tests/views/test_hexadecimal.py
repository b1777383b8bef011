"""Hex digits and the escapes of programs."""

import pytest

from guardproxy.views.hexadecimal import unhex
from guardproxy.views.seals import Seals

MARKS = Seals("|", "#")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\\x62\\x6f", "|bo|"),
        ("a \\x62omb", "a |b|omb"),
        ("\\u0062\\u006f", "|bo|"),
        ("\\u0062", "|b|"),
        ("%u0062omb", "|b|omb"),
        ("%u0062%u006f", "|bo|"),
        ("\\u00e9\\u00e8", "|\u00e9\u00e8|"),
        ("\\ud83d\\ude00", "|\U0001f600|"),
        ("\\ud83d\\u0062", "|\ufffdb|"),
        ("\\u{62}\\u{6f}", "|bo|"),
        ("\\u{0062}omb", "|b|omb"),
        ("\\x{62}omb", "|b|omb"),
        ("\\u{ffff2}\\u{62}", "\\u{ffff2}\\u{62}"),
        ("\\u{4e2d}\\u{6587}\\u{d7a3}", "|\u4e2d\u6587\ud7a3|"),
        ("\\U00000062omb", "|b|omb"),
        ("\\U00000062\\U0001f600", "|b\U0001f600|"),
        ("U+0062 U+006F U+006D U+0062", "|bomb|"),
        ("u+0062,u+006f,u+006d,u+0062", "|bomb|"),
        ("\\62 \\6f \\6d \\62 ", "|bomb|"),
        ("\\142\\157\\155", "|bom|"),
        ("b\\157mb", "b|o|mb"),
        ("\\303\\274", "|\u00fc|"),
        ("62 6f 6d 62", "#bomb#"),
        ("62:6f:6d:62", "#bomb#"),
        ("626f6d62", "#bomb#"),
        ("0x62, 0x6f, 0x6D, 0X62", "#bomb#"),
        ("0x626f6d62", "#bomb#"),
        ("626f6d6273207468", "#bombs th#"),
        ("78717a6a6b767770", "#xqzjkvwp#"),
        (b"the bombs in it".hex()[::-1], "#the bombs in it#"),
        (b"the bombs in".hex()[::-1], "#the bombs in#"),
        ("\\x62\\x6f \\142\\157 626f6d62", "\\x62\\x6f |bo| 626f6d62"),
    ],
)
def test_escapes_and_digits(text: str, plain: str) -> None:
    """Letters in escapes, several characters in escapes, and words in hex digits, forwards or backwards."""
    assert unhex(text, MARKS) == plain


@pytest.mark.parametrize(
    "text",
    [
        *("\\x20", "\\x07", "\\u0020", "\\xff\\xfe", "\\377\\376", "\\000\\001", "\\1 and \\2", "a\\7b", "C:\\142"),
        *("\\u{110000}\\u{62}", "\\u{d800}\\u{62}", "\\u{dfff}\\u{62}", "\\u{7}\\u{62}", "\\u{10ffff}\\u{62}"),
        *("\\u{62}\\u{7} \\u{62}\\u{7}", "\\007\\142 \\142\\007"),
        *("7571626f", "deadbeef01", "78717a6a6b7677", "62 6f 6d", "626f6d", "12 34 56 78"),
        *(b"the bombs i".hex()[::-1], b"xqzjkvwpxqzjkvwp".hex()[::-1], "U+0062 U+006F U+006D", "no digits"),
    ],
)
def test_digits_and_signs_that_stay(text: str) -> None:
    """A single escape that is no letter, few or unprintable characters, and data."""
    assert unhex(text, MARKS) == text
