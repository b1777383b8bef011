"""Select records that match a filter: the first ones, or a few whose numbers are known."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Select, select

from guardproxy.sinks.database.filters import Filter, FilterError
from guardproxy.sinks.database.queries import conditions
from guardproxy.sinks.database.schema import records
from guardproxy.sinks.database.texts import has_text, numbers_with
from guardproxy.sinks.database.times import numbered


def first_records(
    chosen: Filter,
    dialect: str,
    columns: Iterable[ColumnElement[Any]] = (),
    *where: ColumnElement[bool],
    newest_first: bool = True,
    limit: int | None = None,
    lowest: int | None = None,
    narrowest: str | None = None,
) -> Select[Any]:
    """Select number and `columns` of the first records that match, newest first or in the order of the numbers.

    `lowest` is the lowest number that is looked at; `narrowest` is that of `conditions`. With the columns of the index
    of what is counted alone, no long row is read. Raises as `conditions`.
    """
    seq: ColumnElement[int] = records.c.seq
    query = select(seq)
    if chosen.text is not None and dialect == "sqlite":
        # Read in its order, the index of texts stops at the limit: as a condition it yields all records with the text.
        query = _numbers_with(chosen.text)
        seq = query.selected_columns[0]
        query = query.with_only_columns(seq.label("seq")).join(records, records.c.seq == seq)
        where = (*numbered(chosen.since, chosen.until, seq), *where)
        chosen = replace(chosen, text=None)
    if lowest is not None:
        where = (seq >= lowest, *where)
    query = query.add_columns(*columns).where(*conditions(chosen, dialect, narrowest), *where)
    return query.order_by(seq.desc() if newest_first else seq).limit(limit)


def _numbers_with(search: str) -> Select[Any]:
    try:
        return numbers_with(search)
    except ValueError as error:
        raise FilterError("text", str(error)) from None


def sampled_conditions(chosen: Filter, dialect: str) -> list[ColumnElement[bool]]:
    """Return the conditions of `conditions` for a few rows, which are found by their numbers and not by an index.

    Raises as `conditions`.
    """
    if chosen.text is None or dialect != "sqlite":
        return conditions(chosen, dialect, "")
    try:
        with_text = has_text(chosen.text, records.c.seq)
    except ValueError as error:
        raise FilterError("text", str(error)) from None
    return [*conditions(replace(chosen, text=None), dialect, ""), with_text]


def nth_with(chosen: Filter, search: str, nth: int) -> Select[Any]:
    """Select the number of the `nth` newest record of the filter's time with this text in SQLite.

    Raises FilterError as `conditions`.
    """
    query = _numbers_with(search)
    seq = query.selected_columns[0]
    return query.where(*numbered(chosen.since, chosen.until, seq)).order_by(seq.desc()).offset(nth - 1).limit(1)
