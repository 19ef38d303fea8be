//! Which database a namespace belongs to, and whether another one is the same.
//!
//! No single sign is enough. A dump that was restored elsewhere has the same stored id. A failover leads to another
//! server under the same address. A proxy, or a second name, is another address of the same server. A snapshot of the
//! disk has all data of the database. So larder keeps four signs, and compares them together:
//!
//! 1. the *id* that `install` has stored in the database, if any;
//! 2. the *cluster*, on Postgres: what its standbys and the copies of its disk have in common;
//! 3. the *endpoints* of the pools that connected to it: host, port and database, or the file;
//! 4. the *server*, by what it reports while it runs.
//!
//! Two databases are the same if neither their ids nor their clusters contradict each other, and an endpoint or the
//! server matches. The signs of the same database are merged, so that a namespace follows its database through restarts
//! and failovers, one sign at a time.
//!
//! Invariant: a copy of a database, a newly created one, and a moved one are other databases, unless they have an
//! address that the namespace knows and their stored signs do not contradict it.
//! Not here: how the signs are found (`prober`), and where the binding is kept (`ledger`, and the store).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::printed::Printed;

/// The maximum number of recorded endpoints of one server.
const MAX_ENDPOINTS: usize = 16;

/// The database that a namespace is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bound {
    /// The kind of database, as sqlx names it.
    system: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    id: Option<String>,
    /// The latest one is last.
    endpoints: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    cluster: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    server: Option<String>,
}

/// The signs of the database that a pool connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) system: &'static str,
    pub(crate) id: Sign,
    pub(crate) endpoint: String,
    pub(crate) cluster: Sign,
    pub(crate) server: Sign,
}

/// One sign of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// The database was not asked, or this user may not see the sign.
    Unknown,
    /// The database does not have this sign.
    Absent,
    Known(String),
}

/// Whether a database is the one that a namespace is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the same. These are its merged signs.
    Same(Bound),
    Other(Other),
    /// Unknown until the database is asked for more signs.
    Open,
}

/// Why two databases are different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    /// They are different kinds of databases, for example PostgreSQL and SQLite.
    System,
    /// Their stored ids differ.
    Id,
    /// The binding has an id, and the database has none.
    NoId,
    /// Its server was set up separately, and is not a standby of the known one.
    Cluster,
    /// Neither its endpoint nor its server matches. `same_id`: the stored ids are equal.
    Elsewhere { same_id: bool },
}

impl Sign {
    fn known(&self) -> Option<&str> {
        match self {
            Self::Known(sign) => Some(sign),
            Self::Unknown | Self::Absent => None,
        }
    }
}

impl Bound {
    /// Returns the binding that the first repository makes.
    pub(crate) fn to(seen: &Seen) -> Self {
        Self {
            system: seen.system.to_owned(),
            id: seen.id.known().map(str::to_owned),
            endpoints: vec![seen.endpoint.clone()],
            cluster: seen.cluster.known().map(str::to_owned),
            server: seen.server.known().map(str::to_owned),
        }
    }

    /// Returns whether another one runs on another server: it was restarted, or a standby has taken over.
    pub(crate) fn runs_elsewhere(&self, other: &Self) -> bool {
        let servers = self.server.as_ref().zip(other.server.as_ref());
        servers.is_some_and(|(own, other)| own != other)
    }

    /// Returns the form in which a store keeps it.
    pub(crate) fn encode(&self) -> String {
        serde_json::to_string(self).expect("texts can be written as JSON")
    }

