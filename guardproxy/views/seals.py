"""Seals: what separates the result of a decoding from the text beside it. Pure."""

from typing import NamedTuple

# Separates a decoded span from its neighbours, so that a decoded word does not become part of the span beside it.
# A lone surrogate is in no text that a wire reads.
SEAL = "\ud800"


class Seals(NamedTuple):
    """What to put around the result of an escaped character, and of an encoded run: SEAL or nothing."""

    character: str = ""
    run: str = ""

    def around_character(self, old: str, new: str) -> str:
        """Return the result of an escaped character, sealed if it differs."""
        return new if new == old else f"{self.character}{new}{self.character}"

    def around_run(self, old: str, new: str) -> str:
        """Return the result of an encoded run, sealed if it differs."""
        return new if new == old else f"{self.run}{new}{self.run}"
