"""Work on long texts in processes of their own: a search through a long text keeps Python's lock to its end.

A process is started with the first text that is long enough, and serves one call after the other. It gets a function
of a module and its arguments, and answers with the result, each as a pickle behind its length. It ends with the process
that has started it. If it ends while it works, that call fails, and the next one starts another process.
"""

import asyncio
import atexit
import os
import pickle
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import IO, Any, ParamSpec, TypeVar

from guardproxy.asking import Asker, current_asker
from guardproxy.errors import GuardUnavailable, JudgingTooLong, Overloaded
from guardproxy.offload import MEDIUM, computed

P = ParamSpec("P")
T = TypeVar("T")

MOST_CALLS = 64
"""Calls that wait for a process, each for a second or more."""

LONGER = 2 * MEDIUM
"""Beyond this size, a call is for another process: one may take as long as a check may."""

_LENGTH_BYTES = 8


@dataclass(slots=True, eq=False)
class _LongCall:
    """A call that waits or runs. `deadline` and `queued` are of `time.monotonic`.

    `own_s`: the seconds that calls of the same request had taken when it was queued.
    """

    work: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
    asker: Asker
    timeout_s: float
    deadline: float
    own_s: float
    queued: float = field(default_factory=time.monotonic)
    future: Future[Any] = field(default_factory=Future)

    def late(self) -> GuardUnavailable:
        """The failure of a call without an answer at its deadline.

        The request takes too long if its own calls ran for at least as long as others let it wait.
        """
        own_s = self.asker.apart_s - self.own_s
        if own_s < self.deadline - self.queued - own_s:
            return Overloaded(f"other long texts were read first, for the {self.timeout_s:g} s of guard.timeout_s")
        self.asker.refused = f"judging takes longer than guard.timeout_s: a text was not read in {self.timeout_s:g} s"
        return JudgingTooLong(self.asker.refused)


class _LongCalls:
    """The calls that wait: in turn those of each client, and of a client in turn those of each request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # event loops add calls, the thread takes them
        self._clients: OrderedDict[str, OrderedDict[Asker, deque[_LongCall]]] = OrderedDict()

    def add(self, call: _LongCall) -> None:
        """Queue a call. If there are too many, the last one of the client with the most fails with Overloaded."""
        with self._lock:
            requests = self._clients.setdefault(call.asker.client, OrderedDict())
            requests.setdefault(call.asker, deque()).append(call)
            counts = {client: _count(requests) for client, requests in self._clients.items()}
            if sum(counts.values()) <= MOST_CALLS:
                return
            most = max(counts.values())
            client = call.asker.client if counts[call.asker.client] == most else max(counts, key=lambda c: counts[c])
            dropped = self._take(client, -1)
        if dropped.future.set_running_or_notify_cancel():
            dropped.future.set_exception(Overloaded(f"{MOST_CALLS} long texts wait for the process that reads them"))

    def next(self) -> _LongCall | None:
        """The call that is served next; None if none waits."""
        with self._lock:
            if not self._clients:
                return None
            client = next(iter(self._clients))
            call = self._take(client, 0)
            if client in self._clients:
                self._clients.move_to_end(client)
            return call

    def remove(self, call: _LongCall) -> None:
        """Take a call out, if it waits: its caller does not."""
        with self._lock:
            requests = self._clients.get(call.asker.client)
            if requests is not None and call in requests.get(call.asker, ()):
                requests[call.asker].remove(call)
                self._forget(call)

    def _take(self, client: str, place: int) -> _LongCall:
        """Take out a call of the request that a client has first, or last; the request is the client's last then."""
        requests = self._clients[client]
        asker = next(iter(requests)) if place == 0 else next(reversed(requests))
        call = requests[asker].popleft() if place == 0 else requests[asker].pop()
        if requests[asker] and place == 0:
            requests.move_to_end(asker)
        self._forget(call)
        return call

    def _forget(self, call: _LongCall) -> None:
        """Drop a request and a client without calls."""
        requests = self._clients[call.asker.client]
        if not requests[call.asker]:
            del requests[call.asker]
        if not requests:
            del self._clients[call.asker.client]


def _count(requests: OrderedDict[Asker, deque[_LongCall]]) -> int:
    return sum(map(len, requests.values()))


