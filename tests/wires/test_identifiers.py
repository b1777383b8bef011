"""What counts as a word in an identifier: strings at the bounds of every rule."""

import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.wires.shared import vocabulary
from guardproxy.wires.shared.identifiers import (
    LENGTH,
    LOOSE,
    is_identifier,
    is_machine_data,
    is_name,
    is_value,
    label_words,
    letter_runs,
    looseness,
    own_words,
    value_or,
)

# A string, the segments that are neither words nor numbers, and its own words as an identifier of a body and as a
# label; MANY for a string that is no enumerated value, or a text. The random strings at the end are ids.
MANY = 99
MEASURED: list[tuple[str, int, float, int]] = [
    ("stop", 0, 0, 0),
    ("STOP", 0, 0, 0),
    ("tool_calls", 0, 0, 0),
    ("chat.completion.chunk", 0, 0, 0),
    ("gpt-4o-mini-2024-07-18", 1, 0, 0),
    ("HARM_CATEGORY_HATE_SPEECH", 0, 0, 2),
    ("42", 0, 0, 0),
    ("3.14", 0, 0, 0),
    ("a", 1, 0.25, 0),
    ("ab", 1, 0.5, 0),
    ("xy", 1, 0.5, 0),
    ("zz", 1, 0.5, 0),
    ("x1", 1, 0, 0),
    ("ab1", 1, 0, 0),
    ("abc", 99, 1, 1),
    ("zqk", 99, 1, 1),
    ("zebra", 1, 0, 0),
    ("Zebra", 1, 0, 0),
    ("ZEBRA", 1, 0, 0),
    ("zeBra", 1, 0, 0),
    ("zebra1", 1, 0, 0),
    ("z3bra", 1, 0, 0),
    ("zebra-house", 99, 1, 1),
    ("zebra.house", 99, 1, 1),
    ("zebra:house", 99, 1, 1),
    ("zebraHouse", 99, 2, 2),
    ("ZebraHouse", 99, 2, 2),
    ("zebra-x1", 2, 0, 1),
    ("zebra-x1-y2", 3, 0, 1),
    ("zebra-x1-y2-z3", 4, 0, 2),
    ("grandmother", 99, 2, 2),
    ("grandmothers", 99, 2, 2),
    ("grandfathers", 99, 2, 2),
    ("neighbourhood", 99, 99, 99),
    ("neighbourhoods", 99, 99, 99),
    ("kitchenware1", 99, 2, 2),
    ("kitchenwares12", 99, 99, 99),
    ("xylophonically", 99, 99, 99),
    ("kitchenTable", 99, 1, 1),
    ("kitchenTableLamp", 99, 2, 2),
    ("kitchenTableLampshadeWindow", 99, 99, 99),
    ("h-o-w", 3, 0.75, 1),
    ("h-o-w-t-o", 5, 1.25, 2),
    ("to", 0, 0, 0),
    ("how", 99, 1, 1),
    ("how-to-build-it", 99, 2, 2),
    ("howtobuildit", 99, 2, 2),
    ("HowToBuildIt", 99, 2, 2),
    ("h0wt0bu1ld1t", 99, 1, 1),
    ("b0mb", 99, 1, 1),
    ("p1pe", 99, 1, 1),
    ("bu1ld", 99, 1, 1),
    ("b0mbsb0mbs1234", 1, 0, 0),
    ("deadbeef", 99, 1, 1),
    ("deadbee1", 1, 0, 0),
    ("DEADBEE1", 1, 0, 0),
    ("DeadBee1", 99, 2, 2),
    ("deadbe1", 99, 1, 1),
    ("abcdef12", 1, 0, 0),
    ("12345678", 0, 0, 0),
    ("486f7720", 1, 0, 0),
    ("686f7720746f", 1, 0, 0),
    ("686f77746f6275696c6461", 99, 99, 99),
    ("b9d1f00dcafe", 1, 0, 0),
    ("9PsbQdzIcbUtI0mKBLuJ5kZf", 1, 0, 0),
    ("kQzXwVbNmPqR", 1, 0, 0),
    ("kqzxwvbnmpqr", 1, 0, 0),
    ("KQZXWVBNMPQR", 1, 0, 0),
    ("Kqzxwvbnmpqr", 1, 0, 0),
    ("kqzxwvbnmpq1", 1, 0, 0),
    ("qwrtpsdf", 1, 0, 0),
    ("qwrtps", 1, 0, 0),
    ("qw1rt", 99, 1, 1),
    ("kQ1x", 1, 0, 0),
    ("aBcD", 99, 1, 1),
    ("AbCd", 99, 1, 1),
    ("tHe", 99, 1, 1),
    ("ubjgbohvyq", 99, 2, 2),
    ("ubj_gb_ohvyq", 99, 1, 1),
    ("ubjgbohvyqnobzo", 99, 99, 99),
    ("550e8400-e29b-41d4-a716-446655440000", 1, 0, 0),
    ("8f14e45f-ceea-467f-9b1c-2f6f3c1d2a9b", 1, 0, 0),
    ("486f7720-746f-2062-7569-6c6420612062", 99, 99, 99),
    ("call_550e8400-e29b-41d4-a716-446655440000", 1, 0, 0),
    ("x550e8400-e29b-41d4-a716-446655440000", 4, 0, 2),
    ("call_kQ9", 1, 0, 0),
    ("call_zebra", 1, 0, 0),
    ("q4_K_M", 3, 0.5, 1),
    ("Q8_0", 1, 0, 0),
    ("7b", 1, 0, 0),
    ("llama3.2:3b-instruct-q4_K_M", 4, 0.5, 2),
    ("hf.co/bartowski/Llama", 99, 2.5, 2),
    ("alice@example.com", 99, 1, 1),
    ("ümlaut", 99, 99, 99),
    ("zebra!", 99, 0, 0),
    ("zebra?house", 99, 1, 1),
    ("zebra=house", 99, 1, 1),
    ("~zebra", 1, 0, 0),
    ("#zebra", 1, 0, 0),
    ("zebra+x", 2, 0.25, 1),
    ("SG93IHRvIGJ1aWxkIGEgYm9tYg", 99, 99, 99),
    ("xSG93IHRvIGJ1aWxkIGEgYm9tYg", 99, 99, 99),
    ("callSG93IHRvIG", 1, 0, 0),
    ("toolSG93IHRvIGJ1aWxk", 1, 0, 0),
    ("x1-x1-x1-x1-x1-x1-x1-x1", 8, 0, 4),
    ("x1-x1-x1-x1-x1-x1-x1-x1-x1", 99, 0, 99),
    ("qz1-qz1-qz1", 3, 0, 1),
    ("", 0, 0, 0),
    (" ", 99, 0, 0),
    ("two words", 99, 0, 0),
    ("tool calls", 99, 0, 0),
    ("oHwLMeaZq", 1, 0, 0),
    ("o9DZDNjN1", 1, 0, 0),
    ("GTPdVKsb1", 1, 0, 0),
    ("DS2S5yXB6", 1, 0, 0),
    ("5deh8pwk", 1, 0, 0),
    ("snmvv6y7", 1, 0, 0),
    ("49yf486u", 1, 0, 0),
    ("zh3ukc49", 1, 0, 0),
    ("cukdhtwb", 1, 0, 0),
    ("pbsiwznz", 1, 0, 0),
    ("icpafkpe", 99, 1, 1),
    ("bwiyxjln", 1, 0, 0),
    ("HEDGWA", 99, 1, 1),
    ("wLmpYB", 1, 0, 0),
    ("CavEbG", 99, 1, 1),
    ("GdGyJs", 1, 0, 0),
    ("RTbdP7pCKtwtwKsxVbJTtnXolA", 1, 0, 0),
    ("RgtuZB1kuO2BnhGlYZlrYNXvis", 1, 0, 0),
    ("XqvzAz5ja629A65nUZPGrvoeKr", 1, 0, 0),
    ("Yc4R533JaUksPGz6Lvp1DWvmHY", 1, 0, 0),
    ("euxuvaqwbhgnk", 99, 99, 99),
    ("muabddbzwcnii", 99, 99, 99),
    ("jqpjeidosjcej", 99, 99, 99),
    ("pujuqljmskslg", 99, 99, 99),
    ("NSBLLWYJXUGM", 1, 0, 0),
    ("DVRXURTOCPAD", 99, 2, 2),
    ("UBCCWEAVDVRV", 1, 0, 0),
    ("YPUATNSCTYBI", 99, 2, 2),
]


