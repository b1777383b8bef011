"""The index of the words of stored texts: FTS5 in SQLite, `tsvector` with a GIN index in PostgreSQL.

Both hold the words of `words.words`. PostgreSQL bounds the size of a row's words, so a long text has several rows
there, which overlap: a phrase of up to `_OVERLAP` words is found across their borders.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    String,
    and_,
    cast,
    column,
    delete,
    func,
    literal,
    literal_column,
    or_,
    select,
    table,
    text,
)
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.sinks.database.schema import records
from guardproxy.sinks.database.words import SearchTerm, search_terms, stored_hash, words

_CHUNK = 3000  # the most words of a row in PostgreSQL, at most 1 MB
_OVERLAP = 100
_MERGE_PAGES = 500  # the pages of an index in SQLite that one step rewrites while it holds the lock

# In SQLite, `rowid` is the number of the record.
_sqlite = table("guardproxy_texts", column("rowid"), column("words"))
_postgresql = table("guardproxy_texts", column("seq"), column("part"), column("words"))

# `columnsize=0`: ranks of matches, which need it, are not used. `ascii`: the words are separated by spaces already.
_CREATE = {
    "sqlite": ("CREATE VIRTUAL TABLE guardproxy_texts USING fts5(words, columnsize=0, tokenize='ascii')",),
    "postgresql": (
        "CREATE TABLE guardproxy_texts (seq BIGINT, part INTEGER, words TSVECTOR NOT NULL, PRIMARY KEY (seq, part))",
        "CREATE INDEX guardproxy_texts_words ON guardproxy_texts USING GIN (words)",
    ),
}
_INSERT = {
    "sqlite": "INSERT INTO guardproxy_texts (rowid, words) VALUES (?, ?)",
    "postgresql": "INSERT INTO guardproxy_texts (seq, part, words) VALUES ($1, $2, CAST($3::TEXT AS TSVECTOR))",
}


def create_texts(connection: Connection) -> None:
    """Create the index."""
    for statement in _CREATE[connection.dialect.name]:
        connection.execute(text(statement))


def text_rows(seq: int, text: str, dialect: str) -> list[tuple[Any, ...]]:
    """The rows of the index for the text of the record with the number `seq`."""
    found = words(text)
    if not found:
        return []
    if dialect == "sqlite":
        return [(seq, " ".join(found))]
    return [(seq, part, _vector(chunk)) for part, chunk in enumerate(_chunks(found))]


def add_texts(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows of `text_rows`."""
    if rows:
        connection.exec_driver_sql(_INSERT[connection.dialect.name], list(rows))


async def erase_texts(connection: AsyncConnection, numbers: Select[Any]) -> None:
    """Remove the texts of these records from the index. In SQLite their words stay in the file until `merge_texts`."""
    if connection.dialect.name == "sqlite":
        await connection.execute(delete(_sqlite).where(_sqlite.c.rowid.in_(numbers)))
    else:
        await connection.execute(delete(_postgresql).where(_postgresql.c.seq.in_(numbers)))


async def merge_texts(connection: AsyncConnection, *, first: bool) -> bool:
    """Rewrite a part of SQLite's index, without erased words. Return whether there is more to do; begin with `first`.

    FTS5 removes the entries of deleted rows only when it merges: the whole index becomes one tree, in steps.
    """
    changes = select(text("total_changes()"))
    before = (await connection.execute(changes)).scalar_one()
    pages = -_MERGE_PAGES if first else _MERGE_PAGES
    await connection.execute(
        text("INSERT INTO guardproxy_texts (guardproxy_texts, rank) VALUES ('merge', :pages)"), {"pages": pages}
    )
    # FTS5 itself changes at least one row; fewer than two changes mean that it found nothing to merge.
    return int((await connection.execute(changes)).scalar_one()) - int(before) >= 2


def numbers_with(search: str) -> Select[Any]:
    """Select the numbers of the records with this text in SQLite, which finds them in the order of the numbers.

    Raises ValueError if the search has no words or too many.
    """
    whole = SearchTerm((stored_hash(search),))
    expression = f"({' AND '.join(map(_fts5, search_terms(search)))}) OR {_fts5(whole)}"
    return select(_sqlite.c.rowid).where(literal_column(_sqlite.name).op("MATCH")(expression))


