//! Messages through every kind of descriptor: whole or not at all, as they were when they were sent.

use manycore_engine::connection::{Envelope, Link, Piece, Receipt, Room, Sending, Short, Step, Took, Wait, pair};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

/// (reader, writer) of each kind.
fn kinds() -> Vec<(&'static str, OwnedFd, OwnedFd)> {
    let (reader, writer) = pair().unwrap();
    let (local, other) = UnixStream::pair().unwrap();
    let (from, into) = std::io::pipe().unwrap();
    vec![("pair", reader, writer), ("socket", local.into(), other.into()), ("pipe", from.into(), into.into())]
}

fn send(link: &Link, fd: RawFd, body: &[u8]) -> manycore_engine::Result<()> {
    let envelope = Envelope::new(link, fd, body.len());
    let mut pieces = [envelope.head(), Piece::of(body), envelope.padding()];
    Sending::new(&mut pieces).advance(link, fd)
}

/// The next message, or why there is none.
fn receive(link: &Link, fd: RawFd, limit: Option<u64>) -> Result<Vec<u8>, Step> {
    let mut small = [0; 100];
    let mut receipt = Receipt::new(&mut small, limit);
    let step = loop {
        match receipt.advance(link, fd, Wait::Sleeping).unwrap() {
            Step::Later => {}
            step => break step,
        }
    };
    match step {
        Step::Whole(len) => Ok(receipt.small(len).to_vec()),
        Step::Announced(len) => {
            let mut body = vec![0; len as usize];
            let mut room = Room::of(&mut body);
            room.put(receipt.begun());
            match link.fill(fd, &mut room).unwrap() {
                Took::All => Ok(body),
                _ if room.filled() == 0 => Err(Step::End),
                _ => Err(Step::Torn),
            }
        }
        other => Err(other),
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

#[test]
fn every_size_arrives_and_nothing_is_left() {
    let sizes = [0, 1, 59, 60, 61, 99, 100, 101, 5000, 70_000, 1 << 20, 5 << 20, 9 << 20];
    for (kind, reader, writer) in kinds() {
        let sender = thread::spawn(move || {
            let link = Link::default();
            for size in sizes {
                send(&link, writer.as_raw_fd(), &pattern(size)).unwrap();
            }
            writer
        });
        let link = Link::default();
        for size in sizes {
            let message = receive(&link, reader.as_raw_fd(), None).unwrap();
            assert!(message == pattern(size), "{size} bytes through a {kind}");
        }
        let writer = sender.join().unwrap();
        assert!(!link.poll(reader.as_raw_fd(), Some(Duration::ZERO), Wait::Not).unwrap());
        drop(writer);
        assert!(link.poll(reader.as_raw_fd(), None, Wait::Sleeping).unwrap());
        assert_eq!(receive(&link, reader.as_raw_fd(), None), Err(Step::End));
    }
}

#[test]
fn a_message_is_what_it_was_when_it_was_sent() {
    for (kind, reader, writer) in kinds() {
        let sender = thread::spawn(move || {
            let link = Link::default();
            let mut body = vec![1; 8 << 20];
            for value in 2..6 {
                send(&link, writer.as_raw_fd(), &body).unwrap();
                body.fill(value);
            }
        });
        let link = Link::default();
        for value in 1..5 {
            let message = receive(&link, reader.as_raw_fd(), None).unwrap();
            assert!(message.iter().all(|byte| *byte == value), "message {value} through a {kind}");
        }
        sender.join().unwrap();
    }
}

#[test]
fn short_messages_are_those_of_pieces() {
    for (kind, reader, writer) in kinds() {
        let link = Link::default();
        for size in [0, 1, 60, 61, 508] {
            let body = pattern(size);
            let mut short = Short::new();
            assert!(short.put(&body));
            assert!(
                Sending::new(&mut [short.piece(&link, writer.as_raw_fd())]).start(&link, writer.as_raw_fd()).unwrap()
            );
            assert_eq!(receive(&link, reader.as_raw_fd(), None).unwrap(), body, "through a {kind}");
        }
        assert!(!Short::new().put(&pattern(509)));
    }
}

#[test]
fn a_reader_that_is_gone_is_an_error() {
    for (kind, reader, writer) in kinds() {
        let link = Link::default();
        let sender = thread::spawn(move || send(&link, writer.as_raw_fd(), &vec![0; 16 << 20]));
        while !Link::default().poll(reader.as_raw_fd(), None, Wait::Sleeping).unwrap() {}
        drop(reader);
        let error = sender.join().unwrap().unwrap_err();
        assert!([Some(32), Some(104)].contains(&error.os_code()), "{kind}: {error}");
    }
}

#[test]
fn half_a_message_is_none() {
    for (kind, reader, writer) in kinds() {
        let mut message = 200u32.to_be_bytes().to_vec();
        message.extend_from_slice(&pattern(150));
        std::fs::File::from(writer).write_all(&message).unwrap();
        assert_eq!(receive(&Link::default(), reader.as_raw_fd(), None), Err(Step::Torn), "through a {kind}");
    }
}

#[test]
fn lengths_that_are_unwanted_or_impossible() {
    for (kind, reader, writer) in kinds() {
        let link = Link::default();
        send(&link, writer.as_raw_fd(), &pattern(60)).unwrap();
        send(&link, writer.as_raw_fd(), &pattern(61)).unwrap();
        assert_eq!(receive(&link, reader.as_raw_fd(), Some(60)).unwrap(), pattern(60), "through a {kind}");
        assert_eq!(receive(&link, reader.as_raw_fd(), Some(60)), Err(Step::Unwanted), "through a {kind}");
    }
    for (kind, reader, writer) in kinds() {
        let mut message = vec![0; 64];
        message[..4].copy_from_slice(&(-2i32).to_be_bytes());
        std::fs::File::from(writer).write_all(&message).unwrap();
        assert_eq!(receive(&Link::default(), reader.as_raw_fd(), None), Err(Step::Unwanted), "through a {kind}");
    }
}

#[test]
fn a_message_that_comes_in_drops() {
    for (kind, reader, writer) in kinds() {
        let link = Link::default();
        let mut message = 90u32.to_be_bytes().to_vec();
        message.extend_from_slice(&pattern(90));
        let mut writer = std::fs::File::from(writer);
        let mut small = [0; 100];
        let mut receipt = Receipt::new(&mut small, None);
        for byte in &message {
            assert_eq!(receipt.advance(&link, reader.as_raw_fd(), Wait::Not).unwrap(), Step::Later, "through a {kind}");
            writer.write_all(&[*byte]).unwrap();
        }
        assert_eq!(receipt.advance(&link, reader.as_raw_fd(), Wait::Not).unwrap(), Step::Whole(90), "through a {kind}");
        assert_eq!(receipt.small(90), pattern(90));
    }
}

#[test]
fn a_descriptor_that_is_not_open_is_an_error() {
    let link = Link::default();
    let mut small = [0; 4];
    let error = Receipt::new(&mut small, None).advance(&link, 1 << 20, Wait::Sleeping).unwrap_err();
    assert_eq!(error.os_code(), Some(9));
    assert_eq!(send(&Link::default(), 1 << 20, b"x").unwrap_err().os_code(), Some(9));
}
