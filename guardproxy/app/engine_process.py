"""The engine process of a group of workers: it holds the models of the guards once, and answers the checks of all.

`python -m guardproxy.app.engine_process` is started by the parent of the workers (`engine_keeper`), with the arguments
of `serve` in the environment. It ends when its standard input does: when the workers have ended, or the parent died.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from guardproxy.app.apis import account, floor_for
from guardproxy.app.engine_link import ENGINE
from guardproxy.app.guards import lowest, model_guards, with_cache
from guardproxy.app.peers import Peer, connected, listening
from guardproxy.app.serving import arguments_of_workers, log_as_configured, source_of
from guardproxy.app.workers import GROUP
from guardproxy.asking import Askers
from guardproxy.checkapi import call_of, verdict_fields, write_failure
from guardproxy.errors import ConfigError, GuardproxyError, GuardUnavailable
from guardproxy.guards.links import GuardIdentity
from guardproxy.guards.local import LocalGuard
from guardproxy.observe import Metrics
from guardproxy.observe.families import Families
from guardproxy.settings import Settings

log = structlog.get_logger("guardproxy")

# Seconds for which the workers can ask why the models cannot be loaded.
_FAILED_S: Final = 5.0


class EngineProcess:
    """Answers the workers of a group, whose `folder` has the sockets. `identify` says what a guard is once it runs."""

    def __init__(
        self, guards: Sequence[LocalGuard], identify: Callable[[LocalGuard], GuardIdentity], folder: Path
    ) -> None:
        self._folder = folder
        self._identify = identify
        self._guards = {guard.name: guard for guard in guards}
        self._cached = {guard.name: with_cache(guard) for guard in guards}  # what one worker has asked, all know
        self._identities: Mapping[str, GuardIdentity] = {}
        self._askers = Askers()
        self._metrics = Metrics(CollectorRegistry())
        self._metrics.queue_from(
            lambda: [(guard.stats.queued, guard.stats.expected_s) for guard in self._guards.values()]
        )

    async def run(self, ended: asyncio.Event) -> int:
        """Serve until `ended` is set; return the exit status."""
        self._starting = asyncio.create_task(self._start())
        server = await listening(self._folder, ENGINE, self._accept)
        ending = asyncio.create_task(ended.wait())
        await asyncio.wait([ending, self._starting], return_when=asyncio.FIRST_COMPLETED)
        if self._starting.done() and (failure := self._starting.exception()) is not None:
            log.error("engine_failed", error=str(failure))
            await asyncio.wait([ending], timeout=_FAILED_S)
            return 1
        scraping = asyncio.create_task(self._tell_metrics())
        await ending
        scraping.cancel()
        server.close()
        for guard in self._guards.values():
            await guard.close()
        return 0

    async def _start(self) -> None:
        for guard in self._guards.values():
            await guard.start()
        self._identities = {name: self._identify(guard) for name, guard in self._guards.items()}
        log.info("engine_ready", guards=[*self._guards], dtype=self._dtypes())

    def _dtypes(self) -> dict[str, str]:
        return {name: guard.dtype for name, guard in self._guards.items() if guard.dtype is not None}

    # --- for the workers ---------------------------------------------------------------------------------------------

    def _accept(self) -> Peer:
        return Peer({"loaded": self._loaded, "identity": self._said, "judge": self._judge, "forget": self._forget})

    async def _loaded(self, _: object) -> Mapping[str, str]:
        try:
            await asyncio.shield(self._starting)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"the guard cannot be started: {type(error).__name__}: {error}") from error
        return self._dtypes()

    async def _said(self, name: str) -> GuardIdentity | None:
        return self._identities.get(name)

    async def _judge(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        name, call = value["guard"], call_of(value["call"])
        self._askers.use(call.caller.client, call.caller.request, answered=call.caller.answered)
        try:
            verdict = await self._cached[name].judge(call.check)
            return {"verdict": verdict_fields(verdict), "version": self._identities[name].version}
        except GuardUnavailable as failure:
            return {"failure": (failure.status, write_failure(failure).decode())}

    async def _forget(self, value: Mapping[str, str]) -> None:
        self._cached[value["guard"]].forget(value["stream"])

    async def _tell_metrics(self) -> None:
        """Answer the parent's scrapes."""
        await (await connected(self._folder, GROUP, {"metrics": self._families})).run()

    async def _families(self, _: object) -> Families:
        return self._metrics.families()


def engine_of(settings: Settings, folder: Path, data_dir: str | None) -> EngineProcess:
    """The engine of a configuration. `data_dir` as for `members`."""
    floor = lowest(settings, floor_for(settings, alone=False))

    def identify(guard: LocalGuard) -> GuardIdentity:
        found = account(settings, guard, floor, data_dir)
        return GuardIdentity(guard.name, f"{found.taxonomy.id}@{found.taxonomy.version}", found.version, found.floor)

    return EngineProcess(model_guards(settings, floor=floor, data_dir=data_dir), identify, folder)


def main() -> int:
    """Run the engine with the arguments of the environment; return the exit status."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # meant for the parent, which ends this process last
        signal.signal(ignored, signal.SIG_IGN)
    arguments = arguments_of_workers()
    try:
        source = source_of(arguments)
        log_as_configured(source.file)
        engine = engine_of(source.file, Path(arguments["folder"]), source.data_dir)
    except GuardproxyError as error:
        sys.stderr.write(f"{error}\n")
        return 1

    async def serve() -> int:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()

        def wait() -> None:
            sys.stdin.buffer.read()
            loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=wait, name="parent", daemon=True).start()
        return await engine.run(ended)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve())


if __name__ == "__main__":
    STATUS = main()
    sys.stderr.flush()
    os._exit(STATUS)  # without Python's own end, as `guardproxy.cli.program`: a model may still be loaded
