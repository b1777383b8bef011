"""Change the thresholds of a policy in the text of a configuration file; values, order and comments stay.

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

# Longer than any line: a line of the file is never broken.
_WIDTH = 1_000_000
_INDENTED_KEY = re.compile(r"^( +)[^\s#-]", re.MULTILINE)


def with_rules(text: str, policy: str, rules: str) -> str:
    """The text with the thresholds of `rules`, a YAML mapping of side to category to thresholds, in a policy.

    A threshold that the policy has is replaced, another one is added; no threshold is removed. Raises ConfigError if
    the text is not YAML or has no such policy.
    """
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = _WIDTH
    try:
        document, indent, offset = load_yaml_guess_indent(text, yaml=yaml)
    except YAMLError as error:
        raise ConfigError(f"is not YAML: {error}") from error
    first = _INDENTED_KEY.search(text)
    yaml.indent(mapping=len(first[1]) if first else 2, sequence=indent or 2, offset=offset or 0)
    policies = document.get("policies") if isinstance(document, CommentedMap) else None
    chosen = policies.get(policy) if isinstance(policies, CommentedMap) else None
    if not isinstance(chosen, CommentedMap):
        raise ConfigError(f"has no policy {policy!r}, so its thresholds cannot be changed")
    for side, by_category in yaml.load(rules).items():
        section = chosen.setdefault(side, CommentedMap())
        for category, thresholds in by_category.items():
            _change(section, category, thresholds)
    out = StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def _change(section: Any, category: str, thresholds: Any) -> None:
    own = section.get(category)
    if isinstance(own, CommentedMap):
        own.update(dict(thresholds))
        return
    new = CommentedMap(dict(thresholds))
    new.fa.set_flow_style()
    section[category] = new
