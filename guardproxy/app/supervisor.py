"""The parent of several worker processes: it starts them, and replaces one that has ended or answers no ping."""

import signal
import time
from collections.abc import Callable
from typing import Final

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from guardproxy.app.forking import WorkerProcess

_log = structlog.get_logger("guardproxy.serving")

# A worker that ends within so many seconds would soon end again: so many pass before the next one starts.
_BRIEF_S: Final = 5.0


class Supervisor(Multiprocess):
    """uvicorn's parent of workers, which never waits for one. SIGHUP calls `reload`.

    uvicorn's own waits for the answer to a ping. A worker that is killed meanwhile never answers, and for as long the
    parent neither replaces it nor acts on a signal.
    """

    processes: list[WorkerProcess]  # type: ignore[assignment]

    def __init__(self, config: uvicorn.Config, reload: Callable[[], None]) -> None:
        super().__init__(config, [config.bind_socket()])
        self._asked_at: dict[Process, float] = {}
        self._not_before = 0.0
        # At once: uvicorn's own handler would restart the workers in turn.
        signal.signal(signal.SIGHUP, lambda *_: reload())

    def init_processes(self) -> None:
        """Start as many workers as are wanted and not there. What fails is logged, and tried again later."""
        while len(self.processes) < self.processes_num and time.monotonic() >= self._not_before:
            worker = WorkerProcess(self.config, self.sockets)
            try:
                worker.start()
            except (OSError, EOFError) as error:  # there is no memory or no process left, perhaps for a moment
                _log.error("worker_not_started", error=f"{type(error).__name__}: {error}", again_s=_BRIEF_S)
                self._not_before = time.monotonic() + _BRIEF_S
                return
            self.processes.append(worker)

    def handle_ttin(self) -> None:
        """One worker more."""
        self.processes_num += 1

    def keep_subprocess_alive(self) -> None:
        """Ping each worker. Replace those that have ended, or not answered within the configuration's time-out.

        A worker that could not start ends the parent as well: the next one could not either.
        """
        if self.should_exit.is_set():
            return
        for process in list(self.processes):
            if process.process.is_alive() and self._answers(process):
                continue
            process.kill()
            process.join()
            self._asked_at.pop(process, None)
            if process.exitcode == STARTUP_FAILURE:
                self.should_exit.set()
                return
            _log.error("worker_ended", pid=process.pid, status=process.exitcode)
            self.processes.remove(process)
            if time.monotonic() < process.began + _BRIEF_S:
                self._not_before = time.monotonic() + _BRIEF_S
        self.init_processes()

    def _answers(self, process: Process) -> bool:
        """Whether a worker has answered each ping in time, as far as can be said now. Sends the next one."""
        now = time.monotonic()
        try:
            if process in self._asked_at:
                if not process.parent_conn.poll():
                    return now - self._asked_at[process] < self.config.timeout_worker_healthcheck
                process.parent_conn.recv()
            process.parent_conn.send(b"ping")
        except (OSError, EOFError):
            return False
        self._asked_at[process] = now
        return True
