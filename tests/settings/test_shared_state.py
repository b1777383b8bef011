"""Mistakes in the section `shared_state`, with their mend."""

import pytest

from guardproxy.errors import ConfigError
from tests.settings.kit import read

ENV = {"SECRET": "s" * 32, "SHORT": "s" * 31, "PASSWORD": "p/w"}
BASE = "url: 'redis://h:6379', secret: '${env:SECRET}'"


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("{}", "shared_state.url: is missing"),
        ("{url: 'redis://h'}", "shared_state.secret: is missing"),
        ("{url: 'redis://h', secret: abc}", "shared_state.secret: a secret does not belong in the file"),
        ("{url: 'redis://h', secret: '${env:SHORT}'}", "shared_state.secret: has fewer than 32 characters"),
        ("{url: 'redis://h', secret: '${env:NONE}'}", "shared_state.secret: environment variable NONE is not set"),
        ("{url: 'redis://:pw@h', secret: '${env:SECRET}'}", "shared_state.url: a password does not belong in the file"),
        ("{url: 'http://h', secret: '${env:SECRET}'}", "shared_state.url: must begin with redis://"),
        ("{url: 'redis://', secret: '${env:SECRET}'}", "shared_state.url: needs a host"),
        ("{url: 'redis://h:0', secret: '${env:SECRET}'}", "shared_state.url: needs a host"),
        ("{url: 'redis://h:x', secret: '${env:SECRET}'}", "shared_state.url: is no address"),
        ("{url: 'redis://h/one', secret: '${env:SECRET}'}", "shared_state.url: has a path that is no number"),
        ("{url: 'rediss://h?ssl_cert_reqs=none', secret: '${env:SECRET}'}", "shared_state.url: may have no options"),
        ("{url: 'unix://sock', secret: '${env:SECRET}'}", "shared_state.url: must be unix:///path"),
        (f"{{{BASE}, namespace: 'a:b'}}", "shared_state.namespace: may have letters"),
        (f"{{{BASE}, timeout_s: 2}}", "shared_state.timeout_s: "),
        (f"{{{BASE}, keep_verdicts: 90}}", "shared_state.keep_verdicts: "),
        (f"{{{BASE}, keep_replies: 0s}}", "shared_state.keep_replies: must be at least 1s"),
        (f"{{{BASE}, keep_replies: soon}}", "shared_state.keep_replies: 'soon' is no duration"),
        (f"{{{BASE}, tls: {{verify: false}}}}", "shared_state.tls: has no effect, because the address"),
        (f"{{{BASE}, tls: {{ca: /no/such.pem}}}}".replace("redis:", "rediss:"), "/no/such.pem: cannot be read"),
        (f"{{{BASE}, retries: 3}}", "shared_state.retries: "),
    ],
)
def test_mistakes(section: str, problem: str) -> None:
    """Each is reported for its setting, and none shows a password."""
    with pytest.raises(ConfigError) as raised:
        read(f"version: 1\nshared_state: {section}\n", ENV)
    assert any(problem in line for line in raised.value.problems), raised.value.problems
    assert "pw@" not in str(raised.value)


def test_the_password_and_the_secret() -> None:
    """Both are read from the environment, the password percent-encoded, and neither is part of the repr."""
    text = "version: 1\nshared_state: {url: 'rediss://:${env:PASSWORD}@h:6379/1', secret: '${env:SECRET}'}\n"
    settings = read(text, ENV)
    assert settings.shared_state is not None
    assert settings.shared_state.url == "rediss://:p%2Fw@h:6379/1"
    assert settings.shared_state.secret == ENV["SECRET"]
    assert "p%2Fw" not in repr(settings)
    assert ENV["SECRET"] not in repr(settings)
    assert settings.version == read(text, {**ENV, "PASSWORD": "other"}).version
    assert read("version: 1\n", {}).shared_state is None
