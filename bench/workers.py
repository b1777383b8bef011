"""How many more requests two workers answer than one, if each has a core's share of its own.

    python -m bench.workers [--share 0.35] [--seconds 5] [--rounds 3]

Starts `guardproxy serve --workers 1` and `--workers 2` in front of an upstream that answers at once, with a guard of
one word (`family: patterns`), and sends whole replies from 32 clients. Clients and upstream run on the same machine, so
the kernel holds every worker to `share` of a core (a quota of its control group, version 1 or 2; it needs root), which
leaves them the rest. What two workers share (the port, the parent, the file of the configuration) is that of a server.
Below the table: the requests per second of two workers over those of one, of the rounds' medians.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.overhead import WHOLE, free_port, process, run_load
from bench.pages import machine

CLIENTS = 32
_PERIOD_US = 20_000
_START_S = 120.0
_CONFIG = """
version: 1
server: {{host: 127.0.0.1, port: {port}, workers: {workers}}}
upstream: {{url: "{upstream}"}}
guard: {{family: patterns, patterns: {{internal: {{words: [bluebird]}}}}}}
audit: {{store: none}}
policies:
  default: {{user: {{internal: {{block: 0.5}}}}, assistant: {{internal: {{block: 0.5}}}}}}
"""


@contextlib.contextmanager
def held(pid: int, share: float) -> Iterator[None]:
    """Hold a process to `share` of a core; exit if the kernel or the user's rights do not allow it."""
    root = Path("/sys/fs/cgroup")
    old = (root / "cpu").is_dir()
    group = (root / "cpu" if old else root) / f"guardproxy-bench-{pid}"
    try:
        group.mkdir()
        if old:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(int(share * _PERIOD_US)))
        else:
            (group / "cpu.max").write_text(f"{int(share * _PERIOD_US)} {_PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        sys.exit(f"cannot give process {pid} a quota of CPU time: {error}; run as root, with the cpu controller")
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            (group.parent / "cgroup.procs").write_text(str(pid))
        group.rmdir()


def children(pid: int, words: bytes = b"") -> list[int]:
    """The process ids of a process's children with these words in their command line."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in found if words in Path(f"/proc/{child}/cmdline").read_bytes()]


def serving(pid: int) -> list[int]:
    """The process ids of the workers of a server, which fork from a process of their own."""
    return [worker for forking in children(pid, b"multiprocessing.forkserver") for worker in children(forking)]


@contextlib.contextmanager
def server(workers: int, upstream: str, share: float) -> Iterator[str]:
    """`guardproxy serve` with that many workers, each held to `share` of a core; yields its URL."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        config = Path(folder) / "config.yaml"
        config.write_text(_CONFIG.format(port=port, workers=workers, upstream=upstream))
        command = [sys.executable, "-m", "guardproxy", "serve", "--config", str(config)]
        environment = {**os.environ, "GUARDPROXY_DATA": folder}
        log = Path(folder) / "log"
        with log.open("wb") as output:
            running = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder)
        stack.callback(running.wait, 60)
        stack.callback(running.terminate)
        until = time.monotonic() + _START_S
        while log.read_text().count('"event": "ready"') < workers:
            if running.poll() is not None or time.monotonic() > until:
                sys.exit(f"guardproxy serve with {workers} workers did not start:\n{log.read_text()}")
            time.sleep(0.2)
        for worker in serving(running.pid) if workers > 1 else [running.pid]:
            stack.enter_context(held(worker, share))
        yield f"http://127.0.0.1:{port}"


def main() -> None:
    """Parse the command line, measure in alternating rounds and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.35, help="of a core, for each worker")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=3, help="of each number of workers")
    args = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], 2: []}
    with process("upstream") as (upstream, _), contextlib.ExitStack() as stack:
        urls = {workers: stack.enter_context(server(workers, upstream, args.share)) for workers in rates}
        for url in urls.values():
            asyncio.run(run_load(url, WHOLE, CLIENTS, 1.0, 10**9))  # warm
        for _ in range(args.rounds):
            for workers, url in urls.items():
                began = time.perf_counter()
                answered = len(asyncio.run(run_load(url, WHOLE, CLIENTS, args.seconds, 10**9)))
                rates[workers].append(answered / (time.perf_counter() - began))
    print(f"{machine()}, each worker held to {args.share:g} of a core\n")
    print("| workers | requests/s, median | lowest | highest |\n|--:|--:|--:|--:|")
    for workers, found in rates.items():
        print(f"| {workers} | {statistics.median(found):.0f} | {min(found):.0f} | {max(found):.0f} |")
    print(f"\ntwo workers / one: {statistics.median(rates[2]) / statistics.median(rates[1]):.2f}")


if __name__ == "__main__":
    main()
