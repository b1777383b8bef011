"""Mistakes in the section `otel`, with their mend."""

import pytest

from guardproxy.app import catalogue
from guardproxy.errors import ConfigError
from guardproxy.settings import load_text


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{}", "2:1: otel.endpoint: is missing"),
        ("{endpoint: localhost}", "2:18: otel.endpoint: "),
        ("{endpoint: 'http://c:4318/v1/traces'}", "is the address of one signal; write the base address"),
        ("{endpoint: 'http://c:4318', headers: {authorization: Bearer x}}", "a secret does not belong in the file"),
        ("{endpoint: 'http://c:4318', headers: {'a b': '${env:KEY}'}}", "is not a valid header name"),
        ("{endpoint: 'http://c:4318', headers: {a: '${env:UNSET}'}}", "environment variable UNSET is not set"),
        ("{endpoint: 'http://c:4318', headers: {a: '${env:LINES}'}}", "another character that no key may have"),
        ("{endpoint: 'http://c:4318', signals: [trace]}", "otel.signals[0]: "),
        ("{endpoint: 'http://c:4318', semconv: proposed}", "otel.semconv: "),
        ("{endpoint: 'http://c:4318', sample: 2}", "otel.sample: "),
    ],
)
def test_mistakes(section: str, message: str) -> None:
    """Each mistake is told with its place."""
    with pytest.raises(ConfigError) as error:
        load_text(f"version: 1\notel: {section}\n", "f", {"KEY": "Bearer x y", "LINES": "a\nb"}, catalogue())
    assert message in str(error.value)
    assert "Bearer" not in str(error.value)


def test_a_header_may_have_spaces() -> None:
    """A value such as `Bearer ...` is one header; without the section, nothing is sent."""
    section = "otel: {endpoint: 'http://c:4318', headers: {authorization: '${env:KEY}'}}"
    settings = load_text(f"version: 1\n{section}\n", "f", {"KEY": "Bearer x y"}, catalogue())
    assert settings.otel is not None
    assert settings.otel.headers == {"authorization": "Bearer x y"}
    assert "Bearer" not in repr(settings.otel)
    assert load_text("version: 1\n", "f", {}, catalogue()).otel is None
