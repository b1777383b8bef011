"""Texts in several languages and for several countries, and the one that a reader gets. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

ANYWHERE: Final = "*"
_TAG: Final = re.compile(r"([A-Za-z]{2,3})(?:[-_][A-Za-z]{4})?(?:[-_]([A-Za-z]{2}))?(?:[-_].*)?")
_WEIGHT: Final = re.compile(r"\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*")
_COUNTRY: Final = re.compile(r"[A-Za-z]{2}")
_MOST: Final = 20  # languages of a header that are read


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads a text: `country` as two capital letters, empty if unknown, and languages, the preferred one first."""

    country: str = ""
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LocalText:
    """A text by place: a language with a country (`de-AT`), a country (`AT`), a language (`de`), "*" for all others."""

    by_place: Mapping[str, str]

    def place(self, reader: Reader) -> str:
        """The place whose text a reader gets: that of the country first, because it may hold more than words."""
        wanted: list[str] = []
        if reader.country:
            wanted += [*(f"{language}-{reader.country}" for language in reader.languages), reader.country]
        return next((place for place in (*wanted, *reader.languages) if place in self.by_place), ANYWHERE)

    @property
    def anywhere(self) -> str:
        """The text for readers of whom nothing is known."""
        return self.by_place[ANYWHERE]


def reader_at(place: str) -> Reader:
    """The reader of whom nothing but the place of a text is known."""
    if place == ANYWHERE:
        return Reader()
    language, _, country = place.partition("-")
    return Reader(place) if place.isupper() else Reader(country, (language,))


def places(texts: Mapping[str, LocalText], reader: Reader) -> tuple[str, ...]:
    """The place of each text that a reader gets."""
    return tuple(text.place(reader) for text in texts.values())


def at(texts: Mapping[str, LocalText], chosen: Iterable[str]) -> dict[str, LocalText]:
    """The same texts by name, each of its chosen place only."""
    return {
        name: LocalText({ANYWHERE: text.by_place[place]})
        for (name, text), place in zip(texts.items(), chosen, strict=True)
    }


def text_of(texts: Mapping[str, LocalText], name: str) -> str | None:
    """The text of a name, or that of "*", for readers of whom nothing is known; None without any."""
    text = texts.get(name) or texts.get(ANYWHERE)
    return text.anywhere if text else None


def reader_of(accepted: str, named: str = "") -> Reader:
    """The reader with this `accept-language`; `named` is a country or a language tag that says more certainly.

    A country counts only if the preferred language has it: browsers often list `en-US` behind another language.
    """
    tags = _tags(accepted)
    if _COUNTRY.fullmatch(named.strip()):
        return Reader(named.strip().upper(), _languages(tags))
    if (found := _TAG.fullmatch(named.strip())) is not None:
        tags = [(found[1].lower(), (found[2] or "").upper()), *tags]
    return Reader(tags[0][1] if tags else "", _languages(tags))


def _languages(tags: list[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(language for language, _ in tags))


def _tags(accepted: str) -> list[tuple[str, str]]:
    """The languages and countries of an `accept-language`, the preferred one first; what is no tag is left out."""
    found: list[tuple[float, tuple[str, str]]] = []
    for item in accepted.split(",")[:_MOST]:
        tag, _, parameter = item.partition(";")
        weight = _WEIGHT.fullmatch(parameter) if parameter else None
        quality = float(weight[1]) if weight else (0.0 if parameter else 1.0)
        match = _TAG.fullmatch(tag.strip())
        if match is not None and quality > 0:
            found.append((quality, (match[1].lower(), (match[2] or "").upper())))
    return [tag for _, tag in sorted(found, key=lambda pair: -pair[0])]