    pub(crate) fn decode(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Compares a database with the bound one.
    pub(crate) fn compare(&self, seen: &Seen) -> Verdict {
        if self.system != seen.system {
            return Verdict::Other(Other::System);
        }
        match (&self.id, &seen.id) {
            (Some(bound), Sign::Known(id)) if bound != id => return Verdict::Other(Other::Id),
            (Some(_), Sign::Absent) => return Verdict::Other(Other::NoId),
            _ => {}
        }
        let clusters = self.cluster.as_deref().zip(seen.cluster.known());
        if clusters.is_some_and(|(bound, cluster)| bound != cluster) {
            return Verdict::Other(Other::Cluster);
        }
        let is_endpoint = self.endpoints.contains(&seen.endpoint);
        let servers = self.server.as_deref().zip(seen.server.known());
        let is_server = servers.is_some_and(|(bound, server)| bound == server);
        if !is_endpoint && !is_server {
            // Without a server, the endpoint decides.
            if seen.server == Sign::Unknown {
                return Verdict::Open;
            }
            let same_id = self.id.is_some() && self.id.as_deref() == seen.id.known();
            return Verdict::Other(Other::Elsewhere { same_id });
        }
        Verdict::Same(self.merged(seen, servers.is_some() && !is_server))
    }

    /// Returns the merged signs of the same database. `failed_over` says that it is another server under a known
    /// endpoint. Then the other endpoints led to the former server and are forgotten: they may belong to another
    /// database now.
    fn merged(&self, seen: &Seen, failed_over: bool) -> Self {
        let mut endpoints = if failed_over {
            Vec::new()
        } else {
            self.endpoints.clone()
        };
        if !endpoints.contains(&seen.endpoint) {
            endpoints.push(seen.endpoint.clone());
        }
        let superfluous = endpoints.len().saturating_sub(MAX_ENDPOINTS);
        endpoints.drain(..superfluous);
        let or = |sign: &Sign, bound: &Option<String>| {
            sign.known().map(str::to_owned).or_else(|| bound.clone())
        };
        Self {
            system: self.system.clone(),
            id: or(&seen.id, &self.id),
            endpoints,
            cluster: or(&seen.cluster, &self.cluster),
            server: or(&seen.server, &self.server),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.endpoints.last().map_or("", String::as_str);
        let (id, server) = (self.id.as_deref(), self.server.as_deref());
        describe(f, &self.system, endpoint, id, server)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, server) = (self.id.known(), self.server.known());
        describe(f, self.system, &self.endpoint, id, server)
    }
}

fn describe(
    f: &mut fmt::Formatter<'_>,
    system: &str,
    endpoint: &str,
    id: Option<&str>,
    server: Option<&str>,
) -> fmt::Result {
    // The store may hold what another program has left there.
    let (system, endpoint) = (Printed::short(system), Printed::short(endpoint));
    write!(f, "the {system} database {endpoint} (")?;
    match id {
        Some(id) => write!(f, "id {}", Printed::short(id))?,
        None => f.write_str("no id")?,
    }
    if let Some(server) = server {
        write!(f, ", server {}", Printed::short(server))?;
    }
    f.write_str(")")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(id: &str, endpoint: &str, server: &str) -> Seen {
        let sign = |text: &str| match text {
            "" => Sign::Absent,
            "?" => Sign::Unknown,
            text => Sign::Known(text.to_owned()),
        };
        Seen {
            system: "PostgreSQL",
            id: sign(id),
            endpoint: endpoint.to_owned(),
            cluster: Sign::Absent,
            server: sign(server),
        }
    }

    fn in_cluster(cluster: &str, seen: Seen) -> Seen {
        Seen {
            cluster: Sign::Known(cluster.to_owned()),
            ..seen
        }
    }

    fn judged(bound: &Seen, seen: &Seen) -> Verdict {
        let bound = Bound::to(bound);
        assert_eq!(Bound::decode(&bound.encode()).as_ref(), Some(&bound));
        bound.compare(seen)
    }

    #[track_caller]
    fn is_same(bound: &Seen, seen: &Seen) -> Bound {
        match judged(bound, seen) {
            Verdict::Same(bound) => bound,
            verdict => panic!("{verdict:?}"),
        }
    }

    #[track_caller]
    fn is_other(bound: &Seen, seen: &Seen, why: Other) {
        assert_eq!(judged(bound, seen), Verdict::Other(why));
    }

    #[test]
    fn a_failover_and_another_name_of_the_server_are_the_same_database() {
        for id in ["", "1"] {
            is_same(&seen(id, "db/app", "s1"), &seen(id, "db/app", "s2"));
            is_same(&seen(id, "db/app", "s1"), &seen(id, "proxy/app", "s1"));
        }
    }

    #[test]
    fn a_restored_dump_a_new_database_and_a_moved_one_are_others() {
        let production = seen("1", "db/app", "s1");
        let moved = Other::Elsewhere { same_id: true };
        is_other(&production, &seen("1", "staging/app", "s2"), moved);
        is_other(&production, &seen("2", "db/app", "s1"), Other::Id);
        is_other(&production, &seen("", "db/app", "s1"), Other::NoId);
        let elsewhere = Other::Elsewhere { same_id: false };
        is_other(
            &seen("", "db/app", "s1"),
            &seen("", "staging/app", "s2"),
            elsewhere,
        );
        is_other(
            &seen("", "db/app", "s1"),
            &seen("2", "staging/app", "s2"),
            elsewhere,
        );
        // Nothing is known of the server of either.
        is_other(&seen("", "a.db", ""), &seen("", "b.db", ""), elsewhere);
        let sqlite = Seen {
            system: "SQLite",
            ..seen("1", "db/app", "s1")
        };
        is_other(&production, &sqlite, Other::System);
    }

    #[test]
    fn a_copy_of_the_disk_and_another_cluster_under_one_name_are_others() {
        let production = in_cluster("c1", seen("1", "db/app", "s1"));
        // It has the id and the cluster, and runs elsewhere.
        let snapshot = in_cluster("c1", seen("1", "staging/app", "s2"));
        is_other(&production, &snapshot, Other::Elsewhere { same_id: true });
        // Two sets of containers, both with a host `db`, and a dump that was restored.
        let restored = in_cluster("c2", seen("1", "db/app", "s2"));
        is_other(&production, &restored, Other::Cluster);
        is_same(&production, &in_cluster("c1", seen("1", "db/app", "s2")));
        // Without the cluster, which this user may not see, the other signs decide.
        is_same(&production, &seen("1", "db/app", "s1"));
    }

    #[test]
    fn id_installed_later_is_merged_and_then_compared() {
        let upgraded = is_same(&seen("", "db/app", "s1"), &seen("1", "db/app", "s1"));
        let other = upgraded.compare(&seen("2", "db/app", "s1"));
        assert_eq!(other, Verdict::Other(Other::Id));
        // Without the id, which this user may not see, the other signs decide.
        assert!(matches!(
            upgraded.compare(&seen("?", "db/app", "s1")),
            Verdict::Same(same) if same == upgraded
        ));
    }

    #[test]
    fn without_an_answer_only_the_endpoint_identifies_a_database() {
        let bound = seen("1", "db/app", "s1");
        is_same(&bound, &seen("?", "db/app", "?"));
        assert_eq!(judged(&bound, &seen("?", "proxy/app", "?")), Verdict::Open);
    }

    #[test]
    fn after_a_failover_the_names_of_the_former_server_are_forgotten() {
        let bound = is_same(&seen("1", "db/app", "s1"), &seen("1", "old-host/app", "s1"));
        let Verdict::Same(bound) = bound.compare(&seen("1", "db/app", "s2")) else {
            panic!("a failover is the same database");
        };
        // The old host is used for a copy now.
        let copy = bound.compare(&seen("1", "old-host/app", "s1"));
        assert_eq!(copy, Verdict::Other(Other::Elsewhere { same_id: true }));
        assert!(matches!(
            bound.compare(&seen("1", "new-host/app", "s2")),
            Verdict::Same(_)
        ));
    }

    #[test]
    fn number_of_recorded_endpoints_is_limited() {
        let mut bound = Bound::to(&seen("1", "0", "s1"));
        for number in 1..10 * MAX_ENDPOINTS {
            match bound.compare(&seen("1", &number.to_string(), "s1")) {
                Verdict::Same(merged) => bound = merged,
                verdict => panic!("{verdict:?}"),
            }
        }
        assert_eq!(bound.endpoints.len(), MAX_ENDPOINTS);
    }
}
