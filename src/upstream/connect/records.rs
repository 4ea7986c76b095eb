//! Tracks TLS record boundaries, because rustls does not report an incomplete record.

/// Content type, version and length (RFC 8446 §5.1).
const HEADER: usize = 5;

/// Parses record headers, however reads split the bytes.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Bytes seen of the current header.
    header: usize,
    /// The last two header bytes; after the fifth, the length of the record's payload.
    length: u16,
    /// Bytes of the payload that are still to come.
    payload: usize,
}

impl Records {
    /// Takes the next bytes of the stream.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((byte, rest)) = bytes.split_first() {
            if self.payload > 0 {
                let passed = bytes.len().min(self.payload);
                self.payload -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            self.length = self.length << 8 | u16::from(*byte);
            self.header += 1;
            if self.header == HEADER {
                self.header = 0;
                self.payload = usize::from(self.length);
            }
            bytes = rest;
        }
    }

    /// Returns whether every record that has begun is complete.
    pub(super) fn at_boundary(&self) -> bool {
        self.header == 0 && self.payload == 0
    }
}

#[cfg(test)]
mod tests;
