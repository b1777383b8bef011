"""The keeper of the engine process: it starts it again whatever ends it."""

import asyncio

import pytest

from guardproxy.app.engine_keeper import EngineKeeper
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
