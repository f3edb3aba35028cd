//! The Python face's decoder: any bytes are a value or an error, and a value can be used, encoded and decoded again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::ffi::CStr;

/// Decodes the input in every way there is. Unpickling runs code by design, and so does calling what a message names:
/// under the fuzzer every name goes through `loads`, in whose place are harmless classes and functions, or the buffers.
const HARNESS: &CStr = c"
import _pickle, collections, copyreg, fractions, gc

class Plain: pass
class Slotted: __slots__ = 'x', 'y', '__weakref__'
class Both(Slotted): pass
class Stated:
    def __setstate__(self, state): self.state = state
class Hashed:
    def __hash__(self): return hash(self.x)
    def __eq__(self, other): return self.x == other.x
class Mine(list): pass
class Mapping(dict): pass
Pair = collections.namedtuple('Pair', 'first second')
class New(tuple):
    def __new__(cls, *args): return super().__new__(cls, args)

def given(*args, **kwargs): return [args, kwargs]
def looked(*args): return [type(x) for x in gc.get_objects()[-50:]]

THINGS = [Plain, Slotted, Both, Stated, Hashed, Mine, Mapping, Pair, New, given, looked, object, list, dict, set, tuple,
          collections.deque, collections.OrderedDict, collections.defaultdict, collections.Counter, Exception, frozenset,
          fractions.Fraction, type, 5, None]

def loads(stream, buffers=()):
    stream = bytes(stream)
    if stream[:2] == b'\\x80\\x04' and stream[-2:] == b'\\x93.':
        return THINGS[sum(stream) % len(THINGS)]
    return [stream[:9], *map(bytes, buffers)]

_pickle.loads = loads

def walk(value, left):
    # Each object once: what refers to one object twice many times over is exponentially long.
    seen, todo = set(), [value]
    while todo and left:
        left -= 1
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if type(one) is dict:
            todo += one.items()
        elif type(one) in (list, tuple, set, frozenset):
            todo += one
        else:
            hash(one) if type(one) is not bytearray else bytes(one)

def again(value):
    walk(value, 5000)
    try:
        head, message = engine.encode(value)
    except Exception:
        return  # Such as a set with itself in it, which pickle refuses.
    if message[:1] in b'\\1\\2':
        assert engine.encode(engine.decode(head, message)) is not None
    elif message[:1] == b'\\5':
        # Names stand for something else here than where they were written.
        try:
            engine.decode(head, message)
        except Exception:
            pass

def one(data):
    how, low, high, message = data[0], data[1], data[2], data[3:]
    # Heads are as long as the message, mostly.
    head = len(message) if how & 8 else low | high << 8
    try:
        if how & 7 == 0:
            args, kwargs = engine.decode_call(head, message)
            assert type(args) is tuple and (kwargs is None or type(kwargs) is dict)
            again(args)
        elif how & 7 == 1:
            for item in engine.decode_items(head, message):
                walk(item, 100)
        elif how & 7 == 2:
            items = engine.decode_items(head, message)
            kept = [item for item in items]
            again(kept)
            into = [None] * len(kept)
            engine.decode_into(head, message, into, 0, len(kept))
        else:
            again(engine.decode(head, message))
    except (ValueError, MemoryError, TypeError, RuntimeError, EOFError, OverflowError, UnicodeError):
        pass
    except (AttributeError, LookupError, ArithmeticError, ImportError, _pickle.UnpicklingError) as error:
        # Raised by what the message had called.
        assert message[:1] in b'\\5\\6', error
";

fuzz_target!(|data: &[u8]| {
    if data.len() >= 4 {
        manycore_fuzz::python::call(HARNESS, data);
    }
});
