"""Files whose environment variables are not set: what needs no secret works, and what needs one says which."""

import json
from pathlib import Path

import pytest

from guardproxy import app
from guardproxy.cli import main
from guardproxy.errors import ConfigError
from guardproxy.settings import Settings, load_text
from tests.sinks.kit import record
from tests.sinks.test_same_texts import with_store

FILE = """version: 1
upstream: {url: https://llm.example, key: "${env:UNSET_UPSTREAM}"}
guard: {all: [embedded, service]}
guards:
  service: {family: openai_moderation, service: {key: "${env:UNSET_SERVICE}"}}
policies:
  default: {unsafe: {block: 0.9}}
audit:
  store: "%s"
  encrypt: ["${env:UNSET_NEW}", "${env:UNSET_OLD}"]
  chain_key: "${env:UNSET_CHAIN}"
console:
  key: "${env:UNSET_OPERATOR}"
  keys: [{name: anna, key: "${env:UNSET_ANNA}"}]
"""
NAMES = tuple(f"UNSET_{name}" for name in ("UPSTREAM", "SERVICE", "NEW", "OLD", "CHAIN", "OPERATOR", "ANNA"))
OLD = "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2w="


def settings(store: str = "embedded", **env: str) -> Settings:
    """The settings of the file with these variables set."""
    return load_text(FILE % store, "x.yaml", env, app.catalogue(), without_secrets=True)


def test_every_unset_variable_is_a_mistake_by_default() -> None:
    """`serve` would start with none of them missing."""
    with pytest.raises(ConfigError) as caught:
        load_text(FILE % "embedded", "x.yaml", {}, app.catalogue())
    assert [problem.rpartition("variable ")[2] for problem in caught.value.problems] == [
        f"{name} is not set" for name in NAMES
    ]
    assert caught.value.problems[0].startswith("x.yaml:2:43: upstream.key: environment variable UNSET_UPSTREAM")


def test_without_secrets_nothing_stands_in_their_place() -> None:
    """What is not set is None, never the reference, and the version is that of the file with its secrets."""
    found = settings(UNSET_OLD=OLD)
    assert (found.upstream.key, found.audit.chain_key, found.console.key) == (None, None, None)
    assert found.audit.encrypt == (OLD,)
    assert settings().audit.encrypt is None
    service = found.members["service"].guard.service
    assert service is not None
    assert service.key is None
    assert len(found.unset) == 6
    every = load_text(FILE % "embedded", "x.yaml", dict.fromkeys(NAMES, OLD), app.catalogue())
    assert (every.unset, every.version) == ({}, found.version)


@pytest.mark.parametrize(
    ("use", "variable"),
    [
        (app.guard, "UNSET_SERVICE"),
        (lambda found: app.guard(found.alone("service")), "UNSET_SERVICE"),
        (lambda found: app.store_address(found, None), "PASSWORD"),
        (lambda found: found.require("audit", "chain_key"), "UNSET_CHAIN"),
    ],
)
def test_the_use_of_an_unset_secret_is_an_error(use: object, variable: str) -> None:
    """It names the place in the file and the variable."""
    found = settings("postgresql://guard:${env:PASSWORD}@db.test/audit")
    with pytest.raises(ConfigError, match=rf"x\.yaml:\d+:\d+: .*environment variable {variable} is not set"):
        use(found)  # type: ignore[operator]


def test_a_guard_without_a_service_needs_no_key() -> None:
    """One guard of a combination can be asked alone without the keys of the others."""
    assert app.guard(settings().alone("embedded")).name == "embedded"


def test_a_proxy_needs_every_secret() -> None:
    """Its objects are not even made from settings that lack one."""
    with pytest.raises(ConfigError, match="UNSET_UPSTREAM is not set"):
        app.Service(settings(), app.read(None, None))


def test_a_key_of_null_is_a_mistake() -> None:
    """In the file itself a service's key must be there."""
    with pytest.raises(ConfigError, match=r"guards\.service\.service\.key: is missing; write \$\{env:NAME\}"):
        load_text((FILE % "none").replace('"${env:UNSET_SERVICE}"', "null"), "x.yaml", {}, app.catalogue())


def test_a_reviewers_shell_has_no_secrets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`validate --without-secrets`, `replay` and the reading commands work; writing asks for the key of the chain."""
    address = f"sqlite:///{tmp_path}/audit.sqlite3"
    with_store(address, [record(n) for n in range(3)], lambda store: store.head())
    file = tmp_path / "x.yaml"
    file.write_text(FILE % address)
    assert main(["validate", str(file)]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert main(["validate", "--without-secrets", str(file)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"{file}: ok, version ")
    assert [line.rpartition(" variable ")[2] for line in out[1:8]] == [f"{name} is not set" for name in NAMES]
    assert main(["validate", "--without-secrets", str(tmp_path / "gone.yaml")]) == 1
    capsys.readouterr()
    assert main(["replay", "--policy", str(file), "--config", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 3
    for command in (["list"], ["stats"], ["export"], ["show", "1"]):
        assert main(["audit", *command, "--config", str(file)]) == 0
    capsys.readouterr()
    for command in (["label", "1", "correct", "--by", "ann"], ["delete", "--client", "x", "--yes"], ["verify"]):
        assert main(["audit", *command, "--config", str(file)]) == 2
        assert "audit.chain_key: environment variable UNSET_CHAIN is not set" in capsys.readouterr().err
    assert main(["audit", "rekey", "--config", str(file)]) == 2
    assert "audit.encrypt[0]: environment variable UNSET_NEW is not set" in capsys.readouterr().err
