"""Which guards of a configuration read images, and within which bounds."""

from functools import reduce
from importlib.util import find_spec
from typing import Literal

from guardproxy.app.kinds import answers_in_chat, is_finder
from guardproxy.families import REGISTRY, SERVICES
from guardproxy.images import ImageBounds
from guardproxy.pipeline.traits import ImageReading
from guardproxy.questions import ChatImageFamily
from guardproxy.registry import load
from guardproxy.settings import GuardSettings, MemberSettings, Settings
from guardproxy.types import Taxonomy

_PLACES: tuple[Literal["user", "assistant", "tool"], ...] = ("user", "assistant", "tool")


def image_bounds(guard: GuardSettings, taxonomy: Taxonomy | None) -> ImageBounds | None:
    """The images that a guard reads; None if it reads none. Raises ConfigError for rejected options."""
    if is_finder(guard):
        return None
    family = load(guard.family, REGISTRY, "family")(taxonomy=taxonomy, **guard.options)
    # A model reads images on a server, and there only in a chat.
    reads_in_chat = answers_in_chat(guard) or isinstance(family, ChatImageFamily)
    if guard.runner != "http" and reads_in_chat != (guard.runner == "openai"):
        return None
    bounds: ImageBounds | None = getattr(family, "image_bounds", None)
    return bounds


def image_error(guard: GuardSettings, taxonomy: Taxonomy | None) -> str | None:
    """Why a guard cannot read images, or None. Raises ConfigError for rejected options."""
    if image_bounds(guard, taxonomy) is None:
        known = "; a model omni-moderation-* does" if guard.family in SERVICES and guard.options.get("model") else ""
        if guard.family == "llama_guard":
            known = "; its versions 4 and 3-11b-vision do with runner: openai and their own categories, or some of them"
        return f"the family {guard.family} reads no images as it is configured{known}; remove image"
    if find_spec("PIL") is None:
        return "images need Pillow: run pip install 'guardproxy[images]'"
    return None


def seeing(settings: Settings) -> frozenset[str]:
    """The names of the guards of a combination that read images."""
    return frozenset(name for name, member in settings.members.items() if "image" in member.guard.reads)


def image_reading(settings: Settings) -> ImageReading | None:
    """Which images the guard of a configuration is shown; None if it reads none."""
    singles = [*settings.members.values()] or [MemberSettings(settings.guard, settings.taxonomy)]
    bounds = [image_bounds(one.guard, one.taxonomy) for one in singles if "image" in one.guard.reads]
    known = [one for one in bounds if one is not None]
    if not known:
        return None
    by_role, see, limits = settings.guard.by_role, seeing(settings), settings.limits
    places = [place for place in _PLACES if by_role is None or not see.isdisjoint(by_role.of(place))]
    return ImageReading(
        frozenset(places),
        reduce(ImageBounds.within, known),
        most=limits.images,
        most_bytes=limits.image_bytes,
        most_pixels=limits.image_pixels,
    )
