"""What the workers of one server know together: over real sockets, with the parent's memory behind them."""

import asyncio
from pathlib import Path
from typing import Any

from guardproxy.app.group_state import GroupState, KeptState
from guardproxy.app.peers import Peer, connected, listening


def same(value: Any) -> Any:
    """Reads a value as it is."""
    return value


def test_one_worker_knows_what_another_has_put(tmp_path: Path) -> None:
    """By kind and key; when the parent has gone, a worker knows nothing of the others, and goes on."""

    async def run() -> None:
        parent = KeptState()
        accepted: list[Peer] = []

        def accept() -> Peer:
            accepted.append(Peer(parent.handlers))
            return accepted[-1]

        server = await listening(tmp_path, "workers", accept)
        peers = [await connected(tmp_path, "workers", {}) for _ in range(2)]
        one, other = (GroupState(peer.call) for peer in peers)
        assert await other.get("withheld", b"resp_1", same) is None
        await one.put("withheld", b"resp_1", ["resp_0", True])
        await one.put("passed", b"resp_1", "default")
        assert await other.get("withheld", b"resp_1", same) == ["resp_0", True]
        assert await other.get("passed", b"resp_1", same) == "default"
        server.close()
        running = [asyncio.create_task(peer.run()) for peer in accepted]
        await asyncio.sleep(0)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await one.put("withheld", b"resp_2", ["", True])
        assert await other.get("withheld", b"resp_2", same) is None

    asyncio.run(run())
