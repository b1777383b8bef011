"""The configuration files in the repository and the package, the JSON schema, and the page about every option."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from guardproxy.app import catalogue
from guardproxy.settings import Settings, load, load_text, starter
from guardproxy.settings.json_schema import schema
from guardproxy.settings.model import Document

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
FILES = sorted(path for path in CONFIG.glob("*.yaml") if path.name != "ray_serve.yaml")  # that one is Ray Serve's own
ENV = {
    "VLLM_KEY": "vllm-key",
    "GUARD_KEY": "guard-key",
    "OPENAI_API_KEY": "k",
    "AZURE_API_KEY": "k",
    "ANTHROPIC_API_KEY": "k",
    "AUDIT_PASSWORD": "p",
    "AUDIT_KEY": base64.urlsafe_b64encode(b"a" * 32).decode(),
    "AUDIT_CHAIN_KEY": "a-key-of-the-hash-chain-of-the-audit",
    "CONSOLE_KEY": "a-key-of-the-console",
    "OTLP_AUTHORIZATION": "a-token",
    "REDIS_PASSWORD": "p",
    "SHARED_STATE_SECRET": "a-secret-that-all-processes-have-together",
    "SLACK_WEBHOOK": "https://hooks.slack.com/services/T/B/x",
    "ALERTS_SECRET": base64.b64encode(b"a" * 32).decode(),
}


def loaded(name: str) -> Settings:
    """The settings of a file in config/."""
    return load(CONFIG / name, ENV, catalogue())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_valid(path: Path) -> None:
    """Each file loads with the real registries and names its schema for editors."""
    assert load(path, ENV, catalogue()).name == str(path)
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_valid_without_its_secrets(path: Path) -> None:
    """With `--without-secrets`, a variable that is not set is told and is no mistake: all of them, and each alone."""
    needed = {name for name in ENV if f"${{env:{name}}}" in path.read_text()}
    for missing in (needed, *({name} for name in needed)):
        env = {name: value for name, value in ENV.items() if name not in missing}
        unset = load(path, env, catalogue(), without_secrets=True).unset.values()
        assert {message.split()[-4] for message in unset} == missing


def test_quickstart_is_what_runs_without_a_file() -> None:
    """config/quickstart.yaml has the same content as the built-in defaults."""
    assert loaded("quickstart.yaml").version == load(None, {}, catalogue()).version


def test_starter() -> None:
    """The starter file is valid and short, and blocks from the same thresholds as the built-in defaults."""
    assert starter().startswith("# yaml-language-server: $schema=schema.json\n")
    assert len(starter().splitlines()) <= 60
    settings = load_text(starter(), "starter.yaml", {}, catalogue())
    policy = settings.policies.policies["default"]
    default = load(None, {}, catalogue()).policies.policies["default"]
    for side, default_side in ((policy.user, default.user), (policy.assistant, default.assistant)):
        assert {category: rules[-1] for category, rules in side.by_category.items()} == {
            category: rules[-1] for category, rules in default_side.by_category.items()
        }
    assert {"upstream", "guard", "policies", "audit"} <= set(re.findall(r"^(\w+):", starter(), re.MULTILINE))


def test_llamaguard_deployment() -> None:
    """The file runs LlamaGuard-7b on CUDA in bfloat16, with thresholds for each category on each side."""
    settings = loaded("llamaguard-cuda.yaml")
    guard = settings.guard
    assert (guard.family, guard.model, guard.device, guard.dtype) == (
        *("llama_guard", "meta-llama/LlamaGuard-7b", "cuda", "bfloat16"),
    )
    policy = settings.policies.policies["default"]
    assert policy.user.by_category.keys() == policy.assistant.by_category.keys()
    assert len(policy.user.by_category) == 7


def options(kind: Any, path: str = "") -> Iterator[str]:
    """The dotted path of every option; names that the user chooses and list indices are left out."""
    for member in (*get_args(kind), kind):
        if is_dataclass(member):
            hints = get_type_hints(member)
            for option in fields(member):
                here = f"{path}.{option.name}" if path else option.name
                yield here
                yield from options(hints[option.name], here)
        elif member is not kind:
            yield from options(member, path)


OPTIONS = sorted(set(options(Document)))


def test_schema_is_up_to_date() -> None:
    """config/schema.json is generated from the current dataclasses; every option has a description."""
    assert (CONFIG / "schema.json").read_text() == schema()
    for part in json.loads(schema())["$defs"].values():
        assert part["description"]
        assert part["additionalProperties"] is False
        # Pydantic leaves out the description of a mapping if it repeats that of the mapping's own schema.
        assert all("description" in option or "$ref" in option for option in part["properties"].values())


def test_every_option_is_in_the_example() -> None:
    """config/example.yaml contains each option."""
    keys = set(re.findall(r"(?:^|[{,-])\s*\"?([a-z_0-9]+)\"?:", (CONFIG / "example.yaml").read_text(), re.MULTILINE))
    assert {option.rpartition(".")[2] for option in OPTIONS} - keys == set()


@pytest.mark.parametrize("section", sorted({option.partition(".")[0] for option in OPTIONS}))
def test_every_option_is_documented(section: str) -> None:
    """docs/configuration.md names each option under the heading of its section."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    text = re.search(rf"^## `{section}`.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert text, section
    names = {option.rpartition(".")[2] for option in OPTIONS if option.startswith(f"{section}.")}
    assert {name for name in names if f"`{name}`" not in text[0] and f"`{name}:" not in text[0]} == set()
