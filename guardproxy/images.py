"""Pictures that stand in a body as base64, and what a guard that reads images reads of them."""

from dataclasses import field

from guardproxy.frozen import frozen


@frozen
class InlineImage:
    """A picture in a body. `media_type` is the declared type, empty if there is none; `data` are its bytes as base64.

    `of_tool`: it is part of the result of a tool. The data are left out of the object's text form, which logs may show.
    """

    media_type: str
    data: str = field(repr=False)
    of_tool: bool = False


@frozen
class ImageBounds:
    """The images that a guard reads: of at most `bytes`, with sides of at least `least` and at most `most` pixels."""

    bytes: int
    least: int = 1
    most: int = 1_000_000

    def within(self, other: "ImageBounds") -> "ImageBounds":
        """The bounds of images that both read."""
        return ImageBounds(min(self.bytes, other.bytes), max(self.least, other.least), min(self.most, other.most))
