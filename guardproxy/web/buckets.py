"""Where the buckets of the clients' limits are kept: in this process, or in files that several processes share."""

import fcntl
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from guardproxy.access import Bucket, taken

_FORMAT: Final = struct.Struct("=dd")  # the level and the time of a bucket


class Buckets(Protocol):
    """The buckets of all clients, by name."""

    def take(self, name: str, per_minute: float, amount: float) -> float:
        """Take from a bucket as `access.taken` does; return 0, or the seconds until it can be taken."""
        ...


class OwnBuckets:
    """The buckets of one process. `clock` returns the seconds of a steady clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}

    def take(self, name: str, per_minute: float, amount: float) -> float:
        """See `Buckets`."""
        self._buckets[name], wait_s = taken(self._buckets.get(name), per_minute, amount, self._clock())
        return wait_s


class SharedBuckets:
    """Buckets that all processes of one machine share: a file for each in `folder`, locked for a few microseconds.

    `clock` must be the same for all of them, as the machine's steady clock is. Raises OSError for an unusable folder.
    """

    def __init__(self, folder: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = Path(folder)
        self._clock = clock
        self._folder.mkdir(mode=0o700, exist_ok=True)
        # systemd-tmpfiles removes what is old in temporary folders, but leaves a locked folder and all in it alone.
        self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def take(self, name: str, per_minute: float, amount: float) -> float:
        """See `Buckets`. `name` is a valid name of a file."""
        file = os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            kept = os.pread(file, _FORMAT.size, 0)
            bucket = Bucket(*_FORMAT.unpack(kept)) if len(kept) == _FORMAT.size else None
            bucket, wait_s = taken(bucket, per_minute, amount, self._clock())
            os.pwrite(file, _FORMAT.pack(bucket.level, bucket.at), 0)
        finally:
            os.close(file)
        return wait_s
