"""Rules for images and files that stand in a body as base64: the type beside them, or none at all."""

from typing import Any

from guardproxy.images import InlineImage
from guardproxy.types import PartKind
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import FieldRule, file_text, opaque

_STANDARD = str.maketrans("-_", "+/")


def encoded(
    builder: MessageBuilder,
    value: Any,
    path: str,
    *,
    media_type: str,
    note: str,
    kind: PartKind,
    url_safe: bool = False,
) -> None:
    """Judge base64 data of a text type as text of this `kind`; otherwise they are opaque with this note.

    Those of an image are an image. An empty `media_type` means that the protocol names none in this place. With
    `url_safe` it takes both alphabets of base64 (RFC 4648); elsewhere a decoder may skip the other's characters.
    """
    found = file_text(media_type, value)
    if found is not None:
        builder.add(path, found, kind)
        return
    opaque(note)(builder, value or "", path)
    declared = media_type.partition(";")[0].strip().lower()
    if isinstance(value, str) and value and (not declared or declared.startswith("image/")):
        data = value.translate(_STANDARD) if url_safe else value
        builder.picture(path, InlineImage(declared, data, kind == "tool_result"))


def bare_image(builder: MessageBuilder, value: Any, path: str) -> None:
    """Read the base64 data of an image whose type the protocol does not name."""
    encoded(builder, value, path, media_type="", note="image", kind="text")


def images(item: FieldRule) -> FieldRule:
    """Apply `item` to every string and object of a list of images; everything else is opaque."""

    def rule(builder: MessageBuilder, value: Any, path: str) -> None:
        if not isinstance(value, list):
            opaque("image")(builder, value, path)
            return
        for index, one in enumerate(value):
            (item if isinstance(one, str | dict) else opaque("image"))(builder, one, f"{path}[{index}]")

    return rule
