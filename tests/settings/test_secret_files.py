"""Secrets in files: `${env:NAME}` with the path in NAME_FILE."""

from pathlib import Path

import pytest

from guardproxy import app
from guardproxy.errors import ConfigError
from guardproxy.settings import Settings, load_text

FILE = """version: 1
upstream: {url: https://llm.example, key: "${env:LLM_KEY}"}
audit: {store: "postgresql://guardproxy:${env:DB_PASSWORD}@db/guardproxy"}
policies: {default: {unsafe: {block: 0.9}}}
"""


def settings(**env: str) -> Settings:
    """The settings of the file with these variables set."""
    return load_text(FILE, "x.yaml", env, app.catalogue())


def test_a_secret_is_read_from_a_file(tmp_path: Path) -> None:
    """The line end at its end is left out; in an address its characters are encoded."""
    key, password = tmp_path / "key", tmp_path / "password"
    key.write_text("sk-one\n")
    password.write_text("a/b\r\n")
    found = settings(LLM_KEY_FILE=str(key), DB_PASSWORD_FILE=str(password))
    assert found.upstream.key == "sk-one"
    assert found.audit.store == "postgresql://guardproxy:a%2Fb@db/guardproxy"
    assert found.version == settings(LLM_KEY="x", DB_PASSWORD="y").version


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\n", "is empty"),
        (b"\xff\n", "is not UTF-8"),
        (b"x" * 65_537, "is longer than 65,536 bytes"),
    ],
)
def test_a_file_without_a_secret(tmp_path: Path, content: bytes | None, why: str) -> None:
    """The mistake names the place in the configuration, the variable and the file, and not what is in it."""
    key = tmp_path / "key"
    if content is not None:
        key.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        settings(LLM_KEY_FILE=str(key), DB_PASSWORD="x")
    message = f"x.yaml:2:43: upstream.key: environment variable LLM_KEY_FILE names {key}, which {why}"
    assert caught.value.problems == [message]


def test_a_variable_and_a_file(tmp_path: Path) -> None:
    """Which of them counts is not guessed."""
    (tmp_path / "key").write_text("one")
    with pytest.raises(ConfigError, match="environment variables LLM_KEY and LLM_KEY_FILE are both set; unset one"):
        settings(LLM_KEY="two", LLM_KEY_FILE=str(tmp_path / "key"), DB_PASSWORD="x")


def test_a_key_in_a_file_is_checked_as_well(tmp_path: Path) -> None:
    """A file with two lines is no key."""
    (tmp_path / "key").write_text("one\ntwo\n")
    with pytest.raises(ConfigError, match="holds a space or another character that no key may have"):
        settings(LLM_KEY_FILE=str(tmp_path / "key"), DB_PASSWORD="x")
