"""The rows of a batch of records, made on a thread: the event loop only sends them to the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guardproxy.offload import computed_aside
from guardproxy.sinks.database.append import Appending
from guardproxy.sinks.database.keys import PartsCipher
from guardproxy.sinks.database.schema import search_values
from guardproxy.sinks.database.sealed import record_content
from guardproxy.sinks.database.texts import text_rows
from guardproxy.types import Record

_RECORD = 512  # characters of a text that take as long as the rest of a record


@dataclass(frozen=True, slots=True)
class BatchRows:
    """What other tables hold of a batch: times by the number of the record, scores, and words of the texts."""

    times: list[tuple[int, float]]
    scores: list[tuple[Any, ...]]
    texts: list[tuple[Any, ...]]


async def batch_rows(appending: Appending, batch: Sequence[Record], cipher: PartsCipher, dialect: str) -> BatchRows:
    """Seal the rows of a batch with `appending`; return those of the other tables."""
    size = sum(_RECORD + len(record.text) for record in batch)
    return await computed_aside(size, _batch_rows, appending, batch, cipher, dialect)


def _batch_rows(appending: Appending, batch: Sequence[Record], cipher: PartsCipher, dialect: str) -> BatchRows:
    rows = BatchRows([], [], [])
    for record in batch:
        content, parts = record_content(record, quotes=cipher.encrypts)
        columns, scored = search_values(record, encrypted=cipher.encrypts)
        seq = appending.add("record", content, columns, parts, cipher)
        rows.scores.extend((category, seq, *one) for category, one in scored.items())
        rows.times.append((seq, record.time))
        if not cipher.encrypts:  # the words of an encrypted text would tell what it says
            rows.texts.extend(text_rows(seq, record.text, dialect))
    return rows
