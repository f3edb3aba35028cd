"""Starting a child on Windows: in the standard package. Here there is nothing of it, manycore runs on Linux.

The module is there because programs that look through the package expect its name. Importing it raises ImportError, as
importing that of the standard package does where there is no Windows.
"""

__all__: list[str] = []

raise ImportError("manycore runs on Linux: there is no popen_spawn_win32")
