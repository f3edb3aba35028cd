"""One cell of a table, in a process of its own: one library, one workload, one round."""

from __future__ import annotations

import importlib
import json
import sys

MARK = "manycore-bench-cell:"


def main() -> None:
    """Measure what the command line names and print the figures on a marked line."""
    order = json.loads(sys.argv[1])
    module = importlib.import_module(f"benchmarks.{order['group']}")
    from benchmarks.peers import Unsupported
    from benchmarks.workload import Settings

    workload = next(w for w in module.WORKLOADS if w.name == order["workload"])
    try:
        answer = {"figures": dict(workload.measure(order["lib"], Settings(order["quick"], order["budget"])))}
    except Unsupported as reason:
        answer = {"unsupported": str(reason)}
    print(MARK + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