class Apart:
    """Two processes for long texts, one of them for longer ones, each with a thread that talks to it.

    `command` starts a process; it ends when its input does.
    """

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-P", "-m", "guardproxy.apart")) -> None:
        self._lanes = (_Lane(command), _Lane(command))

    async def computed(
        self, timeout_s: float, size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what a pure function of a module returns, whose time grows with `size`; raise what it raises.

        Sizes up to MEDIUM stay in this process. A call has what its request has left of `timeout_s` seconds, its wait
        included; then its process is ended. Raises JudgingTooLong if the request itself takes longer, Overloaded if
        others do or too many wait, and GuardUnavailable if the process does not start or ends before it has answered.
        A caller that is cancelled leaves a call that has begun to its process, until the same time.
        """
        if size <= MEDIUM:
            return await computed(size, function, *args, **kwargs)
        asker = current_asker()
        if asker.refused:
            raise JudgingTooLong(asker.refused)
        deadline = time.monotonic() + timeout_s
        if asker.admitted and not asker.answered:
            deadline = asker.admitted + timeout_s
        call = _LongCall((function, args, kwargs), asker, timeout_s, deadline, asker.apart_s)
        result: T = await self._lanes[size > LONGER].answer(call)
        return result

    def close(self) -> None:
        """End the processes, with the calls that run. A later call starts another one."""
        for lane in self._lanes:
            lane.close()


class _Lane:
    """A process, and the thread that talks to it, which alone uses it."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting = _LongCalls()
        self._turns: queue.SimpleQueue[None] = queue.SimpleQueue()  # one for every call, some of which are gone
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        atexit.register(self.close)

    async def answer(self, call: _LongCall) -> Any:
        """Return what a call returns, or raise what it raises, in time."""
        self._waiting.add(call)
        self._turns.put(None)
        answer = asyncio.wrap_future(call.future)
        try:
            self._start()
            await asyncio.wait({answer}, timeout=call.deadline - time.monotonic())
            # The thread ends a call that has begun.
            if not answer.done() and call.future.cancel():
                raise call.late()
            return await answer
        finally:
            call.future.cancel()
            self._waiting.remove(call)

    def close(self) -> None:
        if (process := self._process) is not None:
            process.kill()
            process.wait()

    def _start(self) -> None:
        """Start the thread, once. Nothing waits for it when the interpreter ends: a call may take long."""
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._serve, name="apart", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise GuardUnavailable(f"long texts cannot be read: {error}") from None
                self._thread = thread

    def _serve(self) -> None:
        while True:
            self._turns.get()
            call = self._waiting.next()
            if call is not None and call.future.set_running_or_notify_cancel():
                self._settle(call)

    def _settle(self, call: _LongCall) -> None:
        try:
            result = self._answer(call)
        except Exception as error:  # noqa: BLE001 - the caller gets it
            call.future.set_exception(error)
        else:
            call.future.set_result(result)

    def _answer(self, call: _LongCall) -> Any:
        if call.asker.refused:
            raise JudgingTooLong(call.asker.refused)
        request = pickle.dumps(call.work, pickle.HIGHEST_PROTOCOL)
        began = time.monotonic()
        try:
            process = self._process
            if process is None or process.poll() is not None:
                process = self._started()
            _send(process.stdin, request)
            in_time = _is_readable(process.stdout, call.deadline - time.monotonic())
            call.asker.apart_s += time.monotonic() - began
            if not in_time:
                self._end()
                raise call.late()
            has_failed, result = pickle.loads(_received(process.stdout))  # noqa: S301 - from our own process
        except (OSError, EOFError) as error:
            self._end()
            raise GuardUnavailable(f"the process that reads long texts has ended ({error or 'no answer'})") from None
        if has_failed:
            raise result
        return result

    def _started(self) -> subprocess.Popen[bytes]:
        self._end()
        # A session of its own: Ctrl-C must reach only the proxy, which still has requests to answer.
        self._process = subprocess.Popen(  # noqa: S603 - our own module, under our own interpreter
            self._command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _is_readable(stream: IO[bytes] | None, timeout_s: float) -> bool:
    """Whether an answer, or the end of the process, comes within some seconds."""
    if stream is None:
        raise EOFError
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout_s) * 1000))


def _send(stream: IO[bytes] | None, data: bytes) -> None:
    if stream is None:
        raise EOFError
    stream.write(len(data).to_bytes(_LENGTH_BYTES))
    stream.write(data)
    stream.flush()


def _received(stream: IO[bytes] | None) -> bytes:
    """Read what `_send` has written. Raises EOFError if the other side has ended."""
    head = b"" if stream is None else stream.read(_LENGTH_BYTES)
    size = int.from_bytes(head)
    data = b"" if stream is None else stream.read(size)
    if len(head) < _LENGTH_BYTES or len(data) < size:
        raise EOFError
    return data


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Make the calls that come, until the input ends."""
    while True:
        try:
            function, args, kwargs = pickle.loads(_received(requests))  # noqa: S301 - from the process that started this
        except EOFError:
            return
        try:
            answer = (False, function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the caller gets it
            answer = (True, error)
        _send(answers, pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))


def _end_with(requests: IO[bytes]) -> None:
    """End this process as soon as nobody can write requests any more, also in the middle of a call."""
    poll = select.poll()
    poll.register(requests, 0)  # reports the end alone
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    # It ends with its input: whoever stops the service sends this signal to every process.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=[sys.stdin.buffer], daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)  # nothing else may write between the answers
        serve(sys.stdin.buffer, output)
