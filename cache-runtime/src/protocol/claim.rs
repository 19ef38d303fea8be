//! What a repository claims in a store before it uses it: its namespace for one database, its name for one table.
//!
//! A store compares and sets in one atomic step. [`Claim::is_blocked_by`] is the rule; `bind.lua` says the same for Redis.
//! Not here: which databases are the same (`binding`).

/// What a repository claims in the store, by compare-and-set.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The database that must be bound; empty if none may be.
    pub seen: &'a str,
    /// The database that is bound then.
    pub leave: &'a str,
    /// The name of the entity.
    pub entity: &'a str,
    /// The table that it must stand for, or will.
    pub table: &'a str,
    /// Whether it is bound whatever was.
    pub is_forced: bool,
}

impl Claim<'_> {
    /// Whether what is bound stands in its way; the database and the table are empty where nothing is bound. `bind.lua` says
    /// the same for Redis.
    pub fn is_blocked_by(&self, database: &str, table: &str) -> bool {
        let is_other_table = !table.is_empty() && table != self.table;
        !self.is_forced && (database != self.seen || is_other_table)
    }
}

/// What is bound in the store after a claim: what was claimed, or what stands in its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The run of the store.
    pub connection_number: u64,
    /// The database.
    pub database: String,
    /// The table of the entity; empty if there is none.
    pub table: String,
}
