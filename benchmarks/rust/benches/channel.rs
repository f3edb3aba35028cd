//! A stream of small messages from one process to another, and there and back.
//!
//! Every way has a process of its own at the other end for the whole contest, which takes
//! `TIMES` messages and then sends one: so a run ends when the last message has arrived.

use ipc_channel::ipc::{self, IpcOneShotServer, IpcReceiver, IpcSender};
use manycore::channel::{End, pipe};
use manycore::{Passed, Process};
use manycore_benchmarks::Contest;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// Messages in a run.
const TIMES: u32 = 50_000;
/// There and back.
const TURNS: u32 = 5_000;

/// A small message: three words.
type Message = (u64, u64, u64);

fn message(number: u32) -> Message {
    (u64::from(number), 1 << 40, 7)
}

/// Takes `batch` messages and answers, for ever.
fn manycore_sink(end: End<Message, Message>, batch: u32) {
    loop {
        for _ in 0..batch {
            let Ok(received) = end.recv() else { return };
            std::hint::black_box(received);
        }
        if end.send(message(0)).is_err() {
            return;
        }
    }
}

fn ipc_sink(server: String, batch: u32) {
    let (sender, inner): (IpcSender<Message>, IpcReceiver<Message>) = ipc::channel().expect("a channel");
    let (back, receiver): (IpcSender<Message>, IpcReceiver<Message>) = ipc::channel().expect("a channel");
    let hello: IpcSender<(IpcSender<Message>, IpcReceiver<Message>)> = IpcSender::connect(server).expect("a server");
    hello.send((back, inner)).expect("a greeting");
    loop {
        for _ in 0..batch {
            let Ok(received) = receiver.recv() else { return };
            std::hint::black_box(received);
        }
        if sender.send(message(0)).is_err() {
            return;
        }
    }
}

/// Bytes of a message on the socket, which has no serialisation at all.
const BYTES: usize = size_of::<[u64; 3]>();

fn bytes(message: Message) -> [u8; BYTES] {
    let words = [message.0, message.1, message.2].map(u64::to_ne_bytes);
    let mut bytes = [0; BYTES];
    bytes.chunks_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word));
    bytes
}

fn socket_sink(socket: Passed<UnixStream>, batch: u32) {
    let mut socket = socket.into_inner();
    let mut buffer = [0; BYTES];
    loop {
        for _ in 0..batch {
            if socket.read_exact(&mut buffer).is_err() {
                return;
            }
            std::hint::black_box(buffer);
        }
        if socket.write_all(&bytes(message(0))).is_err() {
            return;
        }
    }
}

fn contest(title: &str, times: u32, batch: u32, rounds: usize) {
    let runs = times / batch;
    let (mine, yours) = pipe::<Message, Message>().expect("a pipe");
    let _sink = Process::spawn(manycore_sink, (yours, batch)).expect("a process");

    let (server, name) = IpcOneShotServer::new().expect("a server");
    let _ipc_sink = Process::spawn(ipc_sink, (name, batch)).expect("a process");
    let (_, (ipc_sender, ipc_receiver)): (_, (IpcSender<Message>, IpcReceiver<Message>)) =
        server.accept().expect("a greeting");

    let (mut socket, theirs) = UnixStream::pair().expect("a pair");
    let _socket_sink = Process::spawn(socket_sink, (Passed(theirs), batch)).expect("a process");

    Contest::new(title, times)
        .way("manycore::channel", || {
            for _ in 0..runs {
                (0..batch).for_each(|number| mine.send(message(number)).expect("sent"));
                mine.recv().expect("an answer");
            }
        })
        .way("ipc-channel", || {
            for _ in 0..runs {
                (0..batch).for_each(|number| ipc_sender.send(message(number)).expect("sent"));
                ipc_receiver.recv().expect("an answer");
            }
        })
        .way("Unix socket, a message a write and a read", || {
            let mut answer = [0; BYTES];
            for _ in 0..runs {
                (0..batch).for_each(|number| socket.write_all(&bytes(message(number))).expect("sent"));
                socket.read_exact(&mut answer).expect("an answer");
            }
        })
        .run(rounds);
}

fn main() {
    manycore::init();
    contest("small messages, one producer, one consumer", TIMES, TIMES, 9);
    contest("a small message there and one back", TURNS, 1, 9);
}
