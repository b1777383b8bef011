"""Worker processes that fork from one process, which has imported what all of them need: they share its memory."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from socket import socket
from typing import Final

import uvicorn
from uvicorn.supervisors.multiprocess import Process

_FORKS: Final = multiprocessing.get_context("forkserver")
_IMAGE: Final = "guardproxy.app.worker_image"
# Meant for the parent: the process that forks never gets them, and a worker when it has begun.
_HELD: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
# Seconds between two looks at whether the process from which a worker was forked still runs.
_LOOK_S: Final = 1.0


class WorkerProcess(Process):
    """A worker as uvicorn's parent of workers knows one. uvicorn's own is a new interpreter that imports everything."""

    process: ForkServerProcess  # type: ignore[assignment]

    def __init__(self, config: uvicorn.Config, sockets: list[socket]) -> None:
        self.config = config
        self._server = None
        self.parent_conn, self.child_conn = Pipe()
        arguments = {"config": config, "target": self.target, "sockets": sockets}
        self.process = _FORKS.Process(target=_begin, kwargs=arguments)
        self.began = 0.0
        """When it was started, by the monotonic clock."""

    def start(self) -> None:
        """Start the worker, and the process from which workers fork if there is none.

        Raises OSError, or EOFError if that process ends meanwhile.
        """
        self.began = time.monotonic()
        _FORKS.set_forkserver_preload([_IMAGE])
        with _held():
            super().start()


@contextmanager
def _held() -> Iterator[None]:
    """Keep signals back here, and in a process that starts meanwhile until it takes them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(config: uvicorn.Config, target: Callable[..., None], sockets: list[socket]) -> None:
    """Run a worker, as uvicorn does, until its parent tells it to end or has ended. `target` serves on the sockets."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent reloads all workers
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), name="parent", daemon=True).start()
    config.configure_logging()
    with suppress(KeyboardInterrupt):  # the parent gets it as well, and ends its workers
        target(sockets=sockets)


def _end_with_parent(forked_from: int) -> None:
    """Have this process end when the parent of the workers, or the process that forks them, has ended without a word.

    Otherwise it would go on without the engine and without news of the configuration, and keep the port.
    """
    parent = multiprocessing.parent_process()
    watched = [] if parent is None else [parent.sentinel]
    while not wait(watched, _LOOK_S) and os.getppid() == forked_from:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
