"""Which guards of a configuration read images, and within which bounds."""

from functools import reduce
from importlib.util import find_spec
from typing import Literal

from guardproxy.app.kinds import is_finder
from guardproxy.families import REGISTRY, SERVICES
from guardproxy.images import ImageBounds
from guardproxy.pipeline.traits import ImageReading
from guardproxy.registry import load
from guardproxy.settings import GuardSettings, Settings

_PLACES: tuple[Literal["user", "assistant", "tool"], ...] = ("user", "assistant", "tool")


def image_bounds(guard: GuardSettings) -> ImageBounds | None:
    """The images that the family of a guard reads; None if it reads none. Raises ConfigError for rejected options."""
    if guard.runner == "openai" or is_finder(guard):
        return None
    family = load(guard.family, REGISTRY, "family")(taxonomy=None, **guard.options)
    bounds: ImageBounds | None = getattr(family, "image_bounds", None)
    return bounds


def image_error(guard: GuardSettings) -> str | None:
    """Why a guard cannot read images, or None."""
    if guard.runner == "openai":
        return "the runner openai asks about text only; remove image"
    if image_bounds(guard) is None:
        known = "; a model omni-moderation-* does" if guard.family in SERVICES and guard.options.get("model") else ""
        return f"the family {guard.family} reads no images as it is configured{known}; remove image"
    if find_spec("PIL") is None:
        return "images need Pillow: run pip install 'guardproxy[images]'"
    return None


def seeing(settings: Settings) -> frozenset[str]:
    """The names of the guards of a combination that read images."""
    return frozenset(name for name, member in settings.members.items() if "image" in member.guard.reads)


def image_reading(settings: Settings) -> ImageReading | None:
    """Which images the guard of a configuration is shown; None if it reads none."""
    singles = [member.guard for member in settings.members.values()] or [settings.guard]
    bounds = [image_bounds(guard) for guard in singles if "image" in guard.reads]
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