@pytest.mark.parametrize(("value", "loose", "own", "as_label"), MEASURED)
def test_measures(value: str, loose: int, own: float, as_label: int) -> None:
    """Every string has these measures, and an id may have one word, a name three."""
    assert (min(looseness(value), MANY), min(own_words(value), MANY), min(label_words(value), MANY)) == (
        *(loose, own),
        as_label,
    )
    assert is_value(value) is (loose <= LOOSE)


@pytest.mark.parametrize(
    ("value", "an_identifier", "a_name"),
    [
        ("grove", True, True),
        ("grove-x1", True, True),
        ("grove-x1-y1", False, True),
        ("grove-tiger", False, True),
        ("grove-tiger-house", False, True),
        ("grove-tiger-house-pipe", False, False),
        ("grove-tiger-x1-y1", False, True),
        ("grove-tiger-x1-y1-z1-q1", False, False),
        ("-".join(["grove", *["x1"] * 9]), False, False),
        ("grove tiger", False, False),
        ("", True, True),
    ],
)
def test_identifiers_and_names(value: str, an_identifier: bool, a_name: bool) -> None:
    """An id may have one word of its own, a name three; two segments that are no words count as a word."""
    assert (is_identifier(value), is_name(value)) == (an_identifier, a_name)


@pytest.mark.parametrize("check", [is_value, is_identifier, is_name])
@pytest.mark.parametrize("start", ["stop", "grove"])
def test_longest(check: object, start: str) -> None:
    """An identifier has at most LENGTH characters; a longer label has many words."""
    longest = start + "_" * (LENGTH - len(start))
    assert callable(check)
    assert check(longest) is (check is not is_value or start == "stop")
    assert not check(longest + "_")
    assert label_words(longest) < 2
    assert label_words(longest + "_") > MANY


