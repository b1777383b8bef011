"""The memory of `guardproxy serve` with the embedded guard: with one worker, and with four that share one engine.

    python -m bench.worker_memory [--workers 1 4] [--seconds 15]

Sends whole replies with new turns from eight clients, in front of an upstream that answers at once. Then it reads the
proportional set size (PSS, MB) of every process of the server from `/proc/PID/smaps_rollup`: of a page that processes
share, each has a part. Below the table: the memory with the most workers over that with the fewest.
"""

import argparse
import asyncio
import contextlib
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.overhead import FRESH, free_port, process, run_load
from bench.pages import machine
from bench.workers import started

_CLIENTS = 8


@contextlib.contextmanager
def server(workers: int, upstream: str) -> Iterator[tuple[str, int]]:
    """`guardproxy serve` with that many workers; yields its URL and the id of its first process."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--upstream", upstream, "--port", str(port), "--workers", str(workers)]
        with started(options, workers, folder) as pid:
            yield f"http://127.0.0.1:{port}", pid


def processes(pid: int) -> list[int]:
    """A process and all that descend from it, whichever thread has started them."""
    below = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return [pid, *(other for child in below for other in processes(int(child)))]


def pss_mb(pid: int) -> float:
    """The proportional set size of a process in MB."""
    found = re.search(r"^Pss:\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    if found is None:
        sys.exit(f"the kernel tells no proportional set size of process {pid}")
    return int(found[1]) / 1000


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seconds", type=float, default=15.0, help="of load before the measurement")
    args = parser.parse_args()
    totals: dict[int, float] = {}
    print(f"{machine()}\n\n| workers | PSS in MB | of each process, largest first |\n|--:|--:|---|")
    for workers in args.workers:
        with process("upstream") as (upstream, _), server(workers, upstream) as (url, pid):
            asyncio.run(run_load(url, FRESH, _CLIENTS, args.seconds, 10**9))
            sizes = sorted((pss_mb(each) for each in processes(pid)), reverse=True)
        totals[workers] = sum(sizes)
        print(f"| {workers} | {sum(sizes):,.0f} | {', '.join(f'{size:,.0f}' for size in sizes)} |", flush=True)
    print(f"\n{max(totals)} workers / {min(totals)}: {totals[max(totals)] / totals[min(totals)]:.2f}")


if __name__ == "__main__":
    main()
