//! What is right and wrong with a server for what the listed entities need.
//!
//! It asks with `INFO`, `CONFIG GET`, `ACL DRYRUN` and `CLIENT LIST`, and changes nothing. What the user may not ask is told as that.
//!
//! Not here: what larder itself does about a server (`store::redis::connection`).

use std::collections::HashMap;

use redis::Value;
use serde::Serialize;

use super::Tools;
use crate::{
    error::Error,
    protocol::listing::{ListedEntity, ListedProcess},
};

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It could not be found out.
    Unknown,
    /// It works, at a price that is said.
    Warning,
    /// Something does not work, or is not safe.
    Error,
}

/// Something that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What it is about.
    pub about: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was found, and what to do.
    pub text: String,
}

impl Finding {
    fn new(about: &'static str, severity: Severity, text: impl Into<String>) -> Self {
        Self {
            about,
            severity,
            text: text.into(),
        }
    }
}

/// What the declared entities need.
struct Needs {
    queues: bool,
    /// Whether a queue is to survive a loss of power.
    fsync: bool,
    tags: bool,
}

impl Tools {
    /// Compares the server with what the listed entities need.
    ///
    /// # Errors
    ///
    /// As [`Tools::entities`].
    pub async fn doctor(&self) -> Result<Vec<Finding>, Error> {
        let entities = self.entities().await?;
        let entities: Vec<_> = entities.into_values().collect();
        let needs = Needs {
            queues: entities.iter().any(|entity| entity.queue.is_some()),
            fsync: entities.iter().any(wants_fsync),
            tags: entities.iter().any(|entity| !entity.tags.is_empty()),
        };
        let processes = self.processes().await?;
        let mut findings = vec![listed(&entities, processes.len())];
        match self.ask_for::<String>(&redis::cmd("INFO")).await {
            Ok(info) => {
                let info = fields(&info);
                findings.extend(self.of_info(&info, &needs).await);
            }
            Err(error) => findings.push(Finding::new(
                "INFO",
                Severity::Error,
                format!(
                    "the server does not tell what it is: {error}; without it, larder notices neither a restart with old data nor \
                     replicas; grant `+info`"
                ),
            )),
        }
        findings.extend(self.of_config(&needs).await);
        findings.extend(self.of_rights(&needs).await);
        findings.extend(self.of_database(&entities, processes.values()));
        Ok(findings)
    }

    async fn of_info(&self, info: &HashMap<&str, &str>, needs: &Needs) -> Vec<Finding> {
        let get = |name: &str| info.get(name).copied().unwrap_or_default();
        let mut findings = Vec::new();
        let version = get("redis_version");
        let major = version
            .split('.')
            .next()
            .and_then(|major| major.parse().ok());
        findings.push(match major {
            Some(7_u32..) => Finding::new("version", Severity::Ok, format!("Redis {version}")),
            Some(_) => Finding::new(
                "version",
                Severity::Error,
                format!("Redis {version} is too old; use 7.0 or newer, or Valkey"),
            ),
            None => Finding::new("version", Severity::Unknown, "the server tells no version"),
        });
        findings.push(match (get("role"), get("redis_mode")) {
            (_, "cluster") => Finding::new(
                "role",
                Severity::Error,
                "it is a node of a cluster, which larder refuses; use one server",
            ),
            ("master", _) => Finding::new("role", Severity::Ok, "it is a primary"),
            (role, _) => Finding::new(
                "role",
                Severity::Error,
                format!("it is a {role}; connect larder to the primary"),
            ),
        });
        let replicas: u64 = get("connected_slaves").parse().unwrap_or_default();
        if replicas > 0 {
            findings.push(match info.contains_key("min_slaves_good_slaves") {
                true => Finding::new(
                    "replicas",
                    Severity::Ok,
                    format!("{replicas} replicas, and writes need some of them"),
                ),
                false => Finding::new(
                    "replicas",
                    Severity::Error,
                    format!(
                        "{replicas} replicas, and writes need none: a primary that is cut off can serve old rows; set \
                         `min-replicas-to-write` to at least 1"
                    ),
                ),
            });
        }
        let evicted: u64 = get("evicted_keys").parse().unwrap_or_default();
        if evicted > 0 {
            findings.push(Finding::new(
                "evictions",
                Severity::Warning,
                format!(
                    "{evicted} keys were evicted since the server started; an evicted entry costs a load; raise `maxmemory` if it \
                     goes on"
                ),
            ));
        }
        if needs.queues && get("aof_last_write_status") == "err" {
            findings.push(Finding::new(
                "persistence",
                Severity::Error,
                "the last write to the append-only file failed; queued writes are not safe: look at the disk of the server",
            ));
        }
        findings
    }

