"""The main module of a package, a folder or an archive, in a child that may not need it."""

from __future__ import annotations

import _thread
import sys

from . import _forks, _main_guard, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["LateMain"]


class LateMain(type(sys)):  # type: ignore[misc]
    """Stands for the `__main__.py` of a package, a folder or an archive, and becomes it when a name in it is asked for.

    Not before: by custom such a file has no guard, and often it defines nothing that others need. The standard package
    never runs it in a child, which then cannot find what it defines. `above`, if not None, is the line of the statement
    that starts processes: only what stands above it is run.
    """

    def __init__(self, name: str, folder: str | None, above: int | None) -> None:
        super().__init__("__mp_main__")
        self._manycore_late: dict[str, str] = {"init_main_from_name": name}
        if folder is not None:
            self._manycore_late["init_main_from_folder"] = folder
        if above is not None:
            self._manycore_ends_at = above
        self._begun = False
        self._lock = _thread.RLock()
        _forks.renew(self, lambda main: main._lock._at_fork_reinit())

    def __getattr__(self, name: str) -> Any:
        if not (name.startswith(("__", "_manycore_"))):
            with self._lock:
                if not self._begun:
                    self._begun = True
                    self._load()
                if name in self.__dict__:
                    return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def _load(self) -> None:
        name, folder = self._manycore_late["init_main_from_name"], self._manycore_late.get("init_main_from_folder")
        if folder is None:
            import importlib.util

            spec = importlib.util.find_spec(name)
        else:
            import pkgutil

            finder: Any = pkgutil.get_importer(folder)
            spec = None if finder is None else finder.find_spec(name)
        if spec is None:
            return
        loader: Any = spec.loader
        line = self.__dict__.get("_manycore_ends_at")
        source = None if line is None else loader.get_source(name)
        if line is not None and source is not None:
            code = _main_guard.code_above(source, spec.origin or name, line)
        else:
            code = loader.get_code(name)
        if code is None:
            return
        self.__dict__.update(__file__=spec.origin, __package__=spec.parent, __loader__=spec.loader, __spec__=spec)
        current = process.current_process()
        inheriting = getattr(current, "_inheriting", False)
        # It may start no process, as a program without a guard would.
        current._inheriting = True  # type: ignore[attr-defined]
        try:
            if source is None:
                exec(code, self.__dict__)
            else:
                _main_guard.run_quietly(lambda: exec(code, self.__dict__))
        except SystemExit:
            # The end of a program without a guard; what it has defined is there.
            pass
        finally:
            if not inheriting:
                del current._inheriting  # type: ignore[attr-defined]
