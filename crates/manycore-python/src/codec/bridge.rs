//! Between the codec's messages and the engine's.
//!
//! # Why this file is unsafe
//!
//! The engine takes segments as raw runs of bytes; that they stay in place is
//! the encoder's promise, which this file passes on.
#![allow(unsafe_code)]

use std::sync::Arc;

use manycore_engine::pool::{self, Message, Payload};

use super::encode::Encoder;
use super::format;
use super::incoming::Incoming;

/// Bytes of a message that is small.
const SMALL: usize = 4096;

impl Encoder {
    /// Whether the message is small and the codec's own: to have written it cost next to nothing.
    pub(crate) fn is_small_and_plain(&self) -> bool {
        self.segments().is_empty() && self.head().len() <= SMALL && self.head().first() == Some(&format::NATIVE)
    }

    /// Runs `send` on the message last encoded.
    pub(crate) fn with_message<R>(&self, send: impl FnOnce(Message<'_>) -> R) -> R {
        if self.segments().is_empty() {
            return send(Message::of(self.head()));
        }
        let segments: Vec<pool::Segment> = self
            .segments()
            .iter()
            // SAFETY: the encoder holds what the bytes belong to until it is used
            // again or cleared, and it is borrowed while `send` runs.
            .map(|segment| unsafe { pool::Segment::new(segment.ptr, segment.len) })
            .collect();
        send(Message { head: self.head(), segments: &segments })
    }
}

/// Runs `send` on a message that lies in one piece, as `encode` of the module gives it.
pub(crate) fn with_flat<R>(head_len: usize, bytes: &[u8], send: impl FnOnce(Message<'_>) -> R) -> R {
    let (head, rest) = bytes.split_at(head_len.min(bytes.len()));
    // The gap behind the head is made again by whoever copies the message.
    let start = format::align(head_len).map_or(0, |start| start - head_len);
    match rest.get(start..).filter(|rest| !rest.is_empty()) {
        None => send(Message::of(head)),
        // SAFETY: the bytes are borrowed while `send` runs.
        Some(rest) => send(Message { head, segments: &[unsafe { pool::Segment::new(rest.as_ptr(), rest.len()) }] }),
    }
}

impl Incoming {
    /// What lies in a block, which a view of it keeps by itself.
    pub(crate) fn of_lease(lease: Arc<pool::Lease>) -> Incoming {
        let (ptr, head_len, len) = (lease.base().as_ptr(), lease.head(), lease.len());
        Incoming { ptr, head_len, len, owner: Some(lease) }
    }

    /// What the engine received. The payload must outlive the decoding; a view of
    /// a block keeps the block by itself.
    pub(crate) fn of(payload: &Payload) -> Incoming {
        let owner = match payload {
            Payload::Inline(_) => None,
            Payload::Block(lease) => Some(Arc::clone(lease) as _),
        };
        Incoming { ptr: payload.base().as_ptr(), head_len: payload.head_len(), len: payload.len(), owner }
    }

    /// What the engine received, kept as long as the message is read.
    pub(crate) fn own(payload: Payload) -> Incoming {
        match payload {
            Payload::Inline(bytes) => {
                let (len, bytes) = (bytes.len(), Arc::new(bytes));
                Incoming { ptr: bytes.as_ptr().cast_mut(), head_len: len, len, owner: Some(bytes) }
            }
            Payload::Block(_) => Incoming::of(&payload),
        }
    }

    /// A private copy of a message, which views may keep.
    pub(crate) fn of_copy(bytes: Vec<u8>, head_len: usize) -> Incoming {
        let bytes = Arc::new(bytes);
        Incoming { ptr: bytes.as_ptr().cast_mut(), head_len, len: bytes.len(), owner: Some(bytes) }
    }
}
