"""Which text a reader gets: by country and language, never for a country that nobody has named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.localtext import LocalText, Reader, reader_of

TEXT = LocalText({place: place for place in ("*", "de", "de-CH", "DE", "US", "fr", "FR", "fr-CA", "CA")})


@pytest.mark.parametrize(
    ("accepted", "named", "place"),
    [
        ("", "", "*"),
        ("*", "", "*"),
        ("de-DE,de;q=0.9,en;q=0.8", "", "DE"),
        ("de,en-US;q=0.7,en;q=0.3", "", "de"),  # a browser in German, anywhere
        ("sv,en-US;q=0.7", "", "*"),  # not the United States
        ("de-AT", "", "de"),
        ("de-ch", "", "de-CH"),
        ("fr-CA", "", "fr-CA"),
        ("en-CA,fr-CA;q=0.5", "", "fr-CA"),
        ("en-CA", "", "CA"),
        ("en;q=0.2, fr-FR;q=0.9", "", "FR"),
        ("fr-FR;q=0, de", "", "de"),
        ("zh-Hant-TW, de", "", "de"),
        ("en-US", "FR", "FR"),
        ("en-US", " fr ", "FR"),
        ("en-US", "fr-CA", "fr-CA"),
        ("de", "XX", "de"),
        ("de-DE", "not a place", "DE"),
        ("\xff, ;;, q=1, de_DE", "", "DE"),
        ("en-US;q=x, de", "", "de"),
    ],
)
def test_places(accepted: str, named: str, place: str) -> None:
    """The header that the operator names comes first, then the preferred language with its country."""
    assert TEXT.place(reader_of(accepted, named)) == place


@given(st.text(max_size=60), st.text(max_size=12))
def test_no_header_has_no_text(accepted: str, named: str) -> None:
    """Whatever a client sends, there is a text for it."""
    assert TEXT.by_place[TEXT.place(reader_of(accepted, named))]


def test_a_reader_of_whom_nothing_is_known() -> None:
    """Gets the text for everybody."""
    assert TEXT.place(Reader()) == "*"
    assert TEXT.anywhere == "*"
