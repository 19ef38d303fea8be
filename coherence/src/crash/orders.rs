//! What a worker is told at its start, as the arguments of its process.
//!
//! Invariant: what one side writes the other reads; nobody types these.

use std::path::PathBuf;

use larder_coherence::{
    harness::{process, site::Address},
    options::Database,
    queue::options::Broken,
};

/// What a worker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It writes and reads, and leaves the flushing to others.
    Writer,
    /// It flushes.
    Flusher,
    /// It does both, where the queue is in the process.
    Alone,
    /// It flushes what there is, notes the dead letters, and ends.
    Drainer,
}

impl Role {
    const ALL: [(&'static str, Self); 4] = [
        ("writer", Self::Writer),
        ("flusher", Self::Flusher),
        ("alone", Self::Alone),
        ("drainer", Self::Drainer),
    ];

    pub(crate) fn name(self) -> &'static str {
        let known = Self::ALL.iter().find(|(_, role)| *role == self);
        known.map_or("", |(name, _)| name)
    }
}

/// What a worker is told at its start.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(crate) role: Role,
    /// Its name, which no other worker of the run has.
    pub(crate) name: String,
    /// The first of its ids.
    pub(crate) first_id: i64,
    /// The first of the counters.
    pub(crate) counters: i64,
    pub(crate) address: Address,
    /// Where Redis is; without it, the queue is in the process.
    pub(crate) redis: Option<String>,
    /// Where journals are kept.
    pub(crate) journal_dir: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) seed: u64,
    /// Whether entries are sealed, because somebody writes into Redis.
    pub(crate) attack: bool,
    pub(crate) broken: Option<Broken>,
    pub(crate) database: Database,
}

impl process::Orders for Orders {
    fn name(&self) -> &str {
        &self.name
    }

    /// The arguments that [`Orders::from_arguments`] understands.
    fn to_arguments(&self) -> Vec<String> {
        vec![
            "worker".to_owned(),
            self.role.name().to_owned(),
            self.name.clone(),
            self.first_id.to_string(),
            self.counters.to_string(),
            self.address.url.clone(),
            self.address.name.clone(),
            self.redis.clone().unwrap_or_default(),
            self.journal_dir.display().to_string(),
            self.log.display().to_string(),
            self.seed.to_string(),
            self.attack.to_string(),
            self.broken
                .map_or(String::new(), |broken| broken.name().to_owned()),
            self.database.name().to_owned(),
        ]
    }
}

impl Orders {
    /// Reads what the parent has written; nothing if this is no worker's command line.
    pub(crate) fn from_arguments(arguments: &[String]) -> Option<Self> {
        let [
            word,
            role,
            name,
            first_id,
            counters,
            url,
            database,
            redis,
            journal_dir,
            log,
            seed,
            attack,
            broken,
            kind,
        ] = arguments
        else {
            return None;
        };
        (word == "worker").then_some(())?;
        Some(Self {
            role: Role::ALL.iter().find(|(known, _)| known == role)?.1,
            name: name.clone(),
            first_id: first_id.parse().ok()?,
            counters: counters.parse().ok()?,
            address: Address {
                url: url.clone(),
                name: database.clone(),
                port: None,
            },
            redis: (!redis.is_empty()).then(|| redis.clone()),
            journal_dir: journal_dir.into(),
            log: log.into(),
            seed: seed.parse().ok()?,
            attack: attack.parse().ok()?,
            broken: broken.parse().ok(),
            database: kind.parse().ok()?,
        })
    }
}
