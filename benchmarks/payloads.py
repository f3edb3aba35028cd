"""What a value of each kind costs: `map` over many of them, each given back as it came, default chunks."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import gc
import pathlib
import uuid
from collections.abc import Callable
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.workload import Metric, Settings, Workload, check, timed


@dataclasses.dataclass
class Point:
    """A dataclass of three fields."""

    x: int
    y: float
    name: str


@dataclasses.dataclass(slots=True)
class SlottedPoint:
    """The same with slots."""

    x: int
    y: float
    name: str


NamedPoint = collections.namedtuple("NamedPoint", "x y name")


class Colour(enum.Enum):
    """Members that many items share."""

    RED = 1
    GREEN = 2
    BLUE = 3


def same(item: Any) -> Any:
    """Return the item."""
    return item


def total(array: Any) -> float:
    """Return the sum of an array."""
    return float(array.sum())


def count_words(line: str) -> dict[str, int]:
    """Return how often each word of a line occurs."""
    counts: dict[str, int] = {}
    for word in line.split():
        counts[word] = counts.get(word, 0) + 1
    return counts


_WORDS = "the quick brown fox jumps over the lazy dog and the cat sat on the mat while the rain fell on the plain"
_START = datetime.datetime(2026, 1, 1)


def _line(index: int) -> str:
    words = _WORDS.split()
    shift = index % len(words)
    return " ".join(words[shift:] + words[:shift])


def _record(index: int) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": index, "name": f"name {index}", "score": index / 7, "active": index % 2 == 0}
    fields |= {"tags": ["one", "two", f"tag {index % 10}"], "address": {"street": f"street {index}", "number": index}}
    return fields


def _float64(index: int) -> Any:
    import numpy as np

    return np.float64(index)


def _array(length: int) -> Callable[[int], Any]:
    def make(index: int) -> Any:
        import numpy as np

        return np.arange(length, dtype=float) + index

    return make


def _frame(index: int) -> Any:
    import numpy as np
    import pandas as pd

    return pd.DataFrame(np.arange(40_000.0).reshape(10_000, 4) + index, columns=list("abcd"))


def _text_frame(index: int) -> Any:
    import pandas as pd

    names = pd.Series([f"name {n}" for n in range(10_000)], dtype=object)
    return pd.DataFrame({"name": names, "value": [float(n + index) for n in range(10_000)]})


def _alike(one: Any, other: Any) -> bool:
    if hasattr(one, "equals"):
        return one.equals(other)
    if hasattr(one, "tolist"):
        return type(one) is type(other) and one.tolist() == other.tolist()
    return type(one) is type(other) and one == other


def _measure(
    lib: str, settings: Settings, make: Callable[[int], Any], n_full: int, function: Callable[[Any], Any]
) -> dict[str, float]:
    n_items = settings.size(n_full, max(4, n_full // 20))
    items = [make(index) for index in range(n_items)]
    with PEERS[lib]() as pool:
        pool.map(function, items[:4])
        pilot_s, _ = timed(lambda: pool.map(function, items[: max(4, n_items // 20)]))
        items = items[: settings.fit(n_items, pilot_s / max(4, n_items // 20))]
        # The quickest of three: what else the machine does comes on top of it.
        times = []
        for _ in range(3):
            gc.collect()
            call_s, results = timed(lambda: pool.map(function, items))
            times.append(call_s)
        ends = (0, len(items) // 2, -1)
        check(all(_alike(results[at], function(items[at])) for at in ends), "the values that came back")
    return {"per item": min(times) / len(items), "items": len(items)}


def _workload(
    name: str, title: str, make: Callable[[int], Any], n_items: int = 20_000, function: Callable[[Any], Any] = same
) -> Workload:
    metrics = {"per item": Metric("us/item", "us"), "items": Metric("items", "n")}
    return Workload(f"payload-{name}", title, lambda lib, s: _measure(lib, s, make, n_items, function), metrics)


WORKLOADS = [
    _workload("dataclass", "dataclasses of three fields", lambda n: Point(n, n / 3, f"point {n}")),
    _workload("slots", "dataclasses with slots", lambda n: SlottedPoint(n, n / 3, f"point {n}")),
    _workload("namedtuple", "namedtuples of three fields", lambda n: NamedPoint(n, n / 3, f"point {n}")),
    _workload(
        "datetime",
        "dicts with a datetime",
        lambda n: {"id": n, "when": _START + datetime.timedelta(seconds=n), "name": f"event {n}"},
    ),
    _workload("decimal", "Decimals", lambda n: decimal.Decimal(n) / 7),
    _workload("uuid", "UUIDs", lambda n: uuid.UUID(int=n * 0x1234567890ABCDEF1234567)),
    _workload("path", "paths", lambda n: pathlib.PurePosixPath("/data") / f"run {n % 100}" / f"file{n}.csv"),
    _workload("enum", "members of an Enum", lambda n: list(Colour)[n % 3], 100_000),
    _workload("scalar", "np.float64 scalars", _float64),
    _workload("array-10", "arrays of 10 floats", _array(10)),
    _workload("array-1000", "arrays of 1000 floats", _array(1000), 4_000),
    _workload("array-in", "arrays of 1000 floats in, their sums out", _array(1000), 4_000, total),
    _workload("record", "dicts of plain values", _record),
    _workload("words", "lines of text in, dicts of counts out", _line, 20_000, count_words),
    _workload("floats", "lists of 10 000 floats", lambda n: [n + k / 3 for k in range(10_000)], 40),
    _workload("strings", "lists of 10 000 strings", lambda n: [f"text {n} {k}" for k in range(10_000)], 40),
    _workload(
        "dicts", "dicts of 10 000 floats by string", lambda n: {f"key {k}": n + k / 3 for k in range(10_000)}, 40
    ),
    _workload("frame", "DataFrames of 10 000 x 4 floats", _frame, 40),
    _workload("frame-text", "DataFrames with a column of strings", _text_frame, 40),
]
