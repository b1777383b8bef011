"""The engine process as the parent of the workers keeps it: started, started again when it ends, and ended last."""

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from guardproxy.observe.families import Families

log = structlog.get_logger("guardproxy")

_MODULE: Final = "guardproxy.app.engine_process"
# Seconds before the first new start and the most between two of them; the pause is the first one again after so long.
_FIRST_S: Final = 0.5
_LONGEST_S: Final = 30.0
_STEADY_S: Final = 60.0
# Seconds that the engine has for its end, with the pass that its models compute.
_END_S: Final = 20.0


class EngineKeeper:
    """Keeps the engine process, which `command` starts, running. Use it from one event loop."""

    def __init__(self, command: Sequence[str] = (sys.executable, "-m", _MODULE)) -> None:
        self._command = command
        self._starts = 0
        self._process: asyncio.subprocess.Process | None = None

    async def keep(self) -> None:
        """Start the engine, and again whenever it has ended, until this is cancelled."""
        pause_s = _FIRST_S
        while True:
            began = time.monotonic()
            self._starts += 1
            try:
                # In a group of its own, Ctrl-C does not reach it, which would break into its imports.
                self._process = await asyncio.create_subprocess_exec(
                    *self._command, stdin=asyncio.subprocess.PIPE, process_group=0
                )
            except OSError as error:  # there is no memory or no process left, perhaps for a moment
                log.error("engine_not_started", error=str(error), again_s=pause_s)
            else:
                status = await self._process.wait()
                if time.monotonic() - began > _STEADY_S:
                    pause_s = _FIRST_S
                log.error("engine_ended", status=status, again_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_S)

    async def close(self) -> None:
        """End the engine; its workers have ended."""
        process = self._process
        if process is None or process.returncode is not None or process.stdin is None:
            return
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def families(self) -> Families:
        """Its metric."""
        name = "guardproxy_guard_engine_starts"
        return [[name, "counter", "Starts of the engine process.", [[f"{name}_total", {}, self._starts]]]]