def matches(search: str, dialect: str) -> ColumnElement[bool]:
    """Return the condition that a record has this text. Raises ValueError if the search has no words or too many."""
    seq = records.c.seq
    if dialect == "sqlite":
        return seq.in_(numbers_with(search))
    # One condition for each term, which finds the whole text too: PostgreSQL joins these with the records in any order,
    # but reads all rows of conditions with an OR between them.
    whole = SearchTerm((stored_hash(search),))
    return and_(*(seq.in_(_rows_with(term, whole)) for term in search_terms(search)))


def has_text(search: str, number: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that the record with this number has this text in SQLite, which reads its words.

    For a few records: the index finds all records with a text. Raises ValueError as `matches`.
    """
    held = literal(" ", String) + _sqlite.c.words + literal(" ", String)
    terms = [
        func.instr(held, f" {' '.join(term.words)}{'' if term.prefix else ' '}") > 0 for term in search_terms(search)
    ]
    whole = func.instr(held, f" {stored_hash(search)} ") > 0
    return select(_sqlite.c.rowid).where(_sqlite.c.rowid == number, or_(and_(*terms), whole)).exists()


def _rows_with(*terms: SearchTerm) -> Select[Any]:
    """The rows with one of the terms in PostgreSQL."""
    phrases = (" <-> ".join(f"'{word}'" for word in term.words) + (":*" if term.prefix else "") for term in terms)
    query = " | ".join(f"({phrase})" for phrase in phrases)
    return select(_postgresql.c.seq).where(_postgresql.c.words.op("@@")(cast(query, TSQUERY)))


def _fts5(term: SearchTerm) -> str:
    return f'"{" ".join(term.words)}"{" *" if term.prefix else ""}'


async def has_texts(connection: AsyncConnection) -> bool:
    """Return whether the store holds the text, or the hash of the text, of any record."""
    query = text("SELECT 1 FROM guardproxy_texts LIMIT 1")
    return (await connection.execute(query)).first() is not None


async def indexed(connection: AsyncConnection, first: int, last: int) -> dict[int, list[list[str]]]:
    """Return the indexed words of the records from `first` to `last`, in the form of `expected_index`."""
    held: defaultdict[int, list[list[str]]] = defaultdict(list)
    if connection.dialect.name == "sqlite":
        query = select(_sqlite.c.rowid, _sqlite.c.words).where(_sqlite.c.rowid.between(first, last))
        for seq, joined in await connection.execute(query):
            held[seq].append(joined.split(" "))
    else:
        within = _postgresql.c.seq.between(first, last)
        parts = select(_postgresql.c.seq, text("tsvector_to_array(words)")).where(within).order_by(text("seq, part"))
        for seq, lexemes in await connection.execute(parts):
            held[seq].append(sorted(lexemes))
    return held


def numbers_indexed(dialect: str) -> ColumnElement[int]:
    """Return the column that holds the numbers of the records with indexed words."""
    return _sqlite.c.rowid if dialect == "sqlite" else _postgresql.c.seq


def expected_index(content: str, dialect: str) -> list[list[str]]:
    """Return what the index must hold of a text.

    These are lists of words: all of them in their order in SQLite, the distinct words of each row in PostgreSQL.
    """
    found = words(content)
    if not found:
        return []
    return [found] if dialect == "sqlite" else [sorted(set(chunk)) for chunk in _chunks(found)]


def _chunks(found: Sequence[str]) -> list[Sequence[str]]:
    return [found[at : at + _CHUNK] for at in range(0, max(len(found) - _OVERLAP, 1), _CHUNK - _OVERLAP)]


def _vector(chunk: Sequence[str]) -> str:
    positions: defaultdict[str, list[str]] = defaultdict(list)
    for position, word in enumerate(chunk, 1):
        positions[word].append(str(position))
    return " ".join(f"'{word}':{','.join(at[:255])}" for word, at in positions.items())
