"""Plain values of every shape, and what is compared of them."""

import random

import pytest

hypothesis = pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from .codec import there_and_back, through_pickle

settings.register_profile(
    "codec",
    derandomize=True,
    deadline=None,
    max_examples=300,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("codec")

# Objects of these types stay one object if they were one object.
WITH_IDENTITY = (list, dict, set, frozenset, bytearray, bytes, str, tuple, complex)


def canonical(value):
    """Type, value and identity of everything in it, as a comparable list.

    Elements of sets come in an order of their own, so that two equal sets look
    equal whatever their tables look like inside.
    """
    seen = {}
    out = []

    def leaf(x):
        if type(x) is float:
            return x.hex() if x == x else "nan"
        if type(x) is complex:
            return leaf(x.real), leaf(x.imag)
        return repr(x)

    def key(x):
        return type(x).__name__, repr(x)

    def visit(x):
        kind = type(x)
        if kind in WITH_IDENTITY and not (kind is tuple and not x):
            if id(x) in seen:
                out.append(("again", seen[id(x)]))
                return
            seen[id(x)] = len(seen)
        if kind in (list, tuple):
            out.append((kind, len(x)))
            for item in x:
                visit(item)
        elif kind in (set, frozenset):
            out.append((kind, len(x)))
            for item in sorted(x, key=key):
                visit(item)
        elif kind is dict:
            out.append((kind, len(x)))
            for name, item in x.items():
                visit(name)
                visit(item)
        else:
            out.append((kind, leaf(x)))

    visit(value)
    return out


def check(value):
    assert canonical(there_and_back(value)) == canonical(through_pickle(value))


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(codec=None, categories=None), max_size=12),
    st.text("abc", max_size=5),
    st.binary(max_size=12),
    st.binary(max_size=12).map(bytearray),
)
hashable = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4), st.binary(max_size=4)),
    lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)),
    max_leaves=4,
)
nested = st.recursive(
    st.one_of(leaves, hashable),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(hashable, inner, max_size=4),
        st.sets(hashable, max_size=4),
        st.frozensets(hashable, max_size=4),
    ),
    max_leaves=25,
)


def knotted(seed, size=30):
    """A heap of containers that hold each other at random, cycles included."""
    rnd = random.Random(seed)
    heap = [b"bytes" * 3, "text" * 2, "\udc80x", bytearray(b"abc"), (1, 2), 1 << 80, 2.5, None, 3 + 4j, ()]
    for _ in range(size):
        kind = rnd.randrange(6)
        some = [rnd.choice(heap) for _ in range(rnd.randrange(4))]
        if kind == 0:
            heap.append(tuple(some))
        elif kind == 1:
            try:
                heap.append(frozenset(some))
            except TypeError:
                pass
        elif kind == 2:
            try:
                heap.append(set(some))
            except TypeError:
                pass
        elif kind == 3:
            heap.append({f"key {i}": x for i, x in enumerate(some)})
        else:
            heap.append(some)
    mutable = [x for x in heap if type(x) in (list, dict)]
    for target in mutable:
        if rnd.random() < 0.5:
            other = rnd.choice(heap)
            if type(target) is list:
                target.append(other)
            else:
                target["more"] = other
    return [rnd.choice(heap) for _ in range(8)]
