"""A lock that an exception out of a signal's handler cannot leave taken."""

from __future__ import annotations

import _thread
import sys

__all__ = ["RLock"]

if sys.version_info >= (3, 14):

    class RLock(_thread.RLock):
        """A re-entrant lock for `with`.

        From CPython 3.14 on, a signal's handler may run between the call of a compiled `__enter__` and the block whose
        end would release the lock. When it raises then, nobody releases. After a call of a function that is written in
        Python there is no such moment, and inside of it the exception can be caught. `__exit__` stays the compiled one:
        it releases before any handler runs.
        """

        def __enter__(self) -> bool:
            before = self._recursion_count()  # type: ignore[attr-defined]
            try:
                return self.acquire()
            except BaseException:
                if self._recursion_count() > before:  # type: ignore[attr-defined]
                    self.release()
                raise

else:
    RLock = _thread.RLock
