"""What `isinstance` says of a manager's proxies."""

import collections.abc as kinds
import sys

import pytest


@pytest.mark.parametrize(
    ("make", "kind"),
    [("list", kinds.MutableSequence), ("dict", kinds.MutableMapping), ("set", kinds.MutableSet)],
)
def test_proxies_of_containers_are_of_the_containers_kind(mp, make, kind):
    if mp.__name__ == "multiprocessing" and (sys.version_info < (3, 14) or make == "set"):
        pytest.skip("the standard package registers its list and dict since CPython 3.14, its set under another kind")
    with mp.Manager() as manager:
        proxy = getattr(manager, make)()
        assert isinstance(proxy, kind)
