"""Work on long texts in a process of its own: a search through a long text keeps Python's lock to its end.

The process is started with the first text that is long enough, and serves one call after the other. It gets a function
of a module and its arguments, and answers with the result, each as a pickle behind its length. It ends with the process
that has started it. If it ends while it works, that call fails, and the next one starts another process.
"""

import asyncio
import atexit
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import IO, Any, ParamSpec, TypeVar

from guardproxy.errors import GuardUnavailable, Overloaded
from guardproxy.offload import MEDIUM, computed

P = ParamSpec("P")
T = TypeVar("T")

MOST_CALLS = 64
"""Calls that run or wait, each for a second or more; a further one is refused."""

TIMEOUT_S = 30.0
"""Seconds within which a call is answered, its wait for other calls included."""

_LENGTH_BYTES = 8


class Apart:
    """A process for long texts, and the thread that talks to it. `command` starts it; it ends when its input does.

    A call is answered within `timeout_s` seconds, its wait for other calls included.
    """

    def __init__(
        self,
        command: tuple[str, ...] = (sys.executable, "-P", "-m", "guardproxy.apart"),
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._command = command
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="apart")
        self._process: subprocess.Popen[bytes] | None = None
        self._working = threading.Lock()  # for the number of the call on which the process works, 0 if there is none
        self._works_on = 0
        self._numbers = count(1)
        self._free = threading.BoundedSemaphore(MOST_CALLS)
        atexit.register(self._end)  # behind the end of the thread

    async def computed(self, size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a pure function of a module returns, whose time grows with `size`; raise what it raises.

        Sizes up to MEDIUM stay in this process. Raises Overloaded beyond MOST_CALLS, and GuardUnavailable if the
        process does not start, ends before it has answered, or does not answer in time. A caller that is cancelled
        leaves a call that has begun to the thread.
        """
        if size <= MEDIUM:
            return await computed(size, function, *args, **kwargs)
        if not self._free.acquire(blocking=False):
            raise Overloaded(f"{MOST_CALLS} long texts wait for the process that reads them")
        number = next(self._numbers)
        call = self._thread.submit(self._call, number, function, args, kwargs)
        call.add_done_callback(lambda _: self._free.release())
        try:
            async with asyncio.timeout(self._timeout_s):
                result: T = await asyncio.wrap_future(call)
        except TimeoutError:
            self._stop(number)
            raise GuardUnavailable(f"a long text was not read within {self._timeout_s:g} s") from None
        return result

    def close(self) -> None:
        """End the process behind the calls that wait. A later call starts another one."""
        self._thread.submit(self._end).result()

    def _stop(self, number: int) -> None:
        """End the process if it works on a call."""
        with self._working:
            if self._works_on == number and self._process is not None:
                self._process.kill()

    def _call(self, number: int, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the process make a call. Runs on the thread."""
        request = pickle.dumps((function, args, kwargs), pickle.HIGHEST_PROTOCOL)
        try:
            process = self._process
            if process is None or process.poll() is not None:
                process = self._started()
            with self._working:
                self._works_on = number
            try:
                _send(process.stdin, request)
                has_failed, result = pickle.loads(_received(process.stdout))  # noqa: S301 - from our own process
            finally:
                with self._working:
                    self._works_on = 0
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


if __name__ == "__main__":
    # It ends with its input, behind the call that runs: whoever stops the service sends this signal to every process.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)  # nothing else may write between the answers
        serve(sys.stdin.buffer, output)
