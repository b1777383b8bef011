"""Append each record to a JSON lines file."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from guardproxy.errors import ConfigError
from guardproxy.sinks.shared import to_json
from guardproxy.types import Record


class JsonLinesSink:
    """Appends records to `path`. Opens the file for each write, so that it can be rotated by renaming it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def write(self, records: Sequence[Record]) -> None:
        """Append one line per record and flush the file to the disk. Raises OSError."""
        await asyncio.to_thread(self._append, "".join(to_json(record) + "\n" for record in records).encode("ascii"))

    def _append(self, data: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The file holds users' texts: only its owner may read it.
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(handle).st_size
            if data and size and os.pread(handle, 1, size - 1) != b"\n":
                # A full disk or a crash cut the last line short. The next record must not be appended to that line.
                data = b"\n" + data
            while data:
                data = data[os.write(handle, data) :]
            os.fsync(handle)
        finally:
            os.close(handle)

    async def close(self) -> None:
        """Do nothing: no file stays open."""


def open_sink(address: str) -> JsonLinesSink:
    """Open the file at `jsonl:///absolute/path` or `jsonl://relative/path`. Raises ConfigError without a path."""
    path = unquote(address.removeprefix("jsonl://"))
    if not address.startswith("jsonl://") or not path:
        raise ConfigError(f"audit store {address!r}: write a JSON lines file as jsonl:///path/to/file.jsonl")
    return JsonLinesSink(Path(path))
