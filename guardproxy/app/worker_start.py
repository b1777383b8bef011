"""The beginning of a worker process, before it imports what it serves."""

import signal

from starlette.types import ASGIApp


def worker() -> ASGIApp:
    """The application of a worker. While it is made, SIGTERM ends the process at once: nothing is served yet.

    uvicorn has set its own handler before, which waits until the application is there: seconds on a busy machine.
    """
    of_server = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from guardproxy.app import serving  # noqa: PLC0415 - it takes most of the time

    app = serving.worker()
    signal.signal(signal.SIGTERM, of_server)
    return app
