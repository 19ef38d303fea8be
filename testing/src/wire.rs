//! Reads statements off a connection to PostgreSQL or MariaDB, for [`crate::statements`].
//! What a client library reports is its own story; what crosses the wire is what the server gets.
//! 1. The proxy shows an observer all bytes of one connection, in order, both ways. 2. Bytes are
//!    cut into messages. 3. A message that runs a statement logs its text: at once for a plain
//!    query, by looking up the prepared statement otherwise.
//!
//! Invariant: preparing a statement does not count; each execution does.
//! Not here: encrypted connections (the shared servers offer none) and replies, except the one that
//! numbers a prepared statement.

use std::collections::HashMap;

use crate::statements::StatementLog;

/// Stands for a statement that was prepared out of our sight; it counts all the same.
const UNKNOWN: &str = "SELECT /* its text did not cross the wire */";

/// Sees the bytes of one connection before they are passed on.
pub trait Observer: Send {
    /// The client sent these.
    fn request(&mut self, bytes: &[u8]);

    /// The server sent these.
    fn reply(&mut self, bytes: &[u8]);
}

/// A connection to PostgreSQL.
#[derive(Debug)]
pub struct Postgres {
    log: StatementLog,
    pending: Vec<u8>,
    started: bool,
    statements: HashMap<Vec<u8>, String>,
    portals: HashMap<Vec<u8>, String>,
}

impl Postgres {
    /// An observer at the beginning of a connection.
    pub fn new(log: StatementLog) -> Self {
        Self {
            log,
            pending: Vec::new(),
            started: false,
            statements: HashMap::new(),
            portals: HashMap::new(),
        }
    }

    /// The session's first message has no kind; encryption requests precede it and look alike.
    fn next_start(&mut self) -> Option<()> {
        let length = big_endian(self.pending.get(..4)?);
        let message: Vec<u8> = take(&mut self.pending, length)?;
        const VERSION_3_0: usize = 0x0003_0000;
        const VERSION_3_2: usize = 0x0003_0002;
        self.started = matches!(big_endian(&message[4..8]), VERSION_3_0..=VERSION_3_2);
        Some(())
    }

    fn next_message(&mut self) -> Option<()> {
        let length = big_endian(self.pending.get(1..5)?);
        let message = take(&mut self.pending, length + 1)?;
        let mut fields = message[5..].split(|&byte| byte == 0);
        let mut field = || fields.next().unwrap_or_default().to_vec();
        match message[0] {
            b'Q' => self.log.record(&String::from_utf8_lossy(&field())),
            b'P' => {
                let (name, sql) = (field(), field());
                self.statements
                    .insert(name, String::from_utf8_lossy(&sql).into_owned());
            }
            b'B' => {
                let (portal, name) = (field(), field());
                let sql = self.statements.get(&name).map_or(UNKNOWN, String::as_str);
                self.portals.insert(portal, sql.to_owned());
            }
            b'E' => {
                let sql = self.portals.get(&field()).map_or(UNKNOWN, String::as_str);
                self.log.record(sql);
            }
            _ => {}
        }
        Some(())
    }
}

impl Observer for Postgres {
    fn request(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        loop {
            let step = if self.started {
                self.next_message()
            } else {
                self.next_start()
            };
            if step.is_none() {
                return;
            }
        }
    }

    fn reply(&mut self, _bytes: &[u8]) {}
}

/// A connection to MariaDB or MySQL.
#[derive(Debug)]
pub struct Mysql {
    log: StatementLog,
    requests: Vec<u8>,
    replies: Vec<u8>,
    /// A statement whose number the next reply tells.
    preparing: Option<String>,
    statements: HashMap<Vec<u8>, String>,
}

impl Mysql {
    /// An observer at the beginning of a connection.
    pub fn new(log: StatementLog) -> Self {
        Self {
            log,
            requests: Vec::new(),
            replies: Vec::new(),
            preparing: None,
            statements: HashMap::new(),
        }
    }

