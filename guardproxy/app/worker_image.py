"""What every worker imports, loaded once by the process from which all workers fork, so that they share its memory.

Only the process that forks imports this module. It runs no other thread, and nothing here opens a file or a connection.
"""

import gc
from contextlib import suppress

import aiosqlite  # noqa: F401
import certifi  # noqa: F401
import uvicorn.lifespan.on
import uvicorn.protocols.http.httptools_impl  # noqa: F401

from guardproxy import actions, families, sinks, wires
from guardproxy.app import serving  # noqa: F401
from guardproxy.errors import ConfigError
from guardproxy.registry import load

for _names, _kind in (
    (actions.REGISTRY, "action"),
    (families.REGISTRY, "family"),
    (sinks.REGISTRY, "store"),
    (wires.REGISTRY, "wire"),
):
    for _name in _names:
        with suppress(ConfigError):  # its extra is not installed, which a worker that needs it says
            load(_name, _names, _kind)

# A garbage collection in a worker would write to what they share, and so copy it.
gc.collect()
gc.freeze()
