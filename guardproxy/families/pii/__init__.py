"""Personal data as a guard, by the recognisers of Presidio (extra `pii`) that need no language model.

Each entity is a category: `email_address` is `pii_email_address`. A finding has the place of the match with the highest
score. Personal data are no harm, so P(unsafe) is always 0: only rules of categories apply, `"*"` among them.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Final

from guardproxy.errors import ConfigError
from guardproxy.families.pii.entities import BY_COUNTRY, ENTITIES, GENERIC
from guardproxy.families.pii.recognisers import PACKAGE, Recogniser, opened
from guardproxy.patterns import Hit, Reach, findings_of, without_escapes
from guardproxy.types import Category, Finding, Taxonomy, Verdict

PREFIX: Final = "pii_"
# Those of Presidio, but for Israel, whose numbers are rare in most traffic: each region takes time.
_REGIONS = ("US", "GB", "DE", "FR", "IN", "CA", "BR")


class PiiFamily:
    """Finds entities by their names. Build it with `open_family`; `open_one` opens a recogniser when it is needed."""

    weight = 8

    def __init__(self, names: Sequence[str], open_one: Callable[[str], Recogniser], version: str) -> None:
        categories = tuple(Category(PREFIX + name, name.replace("_", " ").capitalize()) for name in names)
        self.taxonomy = Taxonomy("pii", categories, version)
        self._names = tuple(names)
        self._open = open_one
        self._nothing = tuple(Finding(category.id, 0.0) for category in categories)

    @property
    def reaches(self) -> Mapping[str, Reach]:
        """By category, how far back from the end of a growing text a match of it may begin."""
        return {
            PREFIX + name: Reach(unspaced=ENTITIES[name].most)
            if ENTITIES[name].unspaced
            else Reach(ENTITIES[name].most)
            for name in self._names
        }

    def load(self) -> None:
        """Import Presidio, which takes seconds, and compile its expressions."""
        self.hits("")

    def hits(self, text: str, *, unfinished: bool = False) -> list[Hit]:
        """Every match, in the order of the text; of several that begin together, the most probable first.

        A match counts in an `unfinished` text if so much follows it that nothing could change it any more. Raises
        GuardUnavailable if a recogniser takes too long.
        """
        # A text may be JSON, as results of tools are: the letter of an escape belongs to no address.
        read = without_escapes(text)
        found = [
            Hit(span, PREFIX + name, ENTITIES[name].recogniser, score)
            for name in self._names
            for span, score in self._open(name)(read)
            if not unfinished or _is_decided(name, span, read)
        ]
        return sorted(set(found), key=lambda hit: (hit.span[0], -hit.probability, -hit.span[1], hit.category))

    def verdict(self, text: str, guard: str, *, unfinished: bool = False) -> Verdict:
        """The verdict on a text: every category, those without a match with probability 0, and P(unsafe) 0."""
        findings = findings_of(self.hits(text, unfinished=unfinished), self._nothing)
        return Verdict(0.0, findings, guard, f"{self.taxonomy.id}@{self.taxonomy.version}")


def _is_decided(name: str, span: tuple[int, int], text: str) -> bool:
    """Whether no text that follows can change a match: the next character behind the longest one is there."""
    entity = ENTITIES[name]
    if span[0] + entity.most < len(text):
        return True
    return entity.unspaced and any(character.isspace() for character in text[span[1] :])


def open_family(
    *,
    taxonomy: Taxonomy | None = None,
    entities: Sequence[str] = tuple(GENERIC),
    countries: Sequence[str] = (),
    phone_regions: Sequence[str] = _REGIONS,
) -> PiiFamily:
    """Open the family for these entities and all of these countries. Raises ConfigError with every mistake."""
    problems = []
    if taxonomy is not None:
        problems.append("taxonomy: the categories are those of Presidio's recognisers")
    if find_spec(PACKAGE) is None:
        problems.append("family: pii needs Presidio: run pip install 'guardproxy[pii]'")
    problems += _unknown("entities", entities, ENTITIES, GENERIC)
    problems += _unknown("countries", countries, BY_COUNTRY, ("de", "uk", "us"))
    problems += [
        f"phone_regions: {region!r} is no code of ISO 3166-1; use two capital letters, such as DE"
        for region in phone_regions
        if not (len(region) == 2 and region.isascii() and region.isalpha() and region.isupper())
    ]
    named = [*entities, *(name for country in countries for name in BY_COUNTRY.get(country, ()))]
    if not named:
        problems.append("entities: names nothing to look for; name entities or countries")
    if problems:
        raise ConfigError(problems)
    version = hashlib.sha256(repr((named, phone_regions)).encode()).hexdigest()[:12]
    return PiiFamily([*dict.fromkeys(named)], lambda name: opened(name, phone_regions), version)


def _unknown(option: str, names: Sequence[str], known: Collection[str], usual: Collection[str]) -> list[str]:
    """The mistakes of unknown names, with the closest name, or `usual` ones if none is close."""
    problems = []
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"use {', '.join(usual)}, or another one of docs/pii.md"
            problems.append(f"{option}: unknown name {name!r}; {hint}")
    return problems
