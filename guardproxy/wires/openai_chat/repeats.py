"""Texts that a chunk has twice: OpenRouter sends reasoning also in details, Perplexity also the whole message so far.

A copy is not judged again as long as it is the text that is judged, piece by piece. Once it differs, what it has said
so far is judged as a text of its own, and so is everything behind it.

Reference: OpenRouter, "Reasoning tokens"; Perplexity API reference, "Chat completions".
"""

from collections.abc import Mapping
from typing import Any

from guardproxy.errors import UpstreamUnreadable
from guardproxy.wires.openai_chat.fields import REPLY_MESSAGE
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import object_with, opaque

_TEXTS = {"reasoning.text": "text", "reasoning.summary": "summary", "reasoning.encrypted": ""}
_read_message = object_with(REPLY_MESSAGE)


class RepeatedReasoning:
    """Compares the `reasoning` of a choice's deltas with the texts of their `reasoning_details`."""

    def __init__(self) -> None:
        self._copied: dict[str, list[str]] = {}  # path → pieces of the copies so far
        self._differs = False

    def without_copies(self, builder: MessageBuilder, delta: Mapping[str, Any], path: str) -> Mapping[str, Any]:
        """Return the delta without the details' texts, if all details so far say what `reasoning` does.

        Otherwise the copies so far are added to the builder as texts of their own. `path` is that of the message.
        """
        details, reasoning = delta.get("reasoning_details"), delta.get("reasoning") or ""
        if self._differs or not (details or reasoning):
            return delta
        copies = _texts(details, f"{path}.reasoning_details") if isinstance(details, list) else None
        if copies is not None and "".join([text for _, text in copies]) == reasoning and self._go_on(copies):
            for place, text in copies:
                self._copied.setdefault(place, []).append(text)
            return {**delta, "reasoning_details": [_without_text(detail) for detail in details or ()]}
        self._differs = True
        for place, texts in self._copied.items():
            builder.add(place, "".join(texts), "reasoning")
        return delta

    def _go_on(self, copies: list[tuple[str, str]]) -> bool:
        """Whether none continues a detail before the latest: its text would be no part of `reasoning` as it stands."""
        places = [*self._copied]
        for place, _ in copies:
            if place in places[:-1]:
                return False
            if place not in places:
                places.append(place)
        return True


def _texts(details: list[Any], path: str) -> list[tuple[str, str]] | None:
    """Return the texts of details, with their paths in a whole message; None if a detail has another form."""
    texts = []
    for number, detail in enumerate(details):
        kind = detail.get("type") if isinstance(detail, dict) else None
        key = _TEXTS.get(kind) if isinstance(kind, str) else None
        index = detail.get("index", number) if isinstance(detail, dict) else None
        if key is None or type(index) is not int or any(other in detail for other in {"text", "summary"} - {key}):
            return None
        text = detail.get(key) if key else None
        if text is not None and not isinstance(text, str):
            return None
        if text:
            texts.append((f"{path}[{index}].{key}", text))
    return texts


def _without_text(detail: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in detail.items() if key not in ("text", "summary")}


def read_whole_message(builder: MessageBuilder, value: Any, path: str) -> None:
    """Read the message of a chunk beside its delta: it is opaque if it says anything but the deltas so far."""
    if value is None:
        return
    copy = MessageBuilder(UpstreamUnreadable, builder.known)
    _read_message(copy, value, path)
    if any(part.kind == "opaque" or builder.text(part.path) != part.text for part in copy.message("assistant").parts):
        opaque("a whole message in a stream")(builder, value, path)
