//! One state of the protocol on one key: the database, the server, and the readers and writers.
//!
//! Everything is small, because a search copies it millions of times.

use std::fmt;

use larder::token::Token;

use crate::store::{Key, Row, intents};

/// The maximum number of readers and of writers.
pub(crate) const MAX: usize = 3;

/// One state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// The committed row.
    pub(crate) row: Row,
    /// The key on the server.
    pub(crate) key: Key,
    /// The number of restarts, which is the number of the present history.
    pub(crate) history: u8,
    /// Copies of earlier states of the key, which a restart may restore.
    pub(crate) copies: Vec<Key>,
    pub(crate) readers: [Reader; MAX],
    pub(crate) writers: [Writer; MAX],
    /// A fill was accepted although something had happened to the key since its lease.
    pub(crate) unfair_fill: bool,
    /// A cache update was stored although its writer was not alone at the key all the time.
    pub(crate) unfair_update: bool,
}

/// The state of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reader {
    /// Between two reads, with this many left.
    Idle(u8),
    /// Holds a row that it read before it asked for a lease. No real reader does that.
    Early(u8, Row),
    /// Has the lease.
    Leased(Load),
    /// Has read the row under the lease.
    Loaded(Load, Row),
}

/// A load under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Load {
    /// How many reads are left, this one included.
    pub(crate) left: u8,
    /// The history in which the lease was granted.
    pub(crate) stamp: u8,
    /// Whether anything happened to the key since the grant.
    pub(crate) disturbed: bool,
}

/// The state of a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Writer {
    Idle,
    /// Its intent was acknowledged.
    Announced(Announcement),
    /// It has checked again that it can rely on its intent, and is about to commit.
    Cleared(Announcement),
    Committed(Announcement),
    /// Done, or dead.
    Gone,
}

/// What a writer knows of its intent, and what is true of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Announcement {
    /// The history it was placed in.
    pub(crate) stamp: u8,
    /// Whether its deadline has not passed.
    pub(crate) fresh: bool,
    /// Whether it was placed only once.
    pub(crate) once: bool,
    /// Whether it was alone at the key ever since.
    pub(crate) alone: bool,
}

/// A step of a reader or a writer, or a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    ReadEarly(usize),
    Ask(usize),
    Load(usize),
    Release(usize),
    Fill(usize),
    Begin(usize),
    Renew(usize),
    Clear(usize),
    Commit(usize),
    Abort(usize),
    End(usize),
    Crash(usize),
    DropEntry,
    ExpireIntents,
    LoseIntents,
    Copy,
    Restart(Option<usize>),
}

impl World {
    /// Returns the first state: the row is not cached.
    pub(crate) fn new(readers: usize, rounds: u8, writers: usize) -> Self {
        let mut world = Self {
            row: Some(0),
            key: None,
            history: 0,
            copies: Vec::new(),
            readers: [Reader::Idle(0); MAX],
            writers: [Writer::Gone; MAX],
            unfair_fill: false,
            unfair_update: false,
        };
        world.readers[..readers].fill(Reader::Idle(rounds));
        world.writers[..writers].fill(Writer::Idle);
        world
    }

    /// Records for every load that something happened to the key.
    pub(crate) fn disturb(&mut self) {
        for reader in &mut self.readers {
            if let Reader::Leased(load) | Reader::Loaded(load, _) = reader {
                load.disturbed = true;
            }
        }
    }

    /// Records for each intent whether it is still alone at the key.
    pub(crate) fn watch(&mut self) {
        let present = intents(&self.key);
        for (number, writer) in self.writers.iter_mut().enumerate() {
            if let Writer::Announced(announcement)
            | Writer::Cleared(announcement)
            | Writer::Committed(announcement) = writer
            {
                announcement.alone &= present == [intent(number)];
            }
        }
    }

    /// Returns whether a writer is between its commit and its end.
    pub(crate) fn is_ending(&self) -> bool {
        self.writers
            .iter()
            .any(|writer| matches!(writer, Writer::Committed(_)))
    }
}

/// Returns the token of a writer's intent.
pub(crate) fn intent(writer: usize) -> Token {
    Token::numbered(100 + writer as u64)
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadEarly(reader) => write!(f, "R{reader} reads the row"),
            Self::Ask(reader) => write!(f, "R{reader} asks the store"),
            Self::Load(reader) => write!(f, "R{reader} reads the row"),
            Self::Release(reader) => write!(f, "R{reader} gives its lease back"),
            Self::Fill(reader) => write!(f, "R{reader} fills"),
            Self::Begin(writer) => write!(f, "W{writer} begins"),
            Self::Renew(writer) => write!(f, "W{writer} begins again"),
            Self::Clear(writer) => write!(f, "W{writer} finds its intent good"),
            Self::Commit(writer) => write!(f, "W{writer} commits"),
            Self::Abort(writer) => write!(f, "W{writer} rolls back and ends"),
            Self::End(writer) => write!(f, "W{writer} ends"),
            Self::Crash(writer) => write!(f, "W{writer} dies"),
            Self::DropEntry => f.write_str("the entry expires"),
            Self::ExpireIntents => f.write_str("the intents expire"),
            Self::LoseIntents => f.write_str("the intents are evicted"),
            Self::Copy => f.write_str("the server saves its data"),
            Self::Restart(None) => f.write_str("the server restarts empty"),
            Self::Restart(Some(_)) => f.write_str("the server restarts with the saved data"),
        }
    }
}
