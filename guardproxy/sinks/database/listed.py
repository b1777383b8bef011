"""A list of row numbers as one parameter of a statement: databases bound how many parameters there may be."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import JSON, BigInteger, Select, Text, cast, func, literal, select


def listed(dialect: str, numbers: Sequence[int]) -> Select[Any]:
    """Return a query that yields these numbers."""
    given = literal(json.dumps(list(numbers)), Text)
    if dialect == "sqlite":
        each = func.json_each(given).table_valued("value")
        return select(each.c.value)
    return select(cast(func.json_array_elements_text(cast(given, JSON)), BigInteger))
