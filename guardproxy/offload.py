"""Work whose time grows with the size of a text: beyond a size it runs on a thread, so that the event loop goes on.

The threads share Python's lock with the loop, which gets it back within 5 ms as long as they run Python code. A single
call into C keeps it to its end, so such calls have bounds of their own (`limits.values`).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Characters or bytes that the event loop works on itself: a few milliseconds.
ON_LOOP = 8 * 1024
# Up to this size, work does not wait behind the work of larger requests.
MEDIUM = 128 * 1024

# One thread each: more of them would only compete for Python's lock, and the loop would wait for each of them.
_MEDIUM_POOL = ThreadPoolExecutor(1, thread_name_prefix="medium")
_LARGE_POOL = ThreadPoolExecutor(1, thread_name_prefix="large")
_ASIDE_POOL = ThreadPoolExecutor(1, thread_name_prefix="aside")


async def computed(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what a pure function returns, whose time grows with `size`; raise what it raises."""
    if size <= ON_LOOP:
        return function(*args, **kwargs)
    pool = _MEDIUM_POOL if size <= MEDIUM else _LARGE_POOL
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*args, **kwargs))


async def computed_aside(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same on a thread that no request keeps busy: for what others wait for, such as a transaction."""
    if size <= ON_LOOP:
        return function(*args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_ASIDE_POOL, lambda: function(*args, **kwargs))
