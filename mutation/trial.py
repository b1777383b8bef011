"""Runs the tests against mutants, in copies of the tree and in forked processes.

The copies lie in a temporary folder that is removed at the end. The parent process imports the libraries that the
tests need, but neither the package nor a test, so that a fork starts with torch loaded and imports the mutated code.
"""

import importlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutation.modules import PACKAGE

ROOT = Path(__file__).parent.parent
# Bytes that a run may allocate beside those that it inherits: a mutant may be an endless loop that fills a list.
MEMORY = 4 * 1024**3
_FLAGS = ("-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
# A run is killed after so many times the unchanged one and so many seconds more, because other work shares the machine.
# A test fails after as many times the slowest unchanged test and some seconds more: the cost of an endless loop.
PATIENCE, GRACE_S, GRACE_OF_A_TEST_S = 4, 20, 5
_LIBRARIES, _OUTPUT, _SLOWEST = "libraries.txt", "output.txt", "slowest.txt"
_KILLED, _PASSED = 1, 0


@dataclass(slots=True)
class _Run:
    pid: int
    item: int
    deadline: float


@dataclass(slots=True)
class Trial:
    """The copies of the tree, a lane for each run at a time, and the runs in them."""

    lanes: tuple[Path, ...]
    _running: dict[Path, _Run] = field(default_factory=dict)
    _slowest: dict[tuple[str, ...], float] = field(default_factory=dict)  # seconds of the slowest of these tests

    def baseline(self, tests: Sequence[str]) -> float:
        """Return the seconds that the tests take on the unchanged source. Raises RuntimeError if one fails.

        The run writes the lane's caches of compiled modules, and lists the libraries to import ahead of the next runs.
        """
        for lane in self.lanes:
            began = time.monotonic()
            self._start(lane, 0, tests, 1200, caches=True)
            if self._wait() != (0, True):
                output = (lane / _OUTPUT).read_text()
                raise RuntimeError(f"{output}\nthe tests fail on the unchanged source: {' '.join(tests)}")
            took = time.monotonic() - began
            self._slowest[tuple(tests)] = float((lane / _SLOWEST).read_text())
            _import_ahead((lane / _LIBRARIES).read_text().splitlines())
        return took

    def source(self, module: str) -> str:
        """Return the unchanged source of a module, as it was when the tree was copied."""
        return (self.lanes[0] / PACKAGE / module).read_text()

    def survivors(self, module: str, sources: Sequence[str], tests: Sequence[str], limit: float) -> list[int]:
        """Return the indices of the sources with which all tests pass. A run beyond `limit` seconds is a failure."""
        original = self.source(module)
        alive: list[int] = []
        waiting = list(range(len(sources)))
        while waiting or self._running:
            while waiting and (free := [lane for lane in self.lanes if lane not in self._running]):
                item = waiting.pop(0)
                (free[0] / PACKAGE / module).write_text(sources[item])
                self._start(free[0], item, tests, limit, caches=False)
            item, passed = self._wait()
            alive += [item] if passed else []
        for lane in self.lanes:
            (lane / PACKAGE / module).write_text(original)
        return sorted(alive)

    def stop(self) -> None:
        """End the runs that go on."""
        for run in self._running.values():
            _end(run.pid)

    def _start(self, lane: Path, item: int, tests: Sequence[str], limit: float, caches: bool) -> None:
        pid = os.fork()
        if pid == 0:
            slowest = self._slowest.get(tuple(tests), limit)
            _run_tests(lane, tests, PATIENCE * slowest + GRACE_OF_A_TEST_S, caches)
        self._running[lane] = _Run(pid, item, time.monotonic() + limit)

    def _wait(self) -> tuple[int, bool]:
        """Return the item of the next run that ends, and whether its tests passed."""
        while True:
            for lane, run in list(self._running.items()):
                pid, status = os.waitpid(run.pid, os.WNOHANG)
                late = time.monotonic() > run.deadline
                if pid or late:
                    del self._running[lane]
                    _end(run.pid, reap=not pid)
                    return run.item, bool(pid) and os.waitstatus_to_exitcode(status) == _PASSED
            time.sleep(0.01)


@contextmanager
def copies(lanes: int) -> Iterator[Trial]:
    """Copy the tree once for each lane into a temporary folder, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        root = Path(folder)
        trial = Trial(tuple(root / str(lane) for lane in range(lanes)))
        for lane in trial.lanes:
            _copy(lane)
        try:
            yield trial
        finally:
            trial.stop()


def _copy(lane: Path) -> None:
    """Copy the code; link to everything else, which no test writes to."""
    lane.mkdir()
    skip = shutil.ignore_patterns("__pycache__", "weights")
    for path in ROOT.iterdir():
        if path.name in {PACKAGE, "tests"}:
            shutil.copytree(path, lane / path.name, ignore=skip)
        elif path.name[:1] != ".":
            (lane / path.name).symlink_to(path)
    (lane / PACKAGE / "weights").symlink_to(ROOT / PACKAGE / "weights")


def _import_ahead(names: Sequence[str]) -> None:
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(name)
        except Exception:  # noqa: BLE001 - a name that cannot be imported alone is imported by the tests
            continue


def _end(pid: int, reap: bool = True) -> None:
    """Kill a run and the processes that it started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if reap:
        os.kill(pid, signal.SIGKILL)  # it may not have a group of its own yet
        os.waitpid(pid, 0)


class _Slowest:
    """A plugin of pytest that notes the seconds of the slowest test."""

    seconds = 0.0

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Compare the duration of a test's set-up, call or end."""
        self.seconds = max(self.seconds, report.duration)


def _run_tests(lane: Path, tests: Sequence[str], limit: float, caches: bool) -> None:
    """Run the tests in this process, a fork, and exit. A test that takes longer than `limit` seconds fails."""
    code = _KILLED
    try:
        os.setsid()
        _prepare(lane, caches)
        import pytest  # noqa: PLC0415 - the parent imports it ahead, when it knows that it is needed

        slowest = _Slowest()
        code = _PASSED if pytest.main([*_FLAGS, "-o", f"timeout={limit:.0f}", *tests], [slowest]) == 0 else _KILLED
        if caches:
            (lane / _SLOWEST).write_text(str(slowest.seconds))
            (lane / _LIBRARIES).write_text("\n".join(_libraries()))
    finally:
        sys.stdout.flush()
        os._exit(code)


def _prepare(lane: Path, caches: bool) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    limit = _inherited() + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.dont_write_bytecode = not caches
    sys.path[:] = [str(lane), *(path for path in sys.path if path and Path(path).resolve() != ROOT)]
    os.environ["PYTHONPATH"] = str(lane)
    os.chdir(lane)
    output = os.open(_OUTPUT if caches else os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for name in [name for name in sys.modules if name.split(".")[0] in {PACKAGE, "tests"}]:
        del sys.modules[name]
    from hypothesis import Phase, settings  # noqa: PLC0415 - as above

    # The same examples in every run, nothing on the disk, and no time for the smallest counterexample.
    quick = settings(derandomize=True, database=None, phases=(Phase.explicit, Phase.generate))
    settings.register_profile("mutation", quick)
    settings.load_profile("mutation")


def _inherited() -> int:
    """The bytes of data that this process has from the one that it is a fork of; 0 if the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii", errors="replace").splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")), 0)


def _libraries() -> list[str]:
    own = (PACKAGE, "tests", "mutation", "bench", "training", "__main__")
    return [name for name in list(sys.modules) if name.split(".")[0] not in own]
