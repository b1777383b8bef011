"""What a guard says of itself: its name, its models, its categories, the languages that it reads."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guardproxy.errors import GuardUnavailable
from guardproxy.types import Category, Taxonomy


@dataclass(frozen=True, slots=True)
class Account:
    """A guard's account of itself. `models` are its models or services; `languages` those it reads, None if unknown."""

    guard: str
    taxonomy: Taxonomy
    models: tuple[str, ...] = ()
    languages: tuple[str, ...] | None = None

    @property
    def short(self) -> dict[str, Any]:
        """The account as JSON values, without the texts of the categories: what every answer has."""
        return {
            "guard": self.guard,
            "taxonomy": self.taxonomy.id,
            "taxonomy_version": self.taxonomy.version,
            "models": self.models,
            "languages": self.languages,
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
        guard, taxonomy, version = _texts([found[key] for key in ("guard", "taxonomy", "taxonomy_version")])
        languages = None if found["languages"] is None else tuple(_texts(found["languages"]))
        return Account(guard, Taxonomy(taxonomy, categories, version), tuple(_texts(found["models"])), languages)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise GuardUnavailable(f"the guard's account cannot be read: {type(error).__name__}: {error}") from None


def _texts(values: Sequence[object]) -> list[str]:
    found = [value for value in values if isinstance(value, str)]
    if len(found) != len(values):
        raise TypeError("a name is no string")
    return found
