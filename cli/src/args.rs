//! What the command can be asked for.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use clap_complete::Shell;

const CODES: &str = "Exit codes: 0 done, 1 something was not found or is wrong, 2 wrong usage, 3 Redis or the database cannot be reached or \
                     has refused.";

/// Looks into the Redis of a larder cache, and steers it.
#[derive(Debug, Parser)]
#[command(name = "larder", version, about, after_help = CODES, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Write JSON instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which Redis, and how it is read.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct StoreArgs {
    /// The URL of Redis: `redis://`, `rediss://` or `redis+unix://`.
    #[arg(
        long,
        global = true,
        env = "LARDER_REDIS",
        hide_env_values = true,
        default_value = "redis://127.0.0.1/"
    )]
    pub(crate) redis: String,
    /// The namespace of the cache.
    #[arg(
        long,
        short,
        global = true,
        env = "LARDER_NAMESPACE",
        default_value = "larder"
    )]
    pub(crate) namespace: String,
    /// A file with the secret keys of the cache, in hexadecimal digits, one in a line, the current one first.
    #[arg(long, global = true, env = "LARDER_SECRET_KEYS", value_name = "FILE")]
    pub(crate) secret_keys: Option<PathBuf>,
    /// A file with the root certificate (PEM) of a Redis with a certificate of its own.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) root_certificate: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the entities, how each is cached, and the processes that use it.
    Entities,
    /// Show what is at the key of a row: its state, its times, whose lease or intents it has, and the row.
    Show {
        /// The entity.
        entity: String,
        /// The id; the parts of a composite id one by one.
        #[arg(required = true)]
        id: Vec<String>,
    },
    /// Find keys by a pattern of Redis, such as `shop:Product:4*`.
    Find {
        /// The pattern.
        pattern: String,
        /// How many keys are listed at most.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// How many keys of Redis are looked at, at most.
        #[arg(long, default_value_t = 1_000_000)]
        scan: u64,
    },
    /// Drop cached rows: by id, by tag, or all of an entity. Queued writes are never dropped.
    Drop {
        /// The entity.
        entity: String,
        /// The ids of rows, each a single value.
        #[arg(conflicts_with_all = ["tag", "all"])]
        ids: Vec<String>,
        /// Rows with this tag.
        #[arg(long, conflicts_with = "all")]
        tag: Option<String>,
        /// All rows.
        #[arg(long)]
        all: bool,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Show the queues of write-behind entities: how much waits, for how long, and who flushes.
    Queues {
        /// Only of this entity.
        entity: Option<String>,
        /// The URL of the database, to also show what was lost and how many dead letters there are.
        #[arg(long, env = "LARDER_DATABASE", hide_env_values = true)]
        database: Option<String>,
    },
    /// Show, replay and discard dead letters: queued writes that the database has rejected.
    Letters {
        /// The URL of the database.
        #[arg(long, env = "LARDER_DATABASE", hide_env_values = true)]
        database: String,
        #[command(subcommand)]
        command: LettersCommand,
    },
    /// Send the reads of an entity, or of all (`*`), to the database in every process, or stop filling the cache. It takes effect
    /// within five seconds, and writes are announced all the same, so that `resume` is safe.
    Pause {
        /// What to pause.
        what: Paused,
        /// The entity, or `*` for all.
        #[arg(default_value = "*")]
        entity: String,
    },
    /// End what `pause` began.
    Resume {
        /// The entity, or `*` for what was paused for all.
        #[arg(default_value = "*")]
        entity: String,
    },
    /// Compare the server with what the entities need: version, role, memory, persistence, rights.
    Doctor,
    /// Compare cached rows with the database, and report those that are stale. A process that has the entity does it, at a bounded
    /// rate. Exit code 1 if a row was stale.
    Audit {
        /// The entities; without, all that are not write-behind.
        entities: Vec<String>,
        /// How many rows of each are compared at most.
        #[arg(long, default_value_t = 10_000)]
        rows: u64,
        /// How many rows are compared in a second at most; 0 for any number.
        #[arg(long, default_value_t = 1_000)]
        per_second: u32,
        /// Go on for ever, with a pause of so many seconds.
        #[arg(long, value_name = "SECONDS")]
        every: Option<u64>,
    },
    /// Watch the entities: reads, hit ratio, loads, latency, queues. `q` ends it.
    Top {
        /// The seconds between two looks.
        #[arg(long, default_value_t = 2.0)]
        every: f64,
        /// End after so many looks.
        #[arg(long)]
        looks: Option<u64>,
    },
    /// Write the completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the man page.
    Man,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Paused {
    /// Rows come from the database, and none is stored.
    Reads,
    /// What is cached is served, and nothing new is stored.
    Fills,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LettersCommand {
    /// List the dead letters of an entity.
    List {
        /// The entity.
        entity: String,
        /// How many are listed at most.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Show a letter with its content.
    Show {
        /// The entity.
        entity: String,
        /// Its place, as `list` tells it: partition/epoch/number.
        place: String,
    },
    /// Queue the write of a letter again, in a process that has the entity, if the row was not written since it was rejected.
    Replay {
        /// The entity.
        entity: String,
        /// Its place, as `list` tells it: partition/epoch/number.
        place: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Remove a letter for good.
    Discard {
        /// The entity.
        entity: String,
        /// Its place, as `list` tells it: partition/epoch/number.
        place: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}
