"""Change the thresholds and the calibration in the text of a configuration file; the rest and all comments stay.

The indentation becomes that of the first indented mapping and of the first list throughout.
"""

import re
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.util import load_yaml_guess_indent

from guardproxy.errors import ConfigError
from guardproxy.policy import ANY
from guardproxy.settings.yaml_tree import SettingPath

# Longer than any line: a line of the file is never broken.
_WIDTH = 1_000_000
# The keys of a rule that names a category of what `unsafe` blocks, and stops nothing.
_NAMING = frozenset({"flag", "with_unsafe"})
_INDENTED_KEY = re.compile(r"^( +)[^\s#-]", re.MULTILINE)


def with_rules(text: str, policy: str, rules: str) -> str:
    """The text with the thresholds of `rules`, a YAML mapping of side to category to thresholds, in a policy.

    A threshold that the policy has is replaced, another one is added; no threshold is removed. A condition
    (`with_unsafe`) is part of the thresholds that are found. Where only a `flag` that names a category was found, the
    policy's rules for it stay as they are. Raises ConfigError if the text is not YAML or has no such policy.
    """
    yaml, document = _opened(text)
    policies = document.get("policies")
    chosen = policies.get(policy) if isinstance(policies, CommentedMap) else None
    if not isinstance(chosen, CommentedMap):
        raise ConfigError(f"has no policy {policy!r}, so its thresholds cannot be changed")
    found = yaml.load(rules)
    for side, by_category in found.items():
        own = _section(chosen, side)
        for category, thresholds in list(by_category.items()):
            if _NAMING.issuperset(thresholds) and (category in own or ANY in own):
                del by_category[category]
            elif "with_unsafe" not in thresholds and isinstance(own.get(category), CommentedMap):
                own[category].pop("with_unsafe", None)
    _add(chosen, found)
    return _written(yaml, document)


def with_calibration(text: str, maps: str) -> str:
    """The text with the calibration of `maps`, a YAML mapping of side to category to slope and shift, in `guard`.

    As for thresholds, maps are replaced or added, never removed. Raises ConfigError if the text is not YAML.
    """
    yaml, document = _opened(text)
    _add(_section(_section(document, "guard"), "calibration"), yaml.load(maps))
    return _written(yaml, document)


def own_rules(text: str) -> dict[SettingPath, Any]:
    """The rules that the policies of a text have themselves, by their places. Raises ConfigError if it is not YAML."""
    _, document = _opened(text)
    policies = document.get("policies")
    return {
        ("policies", name, side, category): rule
        for name, policy in (policies.items() if isinstance(policies, CommentedMap) else ())
        for side in ("user", "assistant")
        for category, rule in (policy.get(side) or {}).items()
    }


def _opened(text: str) -> tuple[YAML, CommentedMap]:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = _WIDTH
    try:
        document, indent, offset = load_yaml_guess_indent(text, yaml=yaml)
    except YAMLError as error:
        raise ConfigError(f"is not YAML: {error}") from error
    if not isinstance(document, CommentedMap):
        raise ConfigError("is no mapping, so it cannot be changed")
    first = _INDENTED_KEY.search(text)
    yaml.indent(mapping=len(first[1]) if first else 2, sequence=indent or 2, offset=offset or 0)
    return yaml, document


def _written(yaml: YAML, document: CommentedMap) -> str:
    out = StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def _section(parent: CommentedMap, key: str) -> CommentedMap:
    """The mapping under a key, which is added if it is missing or null."""
    if parent.get(key) is None:
        parent[key] = CommentedMap()
    section: CommentedMap = parent[key]
    return section


def _add(parent: CommentedMap, sides: Any) -> None:
    for side, by_category in sides.items():
        section = _section(parent, side)
        for category, numbers in by_category.items():
            own = section.get(category)
            if isinstance(own, CommentedMap):
                own.update(dict(numbers))
                continue
            section[category] = CommentedMap(dict(numbers))
            section[category].fa.set_flow_style()
