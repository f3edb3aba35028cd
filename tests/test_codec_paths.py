"""Paths and decimals, which the codec reads without asking them: as pickle would have them travel."""

import decimal
import pathlib
import pickle
import random

import pytest

from support.codec import there_and_back

CLASSES = (pathlib.PurePosixPath, pathlib.PosixPath, pathlib.PureWindowsPath)
TEXTS = ("", ".", "/", "//host/share", "a", "a/b/c", "/a//b/./c/", "../x", "c:\\x\\y", "c:x", "a b/ä\udc80", "a" * 5000)


class Own(pathlib.PurePosixPath):
    pass


def said(path):
    """What a path says when it is asked for everything."""
    return str(path), path.parts, path.drive, path.root, path.name, path.suffixes, str(path.parent), hash(path)


@pytest.mark.parametrize("cls", CLASSES)
def test_paths(cls):
    for text in TEXTS:
        for path in (cls(text), cls(text) / "more", cls("x", text, "y"), cls(text).parent, cls("a/b") / ".."):
            for _ in range(2):
                copy = there_and_back(path)
                assert type(copy) is cls
                assert copy == path == pickle.loads(pickle.dumps(path))
                assert said(copy) == said(path)
                # The second time with everything that the path has noted of itself.
    assert there_and_back(cls("a") / cls("b")).joinpath("c") == cls("a/b/c")


def test_paths_beside_each_other():
    one, other = pathlib.Path("a/b"), pathlib.Path("a/b")
    first, second, third = there_and_back([one, other, one])
    assert first is third
    assert first is not second
    assert first == second
    assert there_and_back({one: 1, pathlib.Path("c"): {one}}) == {one: 1, pathlib.Path("c"): {one}}
    assert there_and_back(Own("a/b")) == Own("a/b")
    assert type(there_and_back(Own("a/b"))) is Own
    assert there_and_back(pathlib.Path()).exists()


def test_a_path_is_free_of_the_one_it_was_made_from():
    path = pathlib.PurePosixPath("a", "b")
    copy = there_and_back(path)
    assert copy.with_name("c") == pathlib.PurePosixPath("a/c")
    assert copy == path == pathlib.PurePosixPath("a/b")


@pytest.mark.parametrize("name", ["__reduce__", "__new__", "__init__", "__setstate__", "__getstate__"])
def test_a_class_of_paths_that_a_program_has_changed_is_asked(name, monkeypatch):
    calls = []
    cls = pathlib.PurePosixPath
    if name == "__new__":
        own = cls.__new__
        monkeypatch.setattr(cls, name, staticmethod(lambda kind, *args: (calls.append(name), own(kind, *args))[1]))
    elif name == "__reduce__":
        monkeypatch.setattr(cls, name, lambda self: (calls.append(name), (cls, ("changed",)))[1])
    elif name == "__init__":
        own_init = cls.__init__

        def init(self, *args):
            calls.append(name)
            if own_init is not object.__init__:
                own_init(self, *args)

        monkeypatch.setattr(cls, name, init)
    elif name == "__setstate__":
        monkeypatch.setattr(cls, name, lambda self, state: calls.append(name), raising=False)
    else:
        monkeypatch.setattr(cls, name, lambda self: calls.append(name), raising=False)
    path = cls("a/b")
    calls.clear()
    copy, expected = there_and_back(path), pickle.loads(pickle.dumps(path))
    assert str(copy) == str(expected)
    assert len(calls) % 2 == 0


def test_after_the_change_is_taken_back(monkeypatch):
    path = pathlib.PurePosixPath("a/b")
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.PurePosixPath, "__reduce__", lambda self: (str, ("asked",)))
        assert there_and_back([path]) == ["asked"]
    assert there_and_back([path]) == [path]


@pytest.mark.parametrize("capitals", [0, 1])
def test_decimals(capitals):
    digits = [
        "0",
        "-0",
        "0E+3",
        "1.50",
        "-12345678901234567890.123",
        "1E+999999",
        "1E-999999",
        "NaN",
        "-NaN123",
        "sNaN7",
    ]
    values = [decimal.Decimal(text) for text in [*digits, "Infinity", "-Infinity", "9" * 5000]]
    chance = random.Random(1)
    values += [decimal.Decimal(chance.randrange(10**30)).scaleb(-chance.randrange(40)) for _ in range(200)]
    with decimal.localcontext() as context:
        context.capitals, context.prec = capitals, 3
        copies = there_and_back(values)
    assert [value.as_tuple() for value in copies] == [value.as_tuple() for value in values]
    assert {type(value) for value in copies} == {decimal.Decimal}


def test_decimals_beside_each_other():
    one, other = decimal.Decimal("1.5"), decimal.Decimal("1.5")
    first, second, third = there_and_back([one, other, one])
    assert first is third
    assert first is not second
    assert there_and_back({one: {other}}) == {one: {other}}


class Price(decimal.Decimal):
    currency = "EUR"


def test_a_subclass_of_decimals():
    copy = there_and_back([Price("1.50")])[0]
    assert (type(copy), str(copy)) == (Price, "1.50")
