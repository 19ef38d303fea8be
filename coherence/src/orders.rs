//! What a worker is told at its start, as the arguments of its process.
//!
//! Invariant: what one side writes the other reads; nobody types these.

use std::path::PathBuf;

use larder_coherence::{
    harness::{process, site::Address},
    options::{Broken, Database, Strategy},
};

use crate::workload::Role;

/// What a worker is told at its start.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    /// Its name, which no other worker of the run has had.
    pub(crate) name: String,
    /// A number that no other worker of the run has had; its values begin with it.
    pub(crate) number: u64,
    pub(crate) address: Address,
    /// Where Redis is; without it, rows are cached in the process.
    pub(crate) redis: Option<String>,
    pub(crate) namespace: String,
    pub(crate) log: PathBuf,
    pub(crate) seed: u64,
    pub(crate) strategies: Vec<Strategy>,
    /// Whether the rows have tags.
    pub(crate) tags: bool,
    /// Whether entries are sealed, because somebody writes into Redis.
    pub(crate) attack: bool,
    pub(crate) broken: Option<Broken>,
    pub(crate) database: Database,
}

impl process::Orders for Orders {
    fn name(&self) -> &str {
        &self.name
    }

    fn environment(&self) -> &'static [(&'static str, &'static str)] {
        match self.broken {
            // A transaction that was left open keeps its locks, and a writer that waits for one would never end.
            Some(Broken::DroppedBegin) => {
                &[("PGOPTIONS", "-c idle_in_transaction_session_timeout=1000")]
            }
            _ => &[],
        }
    }

    /// The arguments that [`Orders::from_arguments`] understands.
    fn to_arguments(&self) -> Vec<String> {
        let names = self.strategies.iter().map(|strategy| strategy.name());
        vec![
            "worker".to_owned(),
            self.name.clone(),
            self.number.to_string(),
            self.address.url.clone(),
            self.address.name.clone(),
            self.address
                .port
                .map_or(String::new(), |port| port.to_string()),
            self.redis.clone().unwrap_or_default(),
            self.namespace.clone(),
            self.log.display().to_string(),
            self.seed.to_string(),
            names.collect::<Vec<_>>().join(","),
            self.tags.to_string(),
            self.attack.to_string(),
            self.broken
                .map_or(String::new(), |broken| broken.name().to_owned()),
            self.database.name().to_owned(),
        ]
    }
}

impl Orders {
    /// Which of the workers it is.
    pub(crate) fn role(&self) -> Role {
        if self.database == Database::Sqlite {
            Role::Alone
        } else if self.address.port.is_none() {
            Role::First
        } else {
            Role::Other
        }
    }

    /// Reads what the parent has written; nothing if this is no worker's command line.
    pub(crate) fn from_arguments(arguments: &[String]) -> Option<Self> {
        let [
            word,
            name,
            number,
            url,
            database,
            port,
            redis,
            namespace,
            log,
            seed,
            strategies,
            tags,
            attack,
            broken,
            kind,
        ] = arguments
        else {
            return None;
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (word == "worker").then_some(())?;
        Some(Self {
            name: name.clone(),
            number: number.parse().ok()?,
            address: Address {
                url: url.clone(),
                name: database.clone(),
                port: some(port).and_then(|port| port.parse().ok()),
            },
            redis: some(redis),
            namespace: namespace.clone(),
            log: log.into(),
            seed: seed.parse().ok()?,
            strategies: strategies
                .split(',')
                .map(|name| name.parse().ok())
                .collect::<Option<_>>()?,
            tags: tags.parse().ok()?,
            attack: attack.parse().ok()?,
            broken: some(broken).and_then(|name| name.parse().ok()),
            database: kind.parse().ok()?,
        })
    }
}
