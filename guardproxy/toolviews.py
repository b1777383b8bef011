"""The names of the views of the results of tools, which have a guard or rules of their own."""

from typing import Final

TOOL: Final = "tool"
"""The first step of these names."""


def is_of_tool(view: str) -> bool:
    """Whether a view is that of the results of tools, read by themselves."""
    return view == TOOL or view.startswith(f"{TOOL}+")
