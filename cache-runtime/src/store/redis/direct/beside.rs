//! What several callers ask for beside their own command, and that is sent once for all of them.
//!
//! A hit of an entity with tags needs the clock of the tags with its entry. If each reader asked for it, the server would execute twice
//! as many commands.
//!
//! 1. A caller adds its own command to what is not sent yet, and here that it wants the clock too.
//! 2. Whoever sends adds one command for each clock, after all others. So a reading is made after everybody who shares it has asked, and
//!    after the entries were read.
//!
//! Invariant: nobody gets a reading that was asked for before its own command was added.
//! Not here: what a reading means (`protocol/tags`).

use redis::Cmd;
use smallvec::SmallVec;

use super::{Answer, Requests};
use crate::protocol::key::Key;

/// A command that is sent once.
pub(super) struct Beside {
    key: Key,
    command: Vec<u8>,
    pub(super) answers: SmallVec<[Answer; 1]>,
}

impl Requests {
    /// Adds a caller who wants the reply to a command on a key beside that to its own, which was added before.
    pub(super) fn add_beside(&mut self, key: &Key, answer: Answer, command: impl FnOnce() -> Cmd) {
        if let Some(beside) = self.beside.iter_mut().find(|beside| beside.key == *key) {
            return beside.answers.push(answer);
        }
        self.beside.push(Beside {
            key: key.clone(),
            command: command().get_packed_command(),
            answers: smallvec::smallvec![answer],
        });
    }

    /// Called when what was not sent yet is about to be.
    pub(super) fn write_beside(&mut self) {
        for Beside {
            command, answers, ..
        } in std::mem::take(&mut self.beside)
        {
            self.unsent.extend_from_slice(&command);
            self.await_replies(1, answers);
        }
    }
}
