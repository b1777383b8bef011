"""Insert many rows by the driver: SQLAlchemy prepares each value of each row, which takes as long as all the rest."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Dialect, Table, insert


def insert_rows(connection: Connection, table: Table, names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows, which have the values of the columns `names` in this order."""
    if rows:
        connection.exec_driver_sql(_statement(table, names, connection.dialect), list(rows))


@lru_cache(maxsize=64)
def _statement(table: Table, names: tuple[str, ...], dialect: Dialect) -> str:
    """The statement, with a place for each value in the order of the names."""
    compiled = insert(table).compile(dialect=dialect, column_keys=names)
    places = compiled.positiontup
    if places != list(names):
        raise ValueError(f"the columns {names} are not in the order of the table {table.name}: {places}")
    return str(compiled)
