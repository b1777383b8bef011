"""Every record as one line of a JSON lines file that only grows."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from guardproxy.errors import ConfigError
from guardproxy.sinks.shared import to_json
from guardproxy.types import Record


class JsonLinesSink:
    """Appends to `path`. The file is opened for each write, so that it may be rotated by moving it away."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def write(self, records: Sequence[Record]) -> None:
        """Append one line per record, on the disk when this returns. Raises OSError."""
        await asyncio.to_thread(self._append, "".join(to_json(record) + "\n" for record in records).encode("ascii"))

    def _append(self, data: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What people wrote is nobody else's to read.
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(handle).st_size
            if data and size and os.pread(handle, 1, size - 1) != b"\n":
                # A full disk or a crash cut the last line short; it must not swallow the next one.
                data = b"\n" + data
            while data:
                data = data[os.write(handle, data) :]
            os.fsync(handle)
        finally:
            os.close(handle)

    async def close(self) -> None:
        """Nothing to release."""


def open_sink(address: str) -> JsonLinesSink:
    """A sink for `jsonl:///absolute/path` or `jsonl://relative/path`. Raises ConfigError without a path."""
    path = unquote(address.removeprefix("jsonl://"))
    if not address.startswith("jsonl://") or not path:
        raise ConfigError(f"audit store {address!r}: a JSON lines file is named as jsonl:///path/to/file.jsonl")
    return JsonLinesSink(Path(path))
