"""The items of a message, one by one and into a list: as if the whole list had been read."""

import gc
import weakref

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from manycore import _engine
from support.codec import through_pickle
from support.plain import canonical, knotted, nested


@given(st.lists(nested, max_size=6), st.integers(0, 6), st.integers(0, 6))
def test_items(items, start, end):
    start, end = sorted((min(start, len(items)), min(end, len(items))))
    expected = canonical(through_pickle(items[start:end]))
    for source in (items, tuple(items)):
        message = _engine.encode_items(source, start, end)
        assert canonical(_engine.decode(*message)) == expected
        assert canonical(list(_engine.decode_items(*message))) == expected
        target = [None] * (end - start + 2)
        _engine.decode_into(*message, target, 1, end - start)
        assert canonical(target[1:-1]) == expected


@pytest.mark.parametrize("seed", range(100))
def test_items_share(seed):
    items = knotted(seed)
    expected = canonical(through_pickle(items))
    assert canonical(list(_engine.decode_items(*_engine.encode(items)))) == expected
    assert canonical(list(_engine.decode_items(*_engine.encode_items(items, 0, len(items))))) == expected


def test_items_that_hold_the_whole():
    items = [[1], [2], [3]]
    items[0].append(items)
    back = list(_engine.decode_items(*_engine.encode_items(items, 0, 2)))
    assert canonical(back) == canonical(through_pickle(items[0:2]))
    # A list that holds itself exists before its items do.
    items = [[1]]
    items.append(items)
    assert canonical(list(_engine.decode_items(*_engine.encode(items)))) == canonical(list(through_pickle(items)))


@given(st.lists(nested, max_size=12), st.integers(0, 2))
def test_items_in_a_loop(items, kept):
    """Containers nobody kept are used again for later items; what one item was never shows in another."""
    expected = [canonical(x) for x in through_pickle(items)]
    window = []
    for i, item in enumerate(_engine.decode_items(*_engine.encode(items))):
        assert canonical(item) == expected[i]
        window = [*window, item][-kept:] if kept else []
        assert [canonical(x) for x in window] == expected[i + 1 - len(window) : i + 1]
        del item


def test_items_that_were_kept_or_changed_are_not_used_again():
    rows = [([i, i + 1, "x" * i], (i, [i]), i) for i in range(40)]
    kept, changed = [], []
    for i, (row, pair, number) in enumerate(_engine.decode_items(*_engine.encode(rows))):
        assert (row, pair, number) == rows[i]
        if i % 3 == 0:
            kept.append((i, row, pair))
        else:
            changed.append(i)
            row.append([row])
            row[0] = object()
            pair[1].clear()
        del row, pair
    assert len(changed) > 20
    for i, row, pair in kept:
        assert (row, pair) == rows[i][:2]


def test_a_tuple_used_again_is_known_to_the_collector():
    """The collector forgets tuples of plain numbers; one that holds a list next must be known again."""
    items = [(1, 2), (3, 4), (5, 6), ([1], 7), ([2], 8), ([3], 9)]
    for i, item in enumerate(_engine.decode_items(*_engine.encode(items))):
        assert item == items[i]
        gc.collect()
        assert gc.is_tracked(item) or i < 3
        if i >= 3:
            item[0].append(item)
            assert item in gc.get_referents(item[0])
        del item

    class Canary:
        pass

    [loop] = list(_engine.decode_items(*_engine.encode([([], 1)])))
    canary = Canary()
    loop[0].extend([loop, canary])
    gone = weakref.ref(canary)
    del loop, canary
    gc.collect()
    assert gone() is None


def test_items_cannot_be_read_from_the_midst_of_reading_one():
    """A value may run any code as it goes, also while its container is looked at for the next item."""
    refused = []

    class Loud:
        def __del__(self):
            try:
                next(items)
            except RuntimeError as error:
                refused.append(str(error))

    items = _engine.decode_items(*_engine.encode([[i] for i in range(12)]))
    for i, item in enumerate(items):
        assert item == [i]
        item[0] = Loud()
        del item
    assert len(refused) >= 8 and set(refused) == {"the items of a message are being read already"}


def test_decode_into_refuses_another_count():
    message = _engine.encode([1, 2, 3])
    for start, n in ((0, 2), (0, 4), (3, 3), (2**63, 3)):
        with pytest.raises(ValueError, match="corrupt message"):
            _engine.decode_into(*message, [None] * 5, start, n)
