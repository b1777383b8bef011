"""What a guard says of itself: its name, its models, its categories, the languages that it reads."""

import json
from collections.abc import Sequence
from typing import Any

from guardproxy.errors import GuardUnavailable
from guardproxy.frozen import frozen
from guardproxy.types import Category, Taxonomy


@frozen
class Account:
    """A guard's account of itself.

    `models` are its models or services, and `version` is a hash of what its verdicts depend on besides the taxonomy:
    guards with equal accounts give equal verdicts, up to rounding. `languages` are those it reads, None if unknown.
    Categories are read only if P(unsafe) is above `floor`.
    """

    guard: str
    taxonomy: Taxonomy
    models: tuple[str, ...] = ()
    version: str = ""
    languages: tuple[str, ...] | None = None
    floor: float = 0.0

    @property
    def short(self) -> dict[str, Any]:
        """The account as JSON values, without the texts of the categories: what every answer has."""
        return {
            "guard": self.guard,
            "taxonomy": self.taxonomy.id,
            "taxonomy_version": self.taxonomy.version,
            "models": self.models,
            "version": self.version,
            "languages": self.languages,
            "floor": self.floor,
        }


def account_of(account: Account) -> dict[str, Any]:
    """The whole account as JSON values."""
    return {
        **account.short,
        "categories": [
            {"id": one.id, "name": one.name, "description": one.description, "code": one.code}
            for one in account.taxonomy.categories
        ],
    }


def read_account(body: bytes) -> Account:
    """The account in an answer. Raises GuardUnavailable if it is none."""
    try:
        found = json.loads(body)
        categories = tuple(
            Category(one["id"], one["name"], one["description"], one["code"])
            for one in found["categories"]
            if _texts([one["id"], one["name"], one["description"], one["code"]])
        )
        names = ("guard", "taxonomy", "taxonomy_version", "version")
        guard, taxonomy, taxonomy_version, version = _texts([found[name] for name in names])
        languages = None if found["languages"] is None else tuple(_texts(found["languages"]))
        models, floor = tuple(_texts(found["models"])), _floor(found["floor"])
        return Account(guard, Taxonomy(taxonomy, categories, taxonomy_version), models, version, languages, floor)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise GuardUnavailable(f"the guard's account cannot be read: {type(error).__name__}: {error}") from None


def _floor(value: object) -> float:
    # A comparison with NaN is false.
    if isinstance(value, bool) or not isinstance(value, float | int) or not 0 <= value <= 1:
        raise ValueError("floor is no probability")
    return float(value)


def _texts(values: Sequence[object]) -> list[str]:
    found = [value for value in values if isinstance(value, str)]
    if len(found) != len(values):
        raise TypeError("a name is no string")
    return found
