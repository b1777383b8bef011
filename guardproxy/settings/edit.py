"""Change the thresholds and the calibration in the text of a configuration file; the rest and all comments stay.

The indentation becomes that of the first indented mapping and of the first list throughout.
"""

import os
import re
import shutil
import tempfile
from difflib import SequenceMatcher
from io import StringIO
from pathlib import Path
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

    A threshold that the policy has is replaced, another one is added; null removes the threshold, or a category with
    all its rules. What `rules` does not name stays. Raises ConfigError if the text is not YAML or has no such policy.
    """
    yaml, document = _opened(text)
    _change_sides(_policy(document, policy), yaml.load(rules))
    return _written(yaml, document, text)


def with_found_rules(text: str, policy: str, rules: str) -> str:
    """The text with thresholds that `guardproxy calibrate` found, as `with_rules` takes them, in a policy.

    A condition (`with_unsafe`) is part of what was found: an old one goes. Where only a `flag` that names the category
    was found, rules of the policy for it stay as they are. Raises ConfigError as `with_rules` does.
    """
    yaml, document = _opened(text)
    chosen, found = _policy(document, policy), yaml.load(rules)
    for side, by_category in found.items():
        own = chosen.get(side) or {}
        for category, thresholds in list(by_category.items()):
            if _NAMING.issuperset(thresholds) and (category in own or ANY in own):
                del by_category[category]
            else:
                thresholds.setdefault("with_unsafe", None)
    _change_sides(chosen, found)
    return _written(yaml, document, text)


def with_calibration(text: str, maps: str) -> str:
    """The text with the calibration of `maps`, a YAML mapping of side to category to slope and shift, in `guard`.

    Maps are replaced or added, never removed. Raises ConfigError if the text is not YAML.
    """
    yaml, document = _opened(text)
    _change_sides(_section(_section(document, "guard"), "calibration"), yaml.load(maps))
    return _written(yaml, document, text)


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
    """A document that can be changed, and what writes it."""
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


def _policy(document: CommentedMap, name: str) -> CommentedMap:
    policies = document.get("policies")
    chosen = policies.get(name) if isinstance(policies, CommentedMap) else None
    if not isinstance(chosen, CommentedMap):
        raise ConfigError(f"has no policy {name!r}, so its thresholds cannot be changed")
    return chosen


def _section(parent: CommentedMap, key: str) -> CommentedMap:
    """The mapping under a key, which is added if it is missing or has no value."""
    section = parent.get(key)
    if not isinstance(section, CommentedMap):
        section = parent[key] = CommentedMap()
    return section


def _change_sides(parent: CommentedMap, sides: CommentedMap) -> None:
    for side, by_category in sides.items():
        _change(_section(parent, side), by_category)


def _written(yaml: YAML, document: CommentedMap, text: str) -> str:
    """The text of a changed document, with all comments of `text`."""
    out = StringIO()
    yaml.dump(document, out)
    return _with_comments(text, out.getvalue())


def _with_comments(old: str, new: str) -> str:
    """The new text with the lines of comments that only the old one has.

    ruamel.yaml keeps the lines behind a key with that key, so they go when it is removed; most are about the next one.
    """
    before, after = old.split("\n"), new.split("\n")
    pairs = SequenceMatcher(None, [*map(str.strip, before)], [*map(str.strip, after)], autojunk=False).get_opcodes()
    lines: list[str] = []
    for kind, begin, end, start, stop in pairs:
        comments = [at for at in range(begin, end) if kind != "equal" and before[at].lstrip().startswith("#")]
        kept = {line.strip() for line in after[start:stop]}
        lost = [at for at in comments if before[at].strip() not in kept]
        last = max(at for at in range(begin - 1, end) if at < begin or at not in comments)
        lines += after[start : max(start, stop - 1)]
        lines += [before[at] for at in lost if at < last]
        lines += after[max(start, stop - 1) : stop]
        lines += [before[at] for at in lost if at > last]
    return "\n".join(lines)


def _change(own: CommentedMap, new: CommentedMap) -> None:
    """Merge `new` into the mapping `own`, key by key; null removes a key."""
    for key, value in new.items():
        if value is None:
            own.pop(key, None)
        elif isinstance(value, CommentedMap) and isinstance(own.get(key), CommentedMap):
            _change(own[key], value)
        else:
            own[key] = _without_nulls(value)


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, CommentedMap):
        return value
    kept = CommentedMap((key, _without_nulls(below)) for key, below in value.items() if below is not None)
    kept.fa.set_flow_style()
    return kept


def replace_text(path: str | os.PathLike[str], old: bytes, text: str) -> None:
    """Write a text into a file in place of `old`, in one step; the file's owner and mode stay.

    Raises ConfigError, and changes nothing, if the file has another content by now or cannot be replaced.
    """
    target = Path(path).resolve()  # a link stays, and what it leads to is replaced
    made: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        made = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        status = target.stat()
        if (status.st_uid, status.st_gid) != (made.stat().st_uid, made.stat().st_gid):
            shutil.chown(made, status.st_uid, status.st_gid)
        shutil.copymode(target, made)
        if target.read_bytes() != old:
            raise ConfigError(f"{path} was changed at the same time, and keeps that change; try again")
        made.replace(target)
    except OSError as error:
        reason = f"{os.fspath(path)} cannot be replaced: {error.strerror}"
        raise ConfigError(f"{reason}; its folder must be writable, and not the file alone mounted") from error
    finally:
        if made is not None:
            made.unlink(missing_ok=True)
