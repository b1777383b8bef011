"""Keys and seals: what a reader of the store learns, and what a writer can do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.sharing import Sealer

SEALER = Sealer("s" * 32, "here")
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.binary())
def test_a_value_comes_back_as_it_was(value: object, key: bytes) -> None:
    """With its own key, and from another process with the same secret."""
    place = SEALER.key("verdict", b"g", key)
    sealed = SEALER.seal(place, value)
    other = Sealer("s" * 32, "here")
    assert other.key("verdict", b"g", key) == place
    assert other.unseal(place, sealed) == value


def test_what_tells_keys_apart() -> None:
    """The kind, whose the value is, the key, the namespace and the secret; parts that join to the same bytes do not."""
    others = [
        SEALER.key("passed", b"g", b"k"),
        SEALER.key("verdict", b"h", b"k"),
        SEALER.key("verdict", b"g", b"l"),
        SEALER.key("verdict", b"gk", b""),
        Sealer("s" * 32, "there").key("verdict", b"g", b"k"),
        Sealer("t" * 32, "here").key("verdict", b"g", b"k"),
    ]
    assert len({SEALER.key("verdict", b"g", b"k"), *others}) == 7


def test_a_key_shows_nothing_of_what_it_is_made_of() -> None:
    """Only its kind and the namespace; the rest has the same length for any text."""
    short, long = SEALER.key("verdict", b"g", b"poison"), SEALER.key("verdict", b"g", b"poison" * 1000)
    assert short.startswith(b"here:verdict:")
    assert len(short) == len(long)
    assert b"poison" not in long


@given(st.binary(max_size=64))
def test_what_was_not_sealed_is_no_value(data: bytes) -> None:
    """Neither are random bytes."""
    with pytest.raises(ValueError):  # noqa: PT011 - json's own error as well
        SEALER.unseal(SEALER.key("verdict", b"g", b"k"), data)


def test_forged_values() -> None:
    """A value of another key, of another secret, a changed one and a cut one do not count."""
    place, other = SEALER.key("verdict", b"g", b"harmful"), SEALER.key("verdict", b"g", b"harmless")
    sealed = SEALER.seal(place, {"unsafe": 0.9})
    forged = [
        SEALER.seal(other, {"unsafe": 0.1}),
        Sealer("t" * 32, "here").seal(place, {"unsafe": 0.1}),
        sealed.replace(b"0.9", b"0.1"),
        sealed[:-1],
        sealed[:16],
        b"",
    ]
    for value in forged:
        with pytest.raises(ValueError, match="has not been sealed for this key"):
            SEALER.unseal(place, value)