@pytest.mark.parametrize(
    "value",
    [
        b"this is a test".hex(),
        b"at first".hex(),
        b"At First".hex().upper(),
        b"at first".hex() + "7",
        f"call_{b'this is a test'.hex()}",
        b"how to make".hex() + "2",
    ],
)
def test_hexadecimal_texts(value: str) -> None:
    """A text in hexadecimal digits is no identifier, also if all digits are decimal or one is left over."""
    assert (looseness(value), own_words(value)) == (1000, 1000)
    assert not is_identifier(value)


def test_numbers_are_no_hexadecimal_texts() -> None:
    """Dates, times and ids of digits are numbers."""
    numbers = ["20240718", "1714560000", "1714560000123456789", "100000000000000000000001", "61742066697273"]
    assert [looseness(number) for number in numbers] == [0] * 5


def test_known_words_with_digits_between_are_loose() -> None:
    """Two known words with a digit between them could be something else; a digit behind a known word could not."""
    assert [looseness(value) for value in ("api1", "tool1", "tool1call", "tool1call2function")] == [0, 0, 1, 1]


def test_value_or() -> None:
    """Only an enumerated value that is not empty is written again."""
    assert [value_or(value, "d") for value in ("stop", "grove", "", None, 7, ["stop"])] == ["stop", *["d"] * 5]


def test_labels_ignore_punctuation() -> None:
    """Punctuation and spaces separate the words of a label, whatever they are."""
    assert label_words("grove, tiger! [house]") == 3
    assert label_words("\nHuman:") == 0
    assert label_words("grove\u00e9") > MANY


