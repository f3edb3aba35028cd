"""Arrays of NumPy travel as pickle would have them: values, types, order in memory, identities."""

import pytest

numpy = pytest.importorskip("numpy")

from manycore import _engine
from support.codec import there_and_back, through_pickle
from support.kinds import Plain


@pytest.mark.parametrize("letter", "?bBhHiIlLqQefdgFDGMmSUVO")
def test_arrays_of_every_type(letter):
    sized = {"M": "M8[s]", "m": "m8[s]", "S": "S3", "U": "U3", "V": "V3"}.get(letter, letter)
    for shape in ((), (0,), (3,), (2, 3), (0, 3), (300, 5), (2, 1, 3)):
        array = numpy.zeros(shape, dtype=sized)
        fortran = numpy.asfortranarray(array)
        for value in (array, fortran, array.T, array[..., ::2] if shape else array, array[:0] if shape else array):
            back, expected = there_and_back([value, value]), through_pickle(value)
            assert back[0] is back[1]
            assert (back[0].dtype, back[0].shape) == (expected.dtype, expected.shape)
            assert back[0].flags.f_contiguous == expected.flags.f_contiguous
            assert back[0].flags.writeable
            assert back[0].tolist() == expected.tolist()
        if shape and array.size:
            scalar = array.flat[0]
            back = there_and_back([scalar, scalar])
            assert type(back[0]) is type(scalar) and back[0] == scalar


def test_arrays_out_of_the_ordinary():
    class Mine(numpy.ndarray):
        pass

    globals()["Mine"] = Mine
    Mine.__qualname__ = "Mine"
    record = numpy.zeros(3, dtype=[("a", "f8"), ("b", "O")])
    record["b"] = [[1], "x", None]
    swapped = numpy.arange(5, dtype=">i4")
    marked = numpy.arange(3).astype(numpy.dtype("i8", metadata={"unit": "m"}))
    masked = numpy.ma.masked_array([1, 2, 3], [0, 1, 0])
    for value in (
        record,
        swapped,
        marked,
        masked,
        numpy.arange(4).view(Mine),
        numpy.dtype("f8"),
        numpy.broadcast_to(5, 9),
    ):
        back, expected = there_and_back([value])[0], through_pickle([value])[0]
        assert type(back) is type(expected)
        assert repr(back) == repr(expected)
    array = numpy.arange(9.0)
    object_array = numpy.array([None, array, None], dtype=object)
    object_array[0] = object_array
    back = there_and_back([object_array, array])
    assert back[0][0] is back[0] and back[0][1] is back[1]
    # One that pickle has made has a type of item that is another object.
    again = through_pickle(array)
    assert there_and_back(again).tolist() == array.tolist()
    large = numpy.arange(100_000.0)
    head, message = _engine.encode([large, Plain(large)])
    assert head < 300
    back = _engine.decode(head, message)
    assert back[0] is back[1].parts[0]
    back[0][0] = 7
    assert large[0] == 0
