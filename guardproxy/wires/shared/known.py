"""Strings that a request itself makes enumerated values: names of its tools, and what a reply repeats of it.

Also the identifiers of a body: they pass as long as they have no more than BODY_WORDS words together.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from guardproxy.ports import Request
from guardproxy.wires.shared.body import strings
from guardproxy.wires.shared.identifiers import BODY_WORDS, own_words

_TOOLS = ("tools", "functions")
_REPEATED = ("model", "stop", "stop_sequences")
_REPEATED_INSIDE = (("options", "stop"), ("generationConfig", "stopSequences"), ("generation_config", "stop_sequences"))


class Known:
    """A set of strings that is collected when somebody asks for the first time: most bodies never need it.

    It also counts the words of the identifiers that were noted in a body or a stream.
    """

    def __init__(self, source: Iterable[str] = ()) -> None:
        self._source = source
        self._strings: frozenset[str] | None = None
        self._noted: dict[str, str] = {}
        self._words = 0.0
        self._taken = 0

    def __contains__(self, value: object) -> bool:
        if self._strings is None:
            self._strings = frozenset(self._source)
        return value in self._strings

    def note(self, path: str, identifier: str) -> None:
        """Count the words of an identifier at its first place; strings of the set have none."""
        words = own_words(identifier)
        if words and identifier not in self._noted and identifier not in self:
            self._noted[identifier] = path
            self._words += words

    @property
    def has_texts(self) -> bool:
        """Whether `take_texts` would return any."""
        return self._words > BODY_WORDS and len(self._noted) > self._taken

    def take_texts(self) -> list[tuple[str, str]]:
        """Return the path and the text of the identifiers that are to be judged: none, or all if they have many words.

        A second call returns only those that were noted since.
        """
        if self._words <= BODY_WORDS:
            return []
        taken = [(path, text) for text, path in self._noted.items()][self._taken :]
        self._taken += len(taken)
        return taken


def tool_names(body: Mapping[str, Any]) -> Known:
    """Return the names of the tools that a request defines: `tool_choice` and tool results may repeat them."""
    return Known(_names([body.get(key) for key in _TOOLS]))


def repeated_in_reply(request: Request) -> Known:
    """Return the strings of a request that its reply may repeat: the model, the stop sequences, names of tools."""
    return Known(_repeated(request))


def _repeated(request: Request) -> Iterator[str]:
    yield request.model
    for key in _REPEATED:
        yield from strings(request.body.get(key))
    for outer, inner in _REPEATED_INSIDE:
        options = request.body.get(outer)
        if isinstance(options, dict):
            yield from strings(options.get(inner))
    yield from _names([request.body.get(key) for key in _TOOLS])


def _names(value: Any) -> Iterator[str]:
    """Yield the names of tools and of MCP servers in the definitions of tools."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack += item
        elif isinstance(item, dict):
            yield from (name for key in ("name", "server_label") if isinstance(name := item.get(key), str))
            stack += [child for key, child in item.items() if key in ("function", "custom", "functionDeclarations")]
            stack.append(item.get("function_declarations"))
