"""What the tests assert of each fault: the answer, the records, the metrics, and what the proxy holds afterwards."""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from guardproxy.types import Record
from tests.faults.stand import Counts, Got, Proxy
from tests.faults.table import Fault
from tests.kit import until

_NUMBERS = itertools.count()
# An idle connection of the guard's service or of the upstream is kept for some seconds: sockets may differ by those.
_POOLED = 10


def ask(model: str, text: str = "", *, stream: bool = False) -> dict[str, Any]:
    """A chat request with one user turn, whose text is new: no verdict comes from the cache."""
    text = f"{text or 'when does it open'}, number {next(_NUMBERS)}"
    return {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}


class Watched:
    """A fault while it happens to a proxy."""

    def __init__(self, proxy: Proxy, fault: Fault) -> None:
        self._proxy = proxy
        self._fault = fault

    def answered(self, got: Got) -> None:
        """The client has what it must get, and the store what it must have."""
        fault = self._fault
        assert got.status == fault.status, got
        if fault.end == "closed":
            assert not got.body
            return
        if fault.end == "error event":
            event, _, data = got.body.decode().rpartition("event: error\ndata: ")
            assert not got.ended
            assert json.loads(data)["error"]["code"] == fault.code
            assert "content_filter" not in event
        elif fault.end == "refused":
            assert got.ended
            assert b'"finish_reason":"content_filter"' in got.body
            assert got.body.endswith(b"data: [DONE]\n\n") == fault.stream
        elif fault.end == "unended":
            assert got.ended
            assert b'"stop"' not in got.body
            assert b"DONE" not in got.body
        elif fault.code:
            assert json.loads(got.body)["error"]["code"] == fault.code
        else:
            assert got.ended
            assert b'"stop"' in got.body
        self.recorded(got.request_id)

    def recorded(self, request_id: str) -> list[Record]:
        """The records of the request, once there are as many as there must be."""
        expected = sorted(self._fault.records)

        def found() -> bool:
            return sorted(map(told, self._proxy.records_of(request_id))) == expected

        until(found, f"{self._fault.name}: {list(map(told, self._proxy.records_of(request_id)))}")
        return self._proxy.records_of(request_id)


def told(record: Record) -> str:
    """A record as the table says it."""
    whole = record.complete or record.side == "user"
    return f"{record.side} {record.outcome}" + ("" if whole else " incomplete")


@contextmanager
def watched(proxy: Proxy, fault: Fault) -> Iterator[Watched]:
    """A fault: its metrics grow, and then the proxy holds no more than before."""
    before = {name: proxy.metric(name) for name in fault.metrics}
    held = proxy.counts()
    yield Watched(proxy, fault)
    for name, value in before.items():
        until(lambda name=name, value=value: proxy.metric(name) > value, f"{fault.name}: {name} did not grow")  # type: ignore[misc]
    until(lambda: is_back(proxy, held), f"{fault.name}: held {held} before, and {proxy.counts()} now")
    assert proxy.process.poll() is None


def is_back(proxy: Proxy, before: Counts) -> bool:
    """Whether a proxy holds no more than before."""
    now = proxy.counts()
    fewer = now.held_bytes == 0 and now.streams == 0 and now.tasks <= before.tasks
    return fewer and now.sockets <= before.sockets + _POOLED


def found_by_text(proxy: Proxy, text: str) -> str:
    """The id of the request whose user turn has this text, empty as long as it has no record."""
    return next((one.origin.request_id for one in proxy.records() if one.text == text), "")
