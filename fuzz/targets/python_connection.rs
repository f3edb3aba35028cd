//! What a connection of the Python face receives: any bytes are messages or an error, and none is taken for another.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::ffi::CStr;

/// Receives what is in a file, a pipe or a socket. Unpickling runs code by design, so a pickle is replaced by its bytes.
/// A large message is one that a short input is repeated for: large byte strings in it are received apart.
const HARNESS: &CStr = c"
import os, pickle, socket, struct
import _pickle
pickle.loads = _pickle.loads = lambda stream, *, buffers=(): [bytes(stream)[:99], *(len(one) for one in buffers)]

def end(kind, data):
    if kind == 0:
        fd = os.memfd_create('fuzz')
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd
    if kind == 1:
        fd, writer = os.pipe()
    elif kind == 2:
        fd, writer = engine.socket_pair()
    else:
        fd, writer = (one.detach() for one in socket.socketpair())
    os.write(writer, data[:32768])
    os.close(writer)
    return fd

class End(engine.ConnectionEnd):
    def close(self):
        self._handle = None

def one(data):
    how, verb, size, stream = data[0], data[1], data[2], data[3:]
    if how & 8:
        # The input is the start of one message of 1 MiB and more.
        length = (1 << 20) + (size << 8)
        stream = struct.pack('!i', length) + (stream + stream[:64] * (1 + length // min(len(stream), 64)))[:length]
        how &= ~3
    fd = end(how & 3, stream)
    try:
        conn = End(fd)
        conn._handle, conn._readable, conn._writable = fd, True, bool(how & 16)
        room = bytearray(4096)
        for _ in range(50):
            if verb & 3 == 0:
                conn.recv()
            elif verb & 3 == 1:
                assert len(conn.recv_bytes(size * 8)) <= size * 8
            elif verb & 3 == 2:
                assert conn.recv_bytes_into(room, size) <= len(room) - size
            else:
                assert type(conn.recv_bytes()) is bytes
            verb = (verb >> 2) | (verb & 3) << 6
    except AssertionError:
        raise
    except Exception as error:
        known = EOFError, OSError, MemoryError, ValueError, TypeError
        assert isinstance(error, known) or type(error).__name__ == 'BufferTooShort', error
    finally:
        os.close(fd)
";

fuzz_target!(|data: &[u8]| {
    if data.len() >= 4 {
        manycore_fuzz::python::call(HARNESS, data);
    }
});
