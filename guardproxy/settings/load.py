"""A configuration file to settings, or every mistake in it at once."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from pathlib import Path as File
from typing import Any

from guardproxy.errors import ConfigError
from guardproxy.policy import PolicySet
from guardproxy.settings import policies, schema, secrets
from guardproxy.settings.checks import document as document_checks
from guardproxy.settings.checks import guards as guard_checks
from guardproxy.settings.checks import policies as policy_checks
from guardproxy.settings.checks.document import Catalogue
from guardproxy.settings.model import Audit, Document, GuardSettings, Limits, Log, Paths, Server, Upstream
from guardproxy.settings.yaml_tree import Mark, Node, Path, Problem, mark_at, rank, read
from guardproxy.types import Taxonomy

_START = Mark(1, 1)


@dataclass(frozen=True, slots=True)
class Member:
    """One of several guards that are combined; `taxonomy` is None for its family's own."""

    guard: GuardSettings
    taxonomy: Taxonomy | None


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration that was found to be valid.

    `name` says where it comes from; `taxonomy` is None for the family's own, `wires` for every built-in one. `members`
    are the guards that `guard.all` or `guard.cascade` name, in that order. `version` is a hash of what the file says,
    secrets not included.
    """

    name: str
    version: str
    server: Server
    upstream: Upstream
    guard: GuardSettings
    taxonomy: Taxonomy | None
    members: Mapping[str, Member]
    wires: tuple[str, ...] | None
    limits: Limits
    paths: Paths
    policies: PolicySet
    audit: Audit
    log: Log


def load(path: str | os.PathLike[str] | None, env: Mapping[str, str], known: Catalogue) -> Settings:
    """The settings of a file, or the built-in ones where there is none.

    `env` is where secrets are taken from. Raises ConfigError with every mistake, in the order of the file.
    """
    if path is None:
        return load_text(_defaults(), "built-in defaults", env, known)
    name = os.fspath(path)
    try:
        data = File(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        raise ConfigError(Problem(mark_at(before, len(before)), (), "not UTF-8").render(name)) from error
    return load_text(text, name, env, known)


def load_text(text: str, name: str, env: Mapping[str, str], known: Catalogue) -> Settings:
    """The settings that a text says; `name` stands for it in messages. Raises ConfigError with every mistake."""
    tree, problems = read(text)
    if tree is None and problems:
        raise ConfigError([problem.render(name) for problem in rank(problems)])
    root = tree if tree is not None and tree.value is not None else Node({}, _START, _START)
    filled, found = secrets.fill(root, env)
    problems += found
    raw = _raw(root, filled)
    document, found = schema.check(root, raw)
    problems += found
    categories, found = _categories(root, document or _partial(raw), known)
    problems += found
    problems += document_checks.check(root, known, categories, filled)
    problems += _default_policy_fits(root, known, categories)
    if problems or document is None:
        raise ConfigError([problem.render(name) for problem in rank(problems)])
    return _settings(name, root, document)


def _raw(root: Node, filled: Mapping[tuple[str | int, ...], str]) -> Any:
    """The tree as JSON has it, its secrets filled in, and the built-in policies where it has none."""
    raw = root.plain()
    for path, value in filled.items():
        *above, key = path
        section = raw
        for step in above:
            section = section[step]
        section[key] = value
    if isinstance(raw, dict) and "policies" not in raw:
        raw["policies"] = _default_policies().plain()
    return raw


def _partial(raw: Any) -> Document | None:
    """What a document with mistakes elsewhere says of its guard; None where there are mistakes in that as well."""
    if not isinstance(raw, dict):
        return None
    parts = {key: raw[key] for key in ("guard", "guards", "taxonomies") if key in raw}
    if isinstance(parts.get("guard"), dict):
        wanted = ("family", "options", "taxonomy", "all", "cascade")
        parts["guard"] = {key: value for key, value in parts["guard"].items() if key in wanted}
    return schema.parse(parts)


def members(document: Document) -> dict[str, GuardSettings]:
    """The guards that are combined, by name and in order; none where there is one guard. Unknown names are left out."""
    guard = document.guard
    names = guard.all or ((guard.cascade.cheap, guard.cascade.dear) if guard.cascade else ())
    there = {guard_checks.EMBEDDED: GuardSettings(), **document.guards}
    return {name: there[name] for name in names if name in there}


def _categories(
    root: Node, document: Document | None, known: Catalogue
) -> tuple[Collection[str] | None, list[Problem]]:
    """The categories of all guards, None where they cannot be known, and what their families find wrong."""
    if document is None:
        return None, []
    several = members(document)
    guards: list[tuple[Path, GuardSettings]] = [(("guards", name), one) for name, one in several.items()]
    guards = guards or [(("guard",), document.guard)]
    found = [_categories_of(root, document, path, one, known) for path, one in guards]
    problems = [problem for _, ones in found for problem in ones]
    ids = [ids for ids, _ in found if ids is not None]
    return (list(chain.from_iterable(ids)) if len(ids) == len(found) else None), problems


def _categories_of(
    root: Node, document: Document, path: Path, guard: GuardSettings, known: Catalogue
) -> tuple[Collection[str] | None, list[Problem]]:
    own = policies.taxonomy(document, guard)
    if known.fault(guard.family, known.families, "family") or (guard.taxonomy and own is None):
        return None, []
    # Options that the family does not have are reported by name, and must not hide what else is wrong.
    allowed = known.options.get(guard.family, guard.options)
    options = {name: value for name, value in guard.options.items() if name in allowed}
    problems = _options(root, (*path, "options"), known.options.get(guard.family, {}))
    if problems:
        return None, problems
    try:
        return known.categories(guard.family, options, own), []
    except ConfigError as error:
        return None, [_complaint(root, path, problem, own) for problem in error.problems]
    except Exception as error:  # noqa: BLE001 - a family of the user's own may raise anything
        why = f"options that the family does not take: {type(error).__name__}: {error}"
        return None, [_complaint(root, path, why, own)]


def _options(root: Node, path: Path, types: Mapping[str, Any]) -> list[Problem]:
    """The options of a family whose values are of another type than it takes."""
    found = ((key, root.get(*path, key)) for key in types)
    faults = ((key, node, schema.option_fault(types[key], node)) for key, node in found if node and not node.broken)
    return [Problem(node.mark, (*path, key), fault) for key, node, fault in faults if fault]


def _complaint(root: Node, guard: Path, message: str, own: Taxonomy | None) -> Problem:
    """A family's complaint (`option: what is wrong`, or of its taxonomy) at the place that it speaks of."""
    option, _, rest = message.partition(": ")
    path: Path = (*guard, "options", option)
    if root.get(*path) is None:
        path, rest = ("taxonomies", own.id) if own and "taxonomy" in message else guard, message
    node = root.get(*path)
    return Problem(node.mark if node else _START, path, rest)


def _default_policy_fits(root: Node, known: Catalogue, categories: Collection[str] | None) -> list[Problem]:
    """Whether a document without policies can have the built-in one, which names the embedded guard's categories."""
    if root.get("policies") is not None or categories is None:
        return []
    defaults = Node({"policies": _default_policies()}, _START, _START)
    if not any(policy_checks.policies(defaults, known, [*categories])):
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
        taxonomy=policies.taxonomy(document, document.guard),
        members={name: Member(one, policies.taxonomy(document, one)) for name, one in members(document).items()},
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
