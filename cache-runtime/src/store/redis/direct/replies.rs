//! The bytes that have arrived, and the replies in them.
//!
//! A reply is found complete before it is parsed, so that it is parsed once, however many pieces it arrives in. Its end is found
//! by counting: an array of n adds n values that have yet to end (the RESP protocol, redis.io/docs/reference/protocol-spec).
//!
//! Not here: what a value means. Everything but a string of bytes, which is what a hit is, is parsed by redis-rs.

use std::io;

use redis::Value;

use super::{Closed, KEPT};

/// How much is read at once at least.
const READ: usize = 16 << 10;

/// The bytes that have arrived.
#[derive(Default)]
pub(super) struct Replies {
    bytes: Vec<u8>,
    /// How many of them have arrived. The others are room.
    filled: usize,
    /// Where the reply begins that is being looked at.
    begin: usize,
    /// Where its next value begins.
    at: usize,
    /// How many of its values have yet to end. 0 before its first.
    missing: usize,
    /// Complete replies that were not taken yet.
    values: Vec<Value>,
}

impl Replies {
    /// Reads what has arrived, with a function that reads from the socket.
    pub(super) fn receive(
        &mut self,
        mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> Result<(), Closed> {
        loop {
            self.make_room();
            let room = self.bytes.len() - self.filled;
            let read = match read(&mut self.bytes[self.filled..]) {
                Ok(0) => {
                    let reason = "Redis has closed the connection";
                    return Err(Closed::new(reason));
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            self.filled += read;
            self.parse()?;
            self.reuse_room();
            if read < room {
                return Ok(());
            }
        }
    }

    /// Returns the length of the buffer.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the replies that are complete.
    pub(super) fn take(&mut self) -> std::vec::Drain<'_, Value> {
        self.values.drain(..)
    }

    /// Starts at the beginning of the buffer again, if all replies are complete.
    fn reuse_room(&mut self) {
        if self.begin == self.filled {
            (self.begin, self.at, self.filled) = (0, 0, 0);
            if self.bytes.len() > KEPT {
                self.bytes = Vec::new();
            }
        }
    }

    /// Makes room for more bytes.
    fn make_room(&mut self) {
        if self.bytes.len() - self.filled >= READ {
            return;
        }
        if self.begin > 0 {
            self.bytes.copy_within(self.begin..self.filled, 0);
            self.at -= self.begin;
            self.filled -= self.begin;
            self.begin = 0;
        }
        // Twice as much as a reply has so far, so that a long one is not copied often.
        let room = self.filled + READ.max(self.filled);
        if self.bytes.len() < room {
            self.bytes.resize(room, 0);
        }
    }

    /// Finds the replies that are complete.
    fn parse(&mut self) -> Result<(), Closed> {
        while let Some(end) = self.end_of_reply()? {
            let reply = &self.bytes[self.begin..end];
            match reply[0] {
                b'$' if reply[1] != b'-' => {
                    let start = reply.iter().position(|&byte| byte == b'\n').unwrap_or(0) + 1;
                    let string = reply[start..].strip_suffix(b"\r\n");
                    let string = string.ok_or_else(|| malformed("a string without an end"))?;
                    self.values.push(Value::BulkString(string.to_vec()));
                }
                // Nobody subscribes on this connection, so a message answers nobody.
                b'>' => {}
                _ => match redis::parse_redis_value(reply) {
                    Ok(value) => self.values.push(value),
                    Err(error) => return Err(malformed(&error.to_string())),
                },
            }
            self.begin = end;
        }
        Ok(())
    }

    /// Returns where the reply at `begin` ends, if it has arrived.
    fn end_of_reply(&mut self) -> Result<Option<usize>, Closed> {
        if self.missing == 0 {
            self.at = self.begin;
            self.missing = 1;
        }
        while self.missing > 0 {
            let rest = &self.bytes[self.at..self.filled];
            let Some(line) = rest.iter().position(|&byte| byte == b'\n') else {
                return Ok(None);
            };
            // As redis-rs reads it.
            if line < 2 || rest[line - 1] != b'\r' {
                return Err(malformed("a line without an end"));
            }
            let (kind, text) = (rest[0], &rest[1..line - 1]);
            let (length, adds) = match kind {
                b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => (line + 1, 0),
                b'$' | b'=' | b'!' => match count(text)? {
                    None => (line + 1, 0),
                    Some(bytes) => (bytes.saturating_add(line + 3), 0),
                },
                b'*' | b'~' | b'>' => (line + 1, count(text)?.unwrap_or(0)),
                b'%' => (line + 1, count(text)?.unwrap_or(0).saturating_mul(2)),
                // Attributes come before the value that they belong to.
                b'|' => (
                    line + 1,
                    count(text)?
                        .unwrap_or(0)
                        .saturating_mul(2)
                        .saturating_add(1),
                ),
                _ => return Err(malformed("a value of an unknown kind")),
            };
            if length > rest.len() {
                return Ok(None);
            }
            self.at += length;
            self.missing = (self.missing - 1).saturating_add(adds);
        }
        Ok(Some(self.at))
    }
}

/// Returns the number in a line; `None` for `-1`.
fn count(line: &[u8]) -> Result<Option<usize>, Closed> {
    if line == b"-1" {
        return Ok(None);
    }
    let text = std::str::from_utf8(line).ok();
    let number = text.and_then(|text| text.parse::<u32>().ok());
    match number {
        Some(number) => Ok(Some(number as usize)),
        None => Err(malformed("a length that is no number")),
    }
}

fn malformed(what: &str) -> Closed {
    let reason = format!("Redis has sent {what}");
    Closed::new(&reason)
}