    fn next_request(&mut self) -> Option<()> {
        const QUERY: u8 = 0x03;
        const PREPARE: u8 = 0x16;
        const EXECUTE: u8 = 0x17;
        let length = little_endian(self.requests.get(..3)?);
        let packet = take(&mut self.requests, length + 4)?;
        // A command starts a new sequence; other packets log in or continue a long command.
        if packet[3] != 0 {
            return Some(());
        }
        let body = &packet[4..];
        match body.first() {
            Some(&QUERY) => self.log.record(&String::from_utf8_lossy(&body[1..])),
            Some(&PREPARE) => {
                self.preparing = Some(String::from_utf8_lossy(&body[1..]).into_owned());
                self.replies.clear();
            }
            Some(&EXECUTE) => {
                let known = body
                    .get(1..5)
                    .and_then(|number| self.statements.get(number));
                self.log.record(known.map_or(UNKNOWN, String::as_str));
            }
            _ => {}
        }
        Some(())
    }
}

impl Observer for Mysql {
    fn request(&mut self, bytes: &[u8]) {
        self.requests.extend_from_slice(bytes);
        while self.next_request().is_some() {}
    }

    fn reply(&mut self, bytes: &[u8]) {
        if self.preparing.is_none() {
            return;
        }
        self.replies.extend_from_slice(bytes);
        // Four bytes of header, then either an error or zero and the number of the statement.
        if self.replies.len() < 9 {
            return;
        }
        if let Some(sql) = self.preparing.take().filter(|_| self.replies[4] == 0) {
            self.statements.insert(self.replies[5..9].to_vec(), sql);
        }
    }
}

fn take(bytes: &mut Vec<u8>, length: usize) -> Option<Vec<u8>> {
    (bytes.len() >= length).then(|| bytes.drain(..length).collect())
}

fn big_endian(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .fold(0, |number, &byte| number << 8 | usize::from(byte))
}

fn little_endian(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | usize::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres_message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], length.as_slice(), body].concat()
    }

    fn mysql_packet(sequence: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        [&length[..3], &[sequence], body].concat()
    }

    #[test]
    fn postgres_statement_counts_once_per_execution_however_the_bytes_are_cut() {
        let start = [8_u32.to_be_bytes(), 0x0003_0000_u32.to_be_bytes()].concat();
        let execution = [
            postgres_message(b'B', b"\0one\0\0\0\0\0\0\0"),
            postgres_message(b'E', b"\0\0\0\0\0"),
            postgres_message(b'S', b""),
        ]
        .concat();
        let bytes = [
            start,
            postgres_message(b'P', b"one\0SELECT 1\0\0\0"),
            execution.clone(),
            execution,
            postgres_message(b'Q', b"SELECT 2\0"),
        ]
        .concat();
        for size in [1, 7, bytes.len()] {
            let log = StatementLog::default();
            let mut observer = Postgres::new(log.clone());
            bytes.chunks(size).for_each(|chunk| observer.request(chunk));
            assert_eq!(
                log.texts(),
                ["SELECT 1", "SELECT 1", "SELECT 2"],
                "in chunks of {size}"
            );
        }
    }

    #[test]
    fn mysql_statement_is_known_by_the_number_the_server_gave_it() {
        let log = StatementLog::default();
        let mut observer = Mysql::new(log.clone());
        observer.request(&mysql_packet(1, b"\x03SELECT 'part of the login'"));
        observer.request(&mysql_packet(0, b"\x16SELECT 1"));
        for byte in mysql_packet(1, &[0, 7, 0, 0, 0, 1, 0]) {
            observer.reply(&[byte]);
        }
        observer.request(&mysql_packet(0, &[0x17, 7, 0, 0, 0, 0, 1, 0, 0, 0]));
        observer.request(&mysql_packet(0, &[0x17, 8, 0, 0, 0, 0, 1, 0, 0, 0]));
        observer.request(&mysql_packet(0, b"\x03SELECT 2"));
        assert_eq!(log.texts(), ["SELECT 1", UNKNOWN, "SELECT 2"]);
    }
}
