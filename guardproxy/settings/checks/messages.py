"""Check the messages of blocked texts: categories that a rule blocks, places that exist, a text for everybody else."""

import re
from collections.abc import Collection, Iterator

from guardproxy.policy import ANY, UNSAFE
from guardproxy.settings.messages import HEADER_NAME, suggestion
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

_PLACE = re.compile(r"\*|[a-z]{2,3}|[A-Z]{2}|[a-z]{2,3}-[A-Z]{2}")
_FILE = re.compile(r"file:\s*\S+|\S+\.ya?ml")
_SIDES = ("user", "assistant")


def messages(path: SettingPath, policy: Node, categories: Collection[str] | None) -> Iterator[Problem]:
    """Every mistake in `block.message` of the policy at `path`. `categories` may have rules; None if unknown."""
    header = policy.get("block", "place_header")
    if header and header.text() and not HEADER_NAME.fullmatch(header.text() or ""):
        yield Problem(header.position, (*path, "block", "place_header"), "is not a valid header name")
    node = policy.get("block", "message")
    if node is not None:
        yield from _names_of_files((*path, "block", "message"), node)
    if node is None or not isinstance(node.value, dict):
        if header and header.text():
            yield Problem(header.key_position, (*path, "block", "place_header"), _ONE_TEXT)
        return
    path = (*path, "block", "message")
    if not node.reported and ANY not in node.value:
        yield Problem(node.key_position, path, f'needs a text for all other categories: "{ANY}"')
    for category, text in node.entries():
        if categories is not None and category not in {ANY, UNSAFE, *categories}:
            hint = suggestion(category, [*categories, UNSAFE])
            yield Problem(text.key_position, (*path, category), f"unknown category {category!r}; {hint}")
        elif category != ANY and not _is_blocked(policy, category):
            yield Problem(text.key_position, (*path, category), _NEVER_SHOWN)
        yield from _places((*path, category), text)


_ONE_TEXT = "has no effect, because block.message is one text; write texts by place, or remove it"
_NEVER_SHOWN = (
    "is never shown, because no rule blocks this category; a rewrite with `replace` in requests changes what the model "
    "reads, not what the client reads: write block"
)


def _names_of_files(path: SettingPath, node: Node) -> Iterator[Problem]:
    """The names of files that clients would read as the message; `read_message_files` has read those that count."""
    if node.reported:
        return
    if (text := node.text()) is not None and _FILE.fullmatch(text.strip()):
        named = text.strip().removeprefix("file:").strip()
        yield Problem(node.position, path, f"is shown as it is; write file:{named} in place of all texts by place")
    for key, below in node.entries():
        yield from _names_of_files((*path, key), below)


def _places(path: SettingPath, text: Node) -> Iterator[Problem]:
    if not isinstance(text.value, dict) or text.reported:
        return
    if ANY not in text.value:
        yield Problem(text.key_position, path, f'needs a text for all other places: "{ANY}"')
    for place, node in text.entries():
        if not _PLACE.fullmatch(place):
            message = f'must be a language (de), a country (DE), both (de-DE) or "{ANY}"'
            yield Problem(node.key_position, (*path, place), message)


def _is_blocked(policy: Node, category: str) -> bool:
    """Whether a rule can block a text for which the category leads: its own, that of "*", or that of `unsafe`."""
    if policy.get(UNSAFE, "block"):
        return True
    for side in _SIDES:
        own = policy.get(side, category) or policy.get(side, ANY)
        if (own and own.get("block")) or policy.get(side, UNSAFE, "block"):
            return True
    return False
