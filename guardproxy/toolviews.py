"""The names of views that are no other form of the text: results of tools, which have rules of their own; images."""

from typing import Final

TOOL: Final = "tool"
"""The first step of the names of the views of the results of tools."""
IMAGE: Final = "image"
"""The last step of the name of a text with one of its images, before a number if the message has several."""


def is_of_tool(view: str) -> bool:
    """Whether a view is that of the results of tools, read by themselves."""
    return view == TOOL or view.startswith(f"{TOOL}+")


def is_of_image(view: str) -> bool:
    """Whether a view is that of an image."""
    return view.rpartition("+")[2].partition(" ")[0] == IMAGE
