"""What the pipeline has to know of its guard beside the guard itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from guardproxy.images import ImageBounds
from guardproxy.patterns import Reach


@dataclass(frozen=True, slots=True)
class ImageReading:
    """Which images are judged: in requests (`user`), in replies (`assistant`), in results of tools read by themselves.

    At most `most` in a request or reply, each of at most `most_bytes` and `most_pixels` (`limits`). `bounds` are those
    of the guard.
    """

    places: frozenset[Literal["user", "assistant", "tool"]]
    bounds: ImageBounds
    most: int
    most_bytes: int
    most_pixels: int


@dataclass(frozen=True, slots=True)
class GuardTraits:
    """How a guard works.

    `reaches` has the categories of which it looks for patterns, with how far these reach. `reads_tools`: it has a guard
    of its own for the results of tools. Without `has_model`, it knows only what is listed. Without `images`, it reads
    text only. `tells_canaries`: it takes the canaries for harm, which they need not be by a policy text of the
    operator's. A check may take `timeout_s` seconds.
    """

    reaches: Mapping[str, Reach] = field(default_factory=dict)
    reads_tools: bool = False
    has_model: bool = True
    images: ImageReading | None = None
    tells_canaries: bool = True
    timeout_s: float = 30.0


ORDINARY = GuardTraits()
