"""Load a configuration file: parse, fill in secrets, validate the types, check the meaning, resolve to settings."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guardproxy.errors import ConfigError
from guardproxy.policy import PresetName
from guardproxy.settings import schema
from guardproxy.settings.catalogue import Catalogue
from guardproxy.settings.checks.document import check
from guardproxy.settings.checks.routes import choices
from guardproxy.settings.message_files import read_message_files
from guardproxy.settings.packaged import defaults
from guardproxy.settings.pattern_files import read_pattern_files
from guardproxy.settings.policy_texts import read_policy_texts
from guardproxy.settings.presets import apply_presets, default_policies
from guardproxy.settings.renamed import rename_keys
from guardproxy.settings.resolve import Settings, resolve
from guardproxy.settings.secrets import read_secrets, with_secrets
from guardproxy.settings.yaml_tree import Node, Problem, in_file_order, position_at, read


def load(
    path: str | os.PathLike[str] | None,
    env: Mapping[str, str],
    catalogue: Catalogue,
    preset: PresetName | None = None,
    *,
    without_secrets: bool = False,
) -> Settings:
    """The settings of a file; without a file, the built-in ones.

    Secrets are read from `env`. With `without_secrets`, one whose variable is not set is no mistake but stands in
    `Settings.unset`, and its use raises ConfigError. `preset` is the policy of a file without policies. Raises
    ConfigError with every mistake, in the order of the file.
    """
    if path is None:
        return load_text(defaults(), "built-in defaults", env, catalogue, preset)
    return load_text(read_text(path), os.fspath(path), env, catalogue, preset, without_secrets=without_secrets)


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a configuration file. Raises ConfigError if it cannot be read or is not UTF-8."""
    name = os.fspath(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        valid = data[: error.start].decode("utf-8")
        problem = Problem(position_at(valid, len(valid)), (), "not UTF-8; save the file in that encoding")
        raise ConfigError(problem.render(name)) from error


def load_text(
    text: str,
    name: str,
    env: Mapping[str, str],
    catalogue: Catalogue,
    preset: PresetName | None = None,
    *,
    without_secrets: bool = False,
) -> Settings:
    """The settings of a YAML text as `load` returns them; messages call it `name`.

    Raises ConfigError with every mistake, in file order.
    """
    root, problems = read(text)
    if root is None:
        raise _config_error(name, problems)
    if root.value == {}:
        # An empty file would mean the built-in policy; it is more likely a file that is not written yet.
        message = "the file has no settings; write `version: 1` if the built-in settings are meant"
        problems.append(Problem(root.position, (), message))
    problems += [*rename_keys(root), *_preset_beside_policies(root, preset)]
    for read_files in (read_message_files, read_pattern_files, read_policy_texts):
        problems += read_files(root, Path(name).parent)
    apply_presets(root)
    secrets = read_secrets(root, env)
    problems += [*secrets.mistakes, *(() if without_secrets else secrets.unset)]
    content = _with_policies(root, preset)
    filled = with_secrets(content, secrets)
    document, mistakes = schema.check(root, filled)
    problems += mistakes
    problems += check(root, document or schema.guards_alone(filled), catalogue, secrets.values)
    if problems or document is None:
        raise _config_error(name, problems)
    unset = {problem.path: problem.render(name) for problem in in_file_order([*secrets.unset])}
    settings = resolve(name, content, document, (key for key, _ in root.entries()), unset)
    if problems := [*choices(root, settings.policies)]:
        raise _config_error(name, problems)
    return settings


def _preset_beside_policies(root: Node, preset: PresetName | None) -> list[Problem]:
    """The mistake of a preset on the command line and policies in the file: one of them would not count."""
    policies = root.get("policies")
    if preset is None or policies is None:
        return []
    message = f"the file has policies, so --preset has no effect; write `preset: {preset}` in a policy instead"
    return [Problem(policies.key_position, ("policies",), message)]


def _with_policies(root: Node, preset: PresetName | None) -> Any:
    """The plain value of a document, with the built-in policies if it has none."""
    content = root.plain_value()
    if isinstance(content, dict) and "policies" not in content:
        return {**content, "policies": default_policies(preset, root.get("guard")).plain_value()}
    return content


def _config_error(name: str, problems: list[Problem]) -> ConfigError:
    return ConfigError([problem.render(name) for problem in in_file_order(problems)])
