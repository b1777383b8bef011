"""One timer for many waits: a server that stays silent, and a task that is cancelled."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from guardproxy.web.patience import Patience

Client = Callable[[asyncio.StreamReader], Awaitable[None]]


def with_silent_server(client: Client) -> None:
    """Run a client of a server that sends two bytes and then nothing until the client leaves."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ab")
        await reader.read()
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            try:
                await asyncio.wait_for(client(reader), 20)
            finally:
                writer.close()

    asyncio.run(run())


async def waited(patience: Patience, reader: asyncio.StreamReader, seconds: float) -> bytes | None:
    """The next byte; None if it did not come in time."""
    patience.begin(seconds)
    try:
        return await reader.readexactly(1)
    except asyncio.CancelledError:
        if not patience.is_over():
            raise
        return None
    finally:
        patience.end()


@pytest.mark.parametrize("first", [60.0, 0.01])
def test_the_wait_that_takes_too_long_ends(first: float) -> None:
    """Whether the waits before it had more time or less. The task goes on as if it had not been cancelled."""

    async def client(reader: asyncio.StreamReader) -> None:
        patience = Patience()
        assert await waited(patience, reader, 60) == b"a"
        assert await waited(patience, reader, first) in (b"b", None)
        for _ in range(2):
            began = asyncio.get_running_loop().time()
            assert await waited(patience, reader, 0.05) is None
            assert asyncio.get_running_loop().time() - began >= 0.05
        patience.close()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    with_silent_server(client)


def test_nothing_is_cancelled_between_waits() -> None:
    """The timer of a wait that has ended runs out while the task does something else."""

    async def client(reader: asyncio.StreamReader) -> None:
        patience = Patience()
        await waited(patience, reader, 0.01)
        await asyncio.sleep(0.05)
        patience.close()

    with_silent_server(client)


def test_a_task_that_others_cancel_is_cancelled() -> None:
    """That is no wait that took too long."""

    async def client(reader: asyncio.StreamReader) -> None:
        await reader.readexactly(2)
        task = asyncio.create_task(waited(Patience(), reader, 60))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_silent_server(client)
