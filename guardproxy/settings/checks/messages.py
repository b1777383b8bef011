"""Check texts by category and place: categories that a rule uses, places that exist, a text for everybody else."""

import re
from collections.abc import Callable, Collection, Iterator
from functools import partial

from guardproxy.policy import ANY, STEER, UNSAFE
from guardproxy.settings.message_files import LOCAL_TEXTS
from guardproxy.settings.messages import HEADER_NAME, suggestion
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

_PLACE = re.compile(r"\*|[a-z]{2,3}|[A-Z]{2}|[a-z]{2,3}-[A-Z]{2}")
_FILE = re.compile(r"file:\s*\S+|\S+\.ya?ml")
_SIDES = ("user", "assistant")


def messages(path: SettingPath, policy: Node, categories: Collection[str] | None) -> Iterator[Problem]:
    """Every mistake in the texts by category and place of the policy at `path`: `block.message`, `rewrite.instruction`.

    `categories` may have rules; None if they are unknown.
    """
    header, texts = policy.get("block", "place_header"), [policy.get(*option) for option in LOCAL_TEXTS]
    if header and header.text():
        if not HEADER_NAME.fullmatch(header.text() or ""):
            yield Problem(header.position, (*path, "block", "place_header"), "is not a valid header name")
        if not any(node is not None and isinstance(node.value, dict) for node in texts):
            yield Problem(header.key_position, (*path, "block", "place_header"), _ONE_TEXT)
    message, instruction = texts
    if message is not None:
        yield from _texts((*path, "block", "message"), message, categories, partial(_is_blocked, policy), _NEVER_SHOWN)
    if instruction is not None:
        place, steered = (*path, "rewrite", "instruction"), partial(is_steered, policy)
        yield from _texts(place, instruction, categories, steered, _NEVER_TOLD)


def _texts(
    path: SettingPath,
    node: Node,
    categories: Collection[str] | None,
    is_used: Callable[[str], bool],
    unused: str,
) -> Iterator[Problem]:
    yield from _names_of_files(path, node)
    if not isinstance(node.value, dict):
        return
    if not node.reported and ANY not in node.value:
        yield Problem(node.key_position, path, f'needs a text for all other categories: "{ANY}"')
    for category, text in node.entries():
        if categories is not None and category not in {ANY, UNSAFE, *categories}:
            hint = suggestion(category, [*categories, UNSAFE])
            yield Problem(text.key_position, (*path, category), f"unknown category {category!r}; {hint}")
        elif category != ANY and not is_used(category):
            yield Problem(text.key_position, (*path, category), unused)
        yield from _places((*path, category), text)


def is_steered(policy: Node, category: str) -> bool:
    """Whether a rule steers requests for which the category leads: its own, or that of "*"."""
    rules = (policy.get(side, category) or policy.get(side, ANY) for side in ("user", "tool"))
    hows = (own.get("rewrite", "how") for own in rules if own)
    return any(how is not None and how.text() == STEER for how in hows)


_ONE_TEXT = "has no effect, because the policy has no texts by place; write some in block.message, or remove it"
_NEVER_TOLD = "is never told, because no rule for requests steers this category; write how: steer, or remove it"
_NEVER_SHOWN = (
    "is never shown, because no rule blocks this category; a rewrite with `replace` in requests changes what the model "
    "reads, not what the client reads: write block"
)


def _names_of_files(path: SettingPath, node: Node) -> Iterator[Problem]:
    """The names of files that would be taken as the text; `read_message_files` has read those that count."""
    if node.reported:
        return
    if (text := node.text()) is not None and _FILE.fullmatch(text.strip()):
        named = text.strip().removeprefix("file:").strip()
        yield Problem(
            node.position, path, f"is taken as the text itself; write file:{named} in place of all texts by place"
        )
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
