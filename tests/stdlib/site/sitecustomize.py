"""Found by every interpreter the runner starts (PYTHONPATH), so that children over exec see the alias too."""

import os
import sys

if os.environ.get("MANYCORE_STDLIB_ALIAS"):
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    import alias

    alias.install()
    del sys.path[0]
