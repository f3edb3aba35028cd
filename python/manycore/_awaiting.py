"""`await` and `async for` on a pool's results.

No thread waits for a task, and nothing is polled: the pool's own thread, which exists for callbacks anyway, tells the
event loop. All results that become ready while the loop is busy cost it one wake-up.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from . import _engine

__all__ = ["next_of", "result_of"]

_wakers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Waker] = weakref.WeakKeyDictionary()


class _Waker:
    """Tells one event loop which futures are done."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        # Not the futures themselves: they hold the loop, and a loop that is closed never comes to take them out.
        self._done: deque[weakref.ref[asyncio.Future[None]]] = deque()
        self._is_called = False

    def tell(self, future: asyncio.Future[None]) -> None:
        """Have `future` done; from any thread."""
        self._done.append(weakref.ref(future))
        if self._is_called:
            return
        loop = self._loop()
        if loop is None:
            return
        self._is_called = True
        try:
            loop.call_soon_threadsafe(self._settle)
        except RuntimeError:
            # The loop is closed, and nobody awaits in it.
            self._is_called = False

    def _settle(self) -> None:
        # Before the look: what comes after it calls again.
        self._is_called = False
        while self._done:
            future = self._done.popleft()()
            if future is not None and not future.done():
                future.set_result(None)


def _waker() -> tuple[asyncio.AbstractEventLoop, _Waker]:
    loop = asyncio.get_running_loop()
    waker = _wakers.get(loop)
    if waker is None:
        waker = _wakers[loop] = _Waker(loop)
    return loop, waker


def result_of(result: _engine.ApplyResult[Any]) -> Generator[Any, None, Any]:
    """Wait for `result` in the running event loop; the body of its `__await__`. To cancel the wait cancels the task."""
    loop, waker = _waker()
    future = loop.create_future()
    if result._when_done(lambda: waker.tell(future)):
        try:
            yield from future
        except asyncio.CancelledError:
            result.cancel()
            raise
    return result.get()


async def next_of(results: _engine.IMapIterator[Any]) -> Any:
    """Return the next of `results`, as its `__anext__` does. To cancel the wait cancels what is left."""
    loop, waker = _waker()
    while True:
        future = loop.create_future()
        # In this order: what arrives after the look wakes us.
        results._when_something_comes(lambda future=future: waker.tell(future))
        try:
            ready, value = results._next_if_ready()
        except StopIteration:
            raise StopAsyncIteration from None
        if ready:
            return value
        try:
            await future
        except asyncio.CancelledError:
            results.cancel()
            raise
