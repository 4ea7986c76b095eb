//! A worker's spare buffers, so that a connection has one only while there is something in it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;

/// What is read at once at first.
pub(super) const READ: usize = 8 * 1024;

/// Most heads fit, and the small bodies behind them.
const TEXT: usize = 4 * 1024;

/// Buffers of each kind that a worker keeps for connections that come to life.
const KEPT_BUFFERS: usize = 32;

/// A worker's spare buffers: a connection has one only while there is something in it, so that thousands of idle ones, or of ones
/// that were busy once, cost none.
#[derive(Default)]
pub(in crate::proxy) struct Buffers(Mutex<Spare>);

#[derive(Default)]
struct Spare {
    reads: Vec<BytesMut>,
    texts: Vec<Vec<u8>>,
}

// === impl Buffers ===

impl Buffers {
    pub(super) fn take(&self) -> BytesMut {
        let spare = self.lock().reads.pop();
        spare.unwrap_or_else(|| BytesMut::with_capacity(READ))
    }

    /// Takes back what a connection needs no more. Whoever still holds a part of it keeps it from being used again.
    pub(super) fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut spare = self.lock();
        if spare.reads.len() < KEPT_BUFFERS {
            spare.reads.push(buffer);
        }
    }

    /// Memory for a head and the beginning of a body.
    pub(super) fn take_text(&self) -> Vec<u8> {
        let spare = self.lock().texts.pop();
        spare.unwrap_or_else(|| Vec::with_capacity(TEXT))
    }

    pub(super) fn give_text(&self, text: Vec<u8>) {
        let mut spare = self.lock();
        if text.capacity() == TEXT && spare.texts.len() < KEPT_BUFFERS {
            spare.texts.push(text);
        }
    }

    /// How many reads are spare.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.lock().reads.len()
    }

    fn lock(&self) -> MutexGuard<'_, Spare> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
