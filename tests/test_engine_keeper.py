"""The keeper of the engine process: it starts it again whatever ends it. The workers: they wait for it."""

import asyncio
from pathlib import Path

import pytest

from guardproxy.app.engine_keeper import EngineKeeper
from guardproxy.app.engine_link import ENGINE, SERVED, EngineConnection
from guardproxy.app.peers import Peer, listening
from guardproxy.errors import ConfigError
from tests.kit import eventually


@pytest.mark.parametrize("command", [("/nowhere/python",), ("/bin/sh", "-c", "exit 7")])
def test_what_has_ended_or_cannot_be_started_is_started_again(command: tuple[str, ...]) -> None:
    """Also if the system has no process left: otherwise no check would ever be judged again."""

    async def run() -> None:
        keeper = EngineKeeper(command)
        keeping = asyncio.create_task(keeper.keep())
        await eventually(lambda: keeper.families()[0][3][0][2] >= 2)
        assert not keeping.done()
        keeping.cancel()
        await asyncio.wait([keeping])
        await keeper.close()

    asyncio.run(run())


@pytest.mark.parametrize("served", [False, True])
def test_an_engine_that_cannot_load_ends_no_worker_once_one_was_ready(tmp_path: Path, served: bool) -> None:
    """At the first start its reason is the answer. Later the worker asks again: the file may come back."""
    asked = []

    async def loaded(_: object) -> dict[str, str]:
        asked.append(1)
        if len(asked) < 3:
            raise ConfigError("the weights are gone")
        return {"embedded": "float32"}

    async def run() -> None:
        server = await listening(tmp_path, ENGINE, lambda: Peer({"loaded": loaded}))
        connection = EngineConnection(tmp_path)
        if served:
            (tmp_path / SERVED).touch()
            await connection.loaded()
            assert connection.dtypes == {"embedded": "float32"}
        else:
            with pytest.raises(ConfigError, match="the weights are gone"):
                await connection.loaded()
        await connection.close()
        server.close()

    asyncio.run(run())
    assert len(asked) == (3 if served else 1)
