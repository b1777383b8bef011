"""Inline images: which of them the guard reads, decoded on a thread, and the checks that show them (decision 0033).

A wire leaves an image as an opaque part with its data. Here it becomes a part of the kind `image` if the guard reads
images in this place and this one is a whole, still image; otherwise it stays opaque, with the reason in its note.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import io
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from guardproxy.errors import GuardUnavailable, TooLarge
from guardproxy.frozen import frozen
from guardproxy.images import InlineImage
from guardproxy.pipeline.readings import readings
from guardproxy.pipeline.traits import ImageReading
from guardproxy.pipeline.turns import is_of_tool
from guardproxy.policy import Policy
from guardproxy.toolviews import IMAGE, TOOL
from guardproxy.types import Check, Conversation, Message, Part

# What Pillow calls the formats, and their media types. MPO is a JPEG with further pictures behind it, which only some
# viewers show: cameras write it.
_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
_NAMES = {"image/jpg": "image/jpeg"}  # a wrong name of a type that many clients send
# One thread, so one image is in memory at a time; of its own, so that nobody else waits for it. Each request has one
# image in its queue.
_POOL = ThreadPoolExecutor(1, thread_name_prefix="images")
_KEPT = 4096  # images that are known: clients send the whole conversation with every turn


class _Oversized(Exception):
    """The image has more pixels than may be decoded."""


@frozen
class _Facts:
    """What is known of an image: its media type and note if it can be read, otherwise the `problem`."""

    media_type: str = ""
    note: str = ""
    problem: str = ""
    oversized: bool = False


class Images:
    """Finds the images that the guard reads, as `reading` says; None: it reads none."""

    def __init__(self, reading: ImageReading | None) -> None:
        self._reading = reading
        self._kept: OrderedDict[tuple[str, str], _Facts] = OrderedDict()

    async def of_request(self, messages: Sequence[Message], policy: Policy) -> Sequence[Message]:
        """The messages with their images. Raises TooLarge for more or larger images than the limits allow."""
        return await self._read(messages, policy, refuses=True)

    async def of_reply(self, messages: Sequence[Message], policy: Policy) -> Sequence[Message]:
        """The messages of a reply with their images; those beyond the limits stay opaque."""
        return await self._read(messages, policy, refuses=False)

    async def _read(self, messages: Sequence[Message], policy: Policy, *, refuses: bool) -> Sequence[Message]:
        if self._reading is None:
            return messages
        found = [
            (place, index)
            for place, message in enumerate(messages)
            for index, part in enumerate(message.parts)
            if part.image is not None and part.kind == "opaque" and _is_read(self._reading, message, part, policy)
        ]
        if not found:
            return messages
        most = self._reading.most
        if refuses and len(found) > most:
            raise TooLarge(f"{len(found)} images are more than the {most} of limits.images")
        new = list(messages)
        for number, (place, index) in enumerate(found):
            *before, part = new[place].parts[: index + 1]
            if number >= most:
                part = _unread(part, f"more images than the {most} of limits.images")
            else:
                part = await self._decoded(self._reading, part, refuses=refuses)
            new[place] = replace(new[place], parts=(*before, part, *new[place].parts[index + 1 :]))
        return tuple(new)

    async def _decoded(self, reading: ImageReading, part: Part, *, refuses: bool) -> Part:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_POOL, lambda: self._part(reading, part, refuses=refuses))

    def _part(self, reading: ImageReading, part: Part, *, refuses: bool) -> Part:
        """The part as an image, or as opaque content with the reason. Raises TooLarge if it `refuses`."""
        image = part.image
        assert image is not None  # noqa: S101 - such parts were found
        encoded = image.data + "=" * (-len(image.data) % 4)
        facts = _Facts(problem="no valid base64")
        if len(encoded) // 4 * 3 - encoded[-2:].count("=") > reading.most_bytes:
            facts = _Facts(problem=f"more than the {reading.most_bytes} bytes of limits.image_bytes", oversized=True)
        else:
            # Strictly: many decoders skip other characters, and so get another file of the same text.
            with contextlib.suppress(binascii.Error, ValueError):
                facts = self._facts(reading, base64.b64decode(encoded, validate=True), image.media_type)
        if facts.oversized and refuses:
            raise TooLarge(f"{part.path}: the image has {facts.problem}")
        if facts.problem:
            return _unread(part, facts.problem)
        return Part(part.path, "", "image", facts.note, InlineImage(facts.media_type, encoded, image.of_tool))

    def _facts(self, reading: ImageReading, data: bytes, declared: str) -> _Facts:
        key = hashlib.sha256(data).hexdigest(), declared
        facts = self._kept.get(key)
        if facts is None:
            facts = self._kept[key] = _facts_of(reading, data, *key)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return facts


def _facts_of(reading: ImageReading, data: bytes, sha256: str, declared: str) -> _Facts:
    """Decode an image to its end. Pillow bounds what its metadata may expand to; `reading`, the pixels."""
    try:
        media_type, (width, height), animated = _decoded(data, reading.most_pixels)
    except _Oversized:
        return _Facts(problem=f"more than the {reading.most_pixels} pixels of limits.image_pixels", oversized=True)
    except Exception:  # noqa: BLE001 - decoders raise anything, and what they cannot decode nobody has judged
        return _Facts(problem="it cannot be decoded as PNG, JPEG, GIF or WebP")
    bounds = reading.bounds
    if declared and _NAMES.get(declared, declared) != media_type:
        problem = f"it is declared as another type than its own, {media_type}"
    elif animated:
        problem = "it is animated"
    elif len(data) > bounds.bytes:
        problem = f"the guard reads images of up to {bounds.bytes} bytes"
    elif not bounds.least <= min(width, height) <= max(width, height) <= bounds.most:
        problem = f"the guard reads images with sides of {bounds.least} to {bounds.most} pixels"
    else:
        return _Facts(media_type, f"{media_type} {width}x{height} {len(data)} bytes sha256:{sha256}")
    return _Facts(problem=problem)


def _decoded(data: bytes, most_pixels: int) -> tuple[str, tuple[int, int], bool]:
    """The media type and the size in pixels of an image that decodes to its end, and whether it is animated instead."""
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - an extra, needed only with such a guard

    try:
        opened: Any = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _Oversized from None
    except UnidentifiedImageError:
        raise ValueError from None
    with opened as image:
        width, height = image.size
        if width * height > most_pixels:
            raise _Oversized
        # Not `n_frames`: counting the frames of a GIF takes a second for every few megabytes.
        animated = image.format != "MPO" and getattr(image, "is_animated", False)
        if not animated:
            image.load()
        return _TYPES[image.format], (width, height), animated


def _unread(part: Part, problem: str) -> Part:
    return Part(part.path, part.text, "opaque", f"{part.note}: {problem}")


def _is_read(reading: ImageReading, message: Message, part: Part, policy: Policy) -> bool:
    """Whether the guard of this message's role reads images, or the one that reads it a second time."""
    if message.side == "assistant":
        return "assistant" in reading.places
    if is_of_tool(message, part):
        return "tool" in reading.places or ("user" in reading.places and policy.judge.tool_as_user)
    return "user" in reading.places


