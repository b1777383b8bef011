"""Reads the list of equivalent mutants: changes that no test can notice, each with its reason."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mutation.mutants import Mutant

PAGE = Path(__file__).with_name("equivalents.toml")


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A mutant by its source text, so that it is recognised wherever its lines move to."""

    module: str
    before: str
    after: str
    why: str


def load(path: Path = PAGE) -> list[Equivalent]:
    """Return the listed mutants. Raises TypeError if an entry lacks a field or has another."""
    return [Equivalent(**entry) for entry in tomllib.loads(path.read_text()).get("equivalent", [])]


def split(
    module: str, found: Iterable[Mutant], listed: Iterable[Equivalent]
) -> tuple[list[Mutant], list[Mutant], list[Equivalent]]:
    """Return the mutants to try, the equivalent ones, and the entries of this module that match no mutant."""
    found = list(found)
    texts = {(entry.before.strip(), entry.after.strip()): entry for entry in listed if entry.module == module}
    equivalent = [mutant for mutant in found if (mutant.before, mutant.after) in texts]
    matched = {(mutant.before, mutant.after) for mutant in equivalent}
    stale = [entry for key, entry in texts.items() if key not in matched]
    return [mutant for mutant in found if mutant not in equivalent], equivalent, stale