    async fn of_config(&self, needs: &Needs) -> Vec<Finding> {
        let mut config = HashMap::new();
        for name in [
            "maxmemory",
            "maxmemory-policy",
            "appendonly",
            "appendfsync",
            "timeout",
        ] {
            let mut get = redis::cmd("CONFIG");
            get.arg("GET").arg(name);
            match self.ask_for::<HashMap<String, String>>(&get).await {
                Ok(found) => config.extend(found),
                Err(error) => {
                    let severity = match needs.fsync {
                        true => Severity::Error,
                        false => Severity::Warning,
                    };
                    return vec![Finding::new(
                        "CONFIG",
                        severity,
                        format!(
                            "the settings cannot be read: {error}; write-behind needs `durability = \"memory\"` then; grant \
                             `+config|get`"
                        ),
                    )];
                }
            }
        }
        let get = |name: &str| config.get(name).map_or("", String::as_str);
        let mut findings = Vec::new();
        let policy = get("maxmemory-policy");
        findings.push(match (needs.queues, policy, get("maxmemory")) {
            (true, policy, _) if policy.starts_with("allkeys") => Finding::new(
                "maxmemory-policy",
                Severity::Error,
                format!(
                    "`{policy}` may evict queues, so larder refuses to queue; use `volatile-lru`, `volatile-lfu` or `noeviction`"
                ),
            ),
            (_, policy, "0") => Finding::new(
                "maxmemory",
                Severity::Warning,
                format!("there is no limit of memory (policy `{policy}`); set `maxmemory` for a cache"),
            ),
            (false, "noeviction", _) => Finding::new(
                "maxmemory-policy",
                Severity::Warning,
                "`noeviction`: when the memory is full, nothing is cached any more; use `allkeys-lru` or `allkeys-lfu`",
            ),
            (_, policy, _) => Finding::new("maxmemory-policy", Severity::Ok, format!("`{policy}`")),
        });
        if needs.fsync {
            let sync = get("appendfsync");
            findings.push(match (get("appendonly"), sync) {
                ("yes", "always" | "everysec") => Finding::new(
                    "appendonly",
                    Severity::Ok,
                    format!("`yes`, with `appendfsync {sync}`"),
                ),
                (appendonly, _) => Finding::new(
                    "appendonly",
                    Severity::Error,
                    format!(
                        "`appendonly {appendonly}`, `appendfsync {sync}`: queued writes are not on a disk, so larder refuses to \
                         queue; set `appendonly yes` and `appendfsync everysec`, or `durability = \"memory\"` on the entities"
                    ),
                ),
            });
        }
        if get("timeout") != "0" {
            findings.push(Finding::new(
                "timeout",
                Severity::Warning,
                format!(
                    "`timeout {}` closes idle connections; set it to 0",
                    get("timeout")
                ),
            ));
        }
        findings
    }

