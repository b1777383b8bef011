"""A configuration file to settings, or every mistake in it at once."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from guardproxy.errors import ConfigError
from guardproxy.policy import PolicySet
from guardproxy.settings import meaning, meaning_policy, policies, secrets, shape
from guardproxy.settings.marks import Mark, Node, Problem, mark_at, rank, read
from guardproxy.settings.meaning import Known
from guardproxy.settings.model import Audit, Document, GuardSettings, Limits, Log, Paths, Server, Upstream
from guardproxy.types import Taxonomy

_START = Mark(1, 1)


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration that was found to be valid.

    `name` says where it comes from; `taxonomy` is None for the family's own, `wires` for every built-in one. `version`
    is a hash of what the file says, secrets not included.
    """

    name: str
    version: str
    server: Server
    upstream: Upstream
    guard: GuardSettings
    taxonomy: Taxonomy | None
    wires: tuple[str, ...] | None
    limits: Limits
    paths: Paths
    policies: PolicySet
    audit: Audit
    log: Log


def load(path: str | os.PathLike[str] | None, env: Mapping[str, str], known: Known) -> Settings:
    """The settings of a file, or the built-in ones where there is none.

    `env` is where secrets are taken from. Raises ConfigError with every mistake, in the order of the file.
    """
    if path is None:
        return load_text(_defaults(), "built-in defaults", env, known)
    name = os.fspath(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        raise ConfigError(Problem(mark_at(before, len(before)), (), "not UTF-8").render(name)) from error
    return load_text(text, name, env, known)


def load_text(text: str, name: str, env: Mapping[str, str], known: Known) -> Settings:
    """The settings that a text says; `name` stands for it in messages. Raises ConfigError with every mistake."""
    tree, problems = read(text)
    if tree is None and problems:
        raise ConfigError([problem.render(name) for problem in rank(problems)])
    root = tree if tree is not None and tree.value is not None else Node({}, _START, _START)
    filled, found = secrets.fill(root, env)
    problems += found
    raw = _raw(root, filled)
    document, found = shape.check(root, raw)
    problems += found
    categories, found = _categories(root, document or _partial(raw), known)
    problems += found
    problems += meaning.check(root, known, categories, filled)
    problems += _default_policy_fits(root, known, categories)
    if problems or document is None:
        raise ConfigError([problem.render(name) for problem in rank(problems)])
    return _settings(name, root, document)


def _raw(root: Node, filled: Mapping[tuple[str | int, ...], str]) -> Any:
    """The tree as JSON has it, its secrets filled in, and the built-in policies where it has none."""
    raw = root.plain()
    for (section, key), value in filled.items():
        raw[section][key] = value
    if isinstance(raw, dict) and "policies" not in raw:
        raw["policies"] = _default_policies().plain()
    return raw


def _partial(raw: Any) -> Document | None:
    """What a document with mistakes elsewhere says of its guard; None where there are mistakes in that as well."""
    if not isinstance(raw, dict):
        return None
    parts = {key: raw[key] for key in ("guard", "taxonomies") if key in raw}
    if isinstance(parts.get("guard"), dict):
        wanted = ("family", "options", "taxonomy")
        parts["guard"] = {key: value for key, value in parts["guard"].items() if key in wanted}
    return shape.parse(parts)


def _categories(root: Node, document: Document | None, known: Known) -> tuple[Collection[str] | None, list[Problem]]:
    """The categories of the guard, None where they cannot be known, and what its family finds wrong."""
    if document is None or known.fault(document.guard.family, known.families, "family"):
        return None, []
    guard = document.guard
    own = policies.taxonomy(document)
    if guard.taxonomy and own is None:
        return None, []
    # Options that the family does not have are reported by name, and must not hide what else is wrong.
    allowed = known.options.get(guard.family, guard.options)
    options = {name: value for name, value in guard.options.items() if name in allowed}
    try:
        return known.categories(guard.family, options, own), []
    except ConfigError as error:
        return None, [_complaint(root, problem, own) for problem in error.problems]
    except (TypeError, ValueError) as error:
        return None, [_complaint(root, f"options that the family does not take: {error}", own)]


def _complaint(root: Node, message: str, own: Taxonomy | None) -> Problem:
    """A family's complaint (`option: what is wrong`, or of its taxonomy) at the place that it speaks of."""
    option, _, rest = message.partition(": ")
    path: tuple[str | int, ...] = ("guard", "options", option)
    if root.get(*path) is None:
        path, rest = ("taxonomies", own.id) if own and "taxonomy" in message else ("guard",), message
    node = root.get(*path)
    return Problem(node.mark if node else _START, path, rest)


def _default_policy_fits(root: Node, known: Known, categories: Collection[str] | None) -> list[Problem]:
    """Whether a document without policies can have the built-in one, which names the embedded guard's categories."""
    if root.get("policies") is not None or categories is None:
        return []
    defaults = Node({"policies": _default_policies()}, _START, _START)
    if not any(meaning_policy.policies(defaults, known, [*categories])):
        return []
    guard = root.get("guard")
    return [Problem(guard.key if guard else _START, ("policies",), "is missing: the built-in one is for another guard")]


def _settings(name: str, root: Node, document: Document) -> Settings:
    content = root.plain()
    if "policies" not in content:
        content["policies"] = _default_policies().plain()
    version = policies.fingerprint(content)
    return Settings(
        name=name,
        version=version,
        server=document.server,
        upstream=document.upstream,
        guard=document.guard,
        taxonomy=policies.taxonomy(document),
        wires=document.wires,
        limits=document.limits,
        paths=document.paths,
        policies=policies.policy_set(document, content["policies"], version),
        audit=document.audit,
        log=document.log,
    )


def _defaults() -> str:
    return files("guardproxy.settings").joinpath("defaults.yaml").read_text("utf-8")


def _default_policies() -> Node:
    tree, _ = read(_defaults())
    node = tree.get("policies") if tree else None
    if node is None:
        raise ConfigError("defaults.yaml, which comes with guardproxy, has no policies: install it anew")
    return node
