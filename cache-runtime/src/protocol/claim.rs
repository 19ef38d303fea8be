//! What a repository claims in a store before it uses it: the namespace for its database, and the entity's name for its
//! table.
//!
//! A store compares and sets in one atomic step, and answers with the other entities of the table (`family`).
//! [`Claim::is_blocked_by`] is the rule; `bind.lua` implements it for Redis.
//! Not here: which databases are the same (`binding`).

use super::family::Family;

/// A text that no binding has: a claim with it reads the binding and changes nothing.
pub const LOOK: &str = "?";

/// What a repository claims in the store, with a compare-and-set.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The database that the claim expects to be bound; empty if it expects none.
    pub seen: &'a str,
    /// The database that a successful claim binds.
    pub leave: &'a str,
    /// The name of the entity.
    pub entity: &'a str,
    /// The table that the claim binds the entity to. It fails if the entity is bound to another table.
    pub table: &'a str,
    /// What the store records of the entity for writers of other entities (`family::Shape`). Empty: nothing.
    pub shape: &'a str,
    /// Whether the claim succeeds whatever is bound.
    pub is_forced: bool,
}

impl Claim<'_> {
    /// Returns whether the claim only reads the binding.
    #[must_use]
    pub fn is_look(&self) -> bool {
        self.seen == LOOK
    }

    /// Returns whether what is bound keeps the claim from succeeding. `database` and `table` are empty where nothing is
    /// bound. `bind.lua` implements the same rule for Redis.
    pub fn is_blocked_by(&self, database: &str, table: &str) -> bool {
        let is_other_table = !table.is_empty() && table != self.table;
        !self.is_forced && (database != self.seen || is_other_table)
    }
}

/// What the store has bound after a claim: the claim, or what kept it from succeeding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The number of the connection to the store.
    pub connection_number: u64,
    /// The database.
    pub database: String,
    /// The table of the entity; empty if there is none.
    pub table: String,
    /// The entities over that table, or else over the claimed one.
    pub family: Family,
}