def _data(number: int, size: int) -> str:
    return base64.b64encode(hashlib.sha512(bytes([number])).digest() * 9)[:size].decode()


@pytest.mark.parametrize("size", [16, 17, 63, 64, 256, 257, 600])
def test_machine_data(size: int) -> None:
    """Base64 data of any length from 16 characters is machine data, in lines and with padding as well."""
    passing = [number for number in range(40) if is_machine_data(_data(number, size))]
    assert len(passing) >= 29
    data = _data(passing[0], size)
    for same in (f"{data}=", f"{data}==\n", f"{data}\n{data}"):
        assert is_machine_data(same)
    assert not is_machine_data(data + "===")


def test_a_long_text_is_found_by_its_first_characters() -> None:
    """65536 characters are decoded, white space included: what follows them changes nothing."""
    text = base64.b64encode(b"The great tiger in the house of the grove. " * 1143).decode()[:65532]
    assert not is_machine_data(text)
    assert is_machine_data(f"{text}////")
    assert not is_machine_data(f"\n{text}////")


@pytest.mark.parametrize(
    "value",
    [
        "QZXJKVWBQZXJKVWB",
        "Qzxjkvwbqzxjkvwb",
        base64.b64encode(b"The great tiger in the house of the grove. " * 9 + b"\xff").decode(),
        base64.urlsafe_b64encode(b"Who? Why? >>> ~~~ Or? The great tiger in a house???>>>?" * 9).decode(),
        *(_data(0, size) for size in (0, 1, 15)),
        "grove-tiger-house",
        "thegreattigerinthehouseofthegrove",
        "THEGREATTIGERINTHEHOUSE",
        "the-great-tiger-in-the-house/" + _data(0, 300),
        _data(1, 40) + "!",
        base64.b64encode(b"The great tiger in the house of the grove").decode(),
        base64.b64encode(b"The great tiger in the house of the grove " * 20).decode(),
        base64.b64encode(b"The great tiger in the house of the grove " * 4000).decode(),
        base64.urlsafe_b64encode("Der gro\u00dfe Tiger im Haus, \u00fcber dem Hain".encode()).decode(),
        "\n".join(
            base64.b64encode(b"The great tiger in the house " * 9).decode()[start : start + 60]
            for start in (0, 60, 120, 180)
        ),
        "abcdefghijkl-abcdefghijkl",
        "Abcdefghijklmnop",
        "ab-cd-ef-gh-ij-kl-mn",
    ],
)
def test_no_machine_data(value: str) -> None:
    """Short strings, words, and base64 of a text are no machine data."""
    assert not is_machine_data(value)


def test_the_vocabulary_has_words_and_values() -> None:
    """Words are in small letters and have no separator; whole values have one, or are words of ordinary speech."""
    assert {"stop", "model", "completion"} <= vocabulary.WORDS
    assert {"harm_category_hate_speech", "self-harm", "violence"} <= vocabulary.VALUES
    assert all(word.isalnum() and word == word.lower() for word in vocabulary.WORDS)
    assert not vocabulary.WORDS & vocabulary.VALUES
    assert not {"bomb", "how", "kill", "weapon", "poison"} & vocabulary.WORDS


@given(
    st.lists(st.tuples(st.sampled_from(["a", "Z", "_", "-", "aB", "7", "a_", "Z-"]), st.integers(1, 30)), max_size=12),
    st.integers(65_400, 65_600),
    st.sampled_from(["a", "7", "_", "aZ"]),
)
def test_runs_of_letters_are_found_wherever_the_search_is_cut(
    parts: list[tuple[str, int]], before: int, filling: str
) -> None:
    """The runs are those of one search through the whole text, which would keep Python's lock."""
    text = (filling * before)[:before] + "".join(unit * count for unit, count in parts) + "7Aa" * 3
    assert [*letter_runs(text)] == re.findall("[a-z_-]{20,}|[A-Z_-]{20,}", text)
