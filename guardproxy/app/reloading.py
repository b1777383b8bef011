"""Reload of the configuration file: when, and by all processes of the server or by none."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import structlog

from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.settings import read_text

log = structlog.get_logger("guardproxy")

# Seconds between two looks at the configuration file.
LOOK_S = 1.0

FileStamp = tuple[int, int, int] | None


class Gone(Exception):
    """A process of the server has ended, or does not answer."""


class Participant(Protocol):
    """A process that takes part in reloads."""

    async def attempt(self, text: str) -> tuple[str, tuple[str, ...]]:
        """Check the text of a file and try its policies with the canaries, without a change of what is in force.

        Returns the version of the policies, and the keys that need a restart. Raises ConfigError with the reasons why
        they cannot be put in force, and Gone.
        """
        ...

    async def switch(self) -> None:
        """Put the policies of the latest attempt in force. Raises Gone."""
        ...

    async def refused(self, problems: Sequence[str]) -> None:
        """Note why a reload was refused. Raises Gone."""
        ...


class _FileChanged(GuardproxyError):
    """The file has changed while its policies were tried."""


class Reloader:
    """Follows a configuration file, and changes the policies of all participants together or of none.

    `text` is what is in force, from a file with the state `stamp` (`stamp_of`). `participants` are those of the moment.
    Each of them tries the policies; if one refuses them, all keep the old ones. It looks at the file every `look_s`
    seconds.
    """

    def __init__(
        self,
        path: str | None,
        text: str,
        stamp: FileStamp,
        participants: Callable[[], Sequence[Participant]],
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self.text = text
        self.problems: tuple[str, ...] = ()
        self.changing = asyncio.Lock()
        self._path = path
        self._applied = stamp
        self._participants = participants
        self._look_s = look_s
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Read the file again soon, whether it has changed or not."""
        self._asked.set()

    async def follow(self) -> None:
        """Apply the policies and routes of the file whenever it changes, and when somebody asks."""
        path, before = self._path, self._applied
        while True:
            asked = self._asked.is_set()
            if asked and path is None:
                self._asked.clear()
                log.warning("reload_refused", problems=["there is no configuration file; start with --config FILE"])
            elif path is not None and self._participants():
                self._asked.clear()
                current = stamp_of(path)
                # A file that is still being written would be read in part, so wait until it has stopped changing.
                if asked or (current == before and current != self._applied):
                    self._applied = current if await self._reload(path, current, asked=asked) else self._applied
                before = current
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_s if path is not None else None):
                    await (self._asked.wait() if not asked else asyncio.sleep(self._look_s))

    async def _reload(self, path: str, stamp: FileStamp, *, asked: bool) -> bool:
        """Apply the file's policies; if it has mistakes, tell them and keep the current policies.

        Returns False, and applies nothing, if the file has changed meanwhile, or if no process took part.
        """

        async def unchanged() -> None:
            if stamp_of(path) != stamp:
                raise _FileChanged

        try:
            text = await asyncio.to_thread(read_text, path)
            await unchanged()
            if text == self.text and not self.problems and not asked:
                return True  # a change of the console's, which is in force already
            version, restart = await self.change(text, unchanged)
        except (_FileChanged, Gone):
            return False
        except ConfigError as error:
            problems = error.problems
            if stamp_of(path) != stamp:
                return False
        except Exception as error:  # keep following the file: its next version may work
            log.exception("reload_broke")
            problems = [f"{path}: the reload broke: {type(error).__name__}; the log has the details"]
        else:
            log.info("policies_reloaded", policy=version)
            if restart:
                log.warning("restart_needed", file=path, keys=restart)
            return True
        await self._refused(problems)
        return True

    async def _refused(self, problems: Sequence[str]) -> None:
        log.error("reload_refused", problems=problems)
        self.problems = tuple(problems)
        await asyncio.gather(*(one.refused(problems) for one in self._participants()), return_exceptions=True)

    async def change(self, text: str, accept: Callable[[], Awaitable[None]]) -> tuple[str, tuple[str, ...]]:
        """Put the policies of a text in force at every participant, after `accept`; return what `attempt` does.

        Raises the error of `accept`, ConfigError with the reasons if a participant refuses the policies, and Gone if
        none is left; then nothing has changed.
        """
        async with self.changing:
            participants = self._participants()
            tried = await asyncio.gather(*(one.attempt(text) for one in participants), return_exceptions=True)
            found = []
            for result in tried:
                if isinstance(result, BaseException) and not isinstance(result, Gone):
                    raise result
                if not isinstance(result, BaseException):
                    found.append(result)
            if not found:
                raise Gone("no process of the server takes part in the reload")
            if any(result != found[0] for result in found):
                raise ConfigError("the processes of the server read different policies from the file; reload it again")
            await accept()
            self.text, self.problems = text, ()
            # A process that has gone comes back with this text.
            await asyncio.gather(*(one.switch() for one in participants), return_exceptions=True)
            return found[0]


def stamp_of(path: str) -> FileStamp:
    """The modification time, size and inode of a file, or None if it is missing."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