    /// Asks the server whether this user may run the commands that are needed, without running them.
    async fn of_rights(&self, needs: &Needs) -> Vec<Finding> {
        let mut whoami = redis::cmd("ACL");
        whoami.arg("WHOAMI");
        let user = match self.ask_for::<String>(&whoami).await {
            Ok(user) => user,
            Err(error) => {
                let text = format!(
                    "the rights of this user cannot be checked: {error}; grant `+acl|whoami` and `+acl|dryrun`"
                );
                return vec![Finding::new("rights", Severity::Unknown, text)];
            }
        };
        let (key, field) = (format!("{}:doctor", self.namespace()), "f");
        let mut wanted: Vec<Vec<&str>> = vec![
            vec!["getrange", &key, "0", "1"],
            vec!["set", &key, "v"],
            vec!["del", &key],
            vec!["pttl", &key],
            vec!["hset", &key, field, "v"],
            vec!["hmget", &key, field],
            vec!["evalsha", "0", "1", &key],
            vec!["script", "load", "return 1"],
            vec!["info"],
            vec!["time"],
            vec!["scan", "0"],
        ];
        if needs.tags {
            wanted.push(vec!["hgetall", &key]);
            wanted.push(vec!["hdel", &key, field]);
        }
        let queue = format!("larder:q:{{{}:doctor", self.namespace());
        if needs.queues {
            wanted.push(vec!["xadd", &queue, "*", field, "v"]);
            wanted.push(vec!["xrange", &queue, "-", "+"]);
            wanted.push(vec!["zadd", &queue, "1", "m"]);
        }
        let mut refused = Vec::new();
        for words in wanted {
            let mut dry = redis::cmd("ACL");
            dry.arg("DRYRUN").arg(&user).arg(&words);
            match self.ask(&dry).await {
                Ok(Value::Okay) => {}
                Ok(_) => refused.push(words[0].to_owned()),
                Err(error) => {
                    let text = format!("the rights of this user cannot be checked: {error}");
                    return vec![Finding::new("rights", Severity::Unknown, text)];
                }
            }
        }
        vec![match refused.is_empty() {
            true => Finding::new(
                "rights",
                Severity::Ok,
                format!("the user {user} may do what is needed"),
            ),
            false => Finding::new(
                "rights",
                Severity::Error,
                format!(
                    "the user {user} lacks {}; docs/operations.md lists what is needed",
                    refused.join(", ")
                ),
            ),
        }]
    }

    /// Looks whether programs use the namespace for another database or table than the one that it is bound to.
    fn of_database<'p>(
        &self,
        entities: &[ListedEntity],
        processes: impl Iterator<Item = &'p ListedProcess>,
    ) -> Vec<Finding> {
        let mut systems: Vec<_> = entities
            .iter()
            .filter(|entity| entity.namespace == self.namespace())
            .map(|entity| &*entity.database)
            .collect();
        systems.sort_unstable();
        systems.dedup();
        let refused = processes.flat_map(|process| {
            let of_process = move |why: &String| {
                let text = format!("{} pid {}: {why}", process.host, process.pid);
                Finding::new("database", Severity::Error, text)
            };
            process.refused.iter().map(of_process)
        });
        let mut findings: Vec<_> = refused.collect();
        match systems[..] {
            [] => findings.push(Finding::new(
                "database",
                Severity::Unknown,
                "no entity is listed",
            )),
            [only] if findings.is_empty() => findings.push(Finding::new(
                "database",
                Severity::Ok,
                format!("all entities are in {only}"),
            )),
            [_] => {}
            _ => findings.push(Finding::new(
                "database",
                Severity::Error,
                format!(
                    "one namespace is used with several databases ({}); give each a namespace of its own",
                    systems.join(", ")
                ),
            )),
        }
        findings
    }
}

fn listed(entities: &[ListedEntity], processes: usize) -> Finding {
    let text = format!("{} entities of {processes} processes", entities.len());
    let severity = match (entities.is_empty(), processes) {
        (true, _) | (_, 0) => Severity::Warning,
        _ => Severity::Ok,
    };
    Finding::new("listing", severity, text)
}

/// Returns whether an entity's queued writes are to survive a loss of power.
fn wants_fsync(entity: &ListedEntity) -> bool {
    let queue = entity.queue.as_ref();
    queue.is_some_and(|queue| queue.durability != "memory")
}

/// Returns the fields of the reply of `INFO`.
fn fields(info: &str) -> HashMap<&str, &str> {
    let lines = info.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name, value.trim())).collect()
}
