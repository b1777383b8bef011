"""Full collections of garbage when no request is open.

A full collection visits every object that may be part of a cycle and stops the process meanwhile: 0.1 to 0.3 s once the
caches are full or a request of thousands of messages is open. Python starts one whenever enough new objects have
survived, which is in the middle of such a request. From 3.14 on, it collects in small steps.
"""

import asyncio
import gc
import sys
import time
from collections.abc import Callable

# Seconds between two looks at whether a collection is due; for which one that is due waits for a moment without open
# requests; after which all objects are visited again.
_LOOK_S = 0.5
_WAIT_S = 60.0
_ALL_S = 3600.0
_NEVER = 2**31 - 1


def leave_out_what_exists() -> None:
    """Leave the objects that exist now out of later collections: those of the libraries would be most of their time."""
    gc.collect()
    gc.freeze()


async def collect_between_requests(
    open_requests: Callable[[], int], *, look_s: float = _LOOK_S, wait_s: float = _WAIT_S, all_s: float = _ALL_S
) -> None:
    """Run the full collections that Python would run itself, when no request is open or after `wait_s`.

    What a collection finds in use while no request is open, caches above all, is left out of those of the next `all_s`
    seconds. Returns at once where Python collects in small steps, or another task does this already, and else never.
    """
    young, middle, old = gc.get_threshold()
    if sys.version_info >= (3, 14) or old == _NEVER:
        return
    gc.set_threshold(young, middle, _NEVER)
    all_at = time.monotonic() + all_s
    try:
        due_since: float | None = None
        while True:
            await asyncio.sleep(look_s)
            now = time.monotonic()
            if gc.get_count()[2] <= old:
                due_since = None
                continue
            due_since = due_since or now
            if not open_requests():
                if now >= all_at:
                    gc.unfreeze()
                    all_at = now + all_s
                leave_out_what_exists()
            elif now - due_since >= wait_s:
                gc.collect()
    finally:
        gc.set_threshold(young, middle, old)
