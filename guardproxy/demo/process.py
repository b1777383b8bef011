"""Run the demo upstream as a child process."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, Queue

import structlog

from guardproxy.engine.wait_policy import set_passive_wait_policy
from guardproxy.errors import ConfigError

log = structlog.get_logger("guardproxy.demo")

_COMMAND = (sys.executable, "-m", "guardproxy.demo.server", "--port", "0", "--until-stdin-closes")


@contextmanager
def start_demo(command: Sequence[str] = _COMMAND, *, timeout_s: float = 300.0) -> Iterator[str]:
    """Start the demo upstream on a free loopback port and yield its URL; it ends with the context.

    `command` is a program that writes one line to standard output: its URL when it accepts requests, or the reason why
    it cannot. It must end when its standard input is closed. Raises ConfigError, with the reason, if it does not start.
    """
    set_passive_wait_policy()
    log.info("demo_starting", model="SmolLM2-135M-Instruct", hint="loading takes 10 to 60 seconds")
    process = subprocess.Popen(  # noqa: S603 - our own module, under our own interpreter
        command,
        env={**os.environ, "TQDM_DISABLE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C must reach only the proxy, which still has requests to answer
    )
    try:
        yield _url(process, timeout_s)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _url(process: subprocess.Popen[str], timeout_s: float) -> str:
    """Wait for the line that the process writes when it is ready; return the URL in it. Raises ConfigError."""
    lines: Queue[str] = Queue()
    output = process.stdout
    if output is None:
        raise RuntimeError("the process has no standard output to read")
    threading.Thread(target=lambda: lines.put(output.readline()), daemon=True).start()
    try:
        url = lines.get(timeout=timeout_s).strip()
    except Empty:
        raise ConfigError(f"the demo upstream was not ready within {timeout_s:g} s") from None
    if not url.startswith("http://"):
        raise ConfigError(url or f"the demo upstream ended with status {process.wait()}; its error is above")
    return url