def without_images(message: Message) -> Message:
    """The message without its images; the same if it has none."""
    if not message.images:
        return message
    return replace(message, parts=tuple(part for part in message.parts if part.kind != "image"))


def texts_only(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The messages without their images: a guard is shown only those of the judged message."""
    return tuple(map(without_images, messages))


def image_checks(
    context: Sequence[Message], message: Message, policy: Policy, reading: ImageReading | None, *, reads_tools: bool
) -> list[tuple[str, Check]]:
    """A check for each image of a message: its texts with this image, in each reading whose guard reads images.

    The names are `image`, with a number if there are several, behind the step of the reading. Raises GuardUnavailable
    if no guard reads an image.
    """
    images = message.images
    checks: list[tuple[str, Check]] = []
    asked: set[str] = set()
    for step, read in readings(message, policy, reads_tools=reads_tools) if images else ():
        place = "tool" if step == TOOL else read.side
        if reading is None or place not in reading.places:
            continue
        texts = without_images(read).parts
        for part in read.images:
            number = f" {images.index(part) + 1}" if len(images) > 1 else ""
            check = Check(Conversation((*context, Message(read.role, (*texts, part)))), read.side)
            checks.append((f"{step}+{IMAGE}{number}" if step else f"{IMAGE}{number}", check))
            asked.add(part.path)
    if len(asked) < len(images):
        raise GuardUnavailable("no guard of this role reads images")
    return checks
