//! What the derive costs a build: `cargo check` of a crate of 50 entities, beside the same structs without it.
//!
//! Both crates depend on the same packages, which are checked once before, and differ in one word of each derive. A
//! check is timed after its source was written anew, so it compiles that crate and nothing else. The first figure is of a
//! check from scratch; the second of one that may reuse what the compiler kept from the check before.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::expect_ratio;
use crate::{
    Failure,
    measure::{Effort, Spread, order},
    report::{self, Goal, time},
    servers,
};
use larder_testing::clock::now;

const ENTITIES: usize = 50;
/// A check takes about a second; more rounds than this change nothing.
const MAX_ROUNDS: usize = 9;

/// Compares 50 entities with 50 structs.
pub(crate) async fn run(effort: Effort) -> Result<(), Failure> {
    println!(
        "  {ENTITIES} structs of ten fields, rustc {}, serde {}, sqlx {}, larder {}",
        rustc()?,
        servers::locked("serde"),
        servers::locked("sqlx"),
        servers::locked("larder")
    );
    let crates = [
        Sample::write("plain", ENTITIES, false)?,
        Sample::write("cached", ENTITIES, true)?,
    ];
    for (name, incremental) in [("derive-cost-incremental", true), ("derive-cost", false)] {
        let [plain, cached] = check_in_turn(&crates, effort, incremental)?;
        let (plain_ns, cached_ns) = (
            Spread::of(plain.clone()).median,
            Spread::of(cached.clone()).median,
        );
        println!(
            "  {}: serde and FromRow {}, with Cached {}, {} an entity",
            if incremental {
                "touched"
            } else {
                "from scratch"
            },
            time(plain_ns),
            time(cached_ns),
            time((cached_ns - plain_ns).max(0.0) / 50.0),
        );
        let goal = if incremental {
            Goal::None
        } else {
            Goal::AtMost(2.0)
        };
        report::ratio(name, Spread::of_ratios(&cached, &plain), goal);
    }
    Ok(())
}

/// A crate of three times the structs takes longer, but not three times: Cargo's own time is in both.
pub(crate) async fn control(effort: Effort) -> Result<(), Failure> {
    let crates = [
        Sample::write("plain", ENTITIES, false)?,
        Sample::write("triple", ENTITIES * 3, false)?,
    ];
    let [once, thrice] = check_in_turn(&crates, effort, false)?;
    expect_ratio(
        "three times the structs",
        Spread::of_ratios(&thrice, &once),
        1.5,
        3.1,
    )
}

fn rustc() -> Result<String, Failure> {
    let output = Command::new("rustc").arg("--version").output()?;
    let version = String::from_utf8(output.stdout)?;
    Ok(version.split(' ').nth(1).unwrap_or("unknown").to_owned())
}

/// Checks each crate once per round; the times in nanoseconds.
fn check_in_turn(
    crates: &[Sample; 2],
    effort: Effort,
    incremental: bool,
) -> Result<[Vec<f64>; 2], Failure> {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=effort.rounds.min(MAX_ROUNDS) {
        for place in order(crates.len(), round) {
            let took = crates[place].check(incremental)?;
            // The first round also checks the packages they depend on.
            if round > 0 {
                times[place].push(took);
            }
        }
    }
    Ok(times)
}

/// A crate that was written to be checked.
struct Sample {
    folder: PathBuf,
    source: String,
}

impl Sample {
    fn write(name: &str, entities: usize, cached: bool) -> Result<Self, Failure> {
        let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = benches.join("target/derive-cost").join(name);
        fs::create_dir_all(folder.join("src"))?;
        fs::write(folder.join("Cargo.toml"), manifest(name, benches))?;
        // The versions that the benchmarks are built with; Cargo drops the ones that are not needed.
        fs::copy(benches.join("Cargo.lock"), folder.join("Cargo.lock"))?;
        Ok(Self {
            folder,
            source: source(entities, cached),
        })
    }

    fn check(&self, incremental: bool) -> Result<f64, Failure> {
        fs::write(self.folder.join("src/lib.rs"), &self.source)?;
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command
            .args(["check", "--offline", "--quiet"])
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", self.folder.join("../target"))
            .env("CARGO_INCREMENTAL", if incremental { "1" } else { "0" });
        let began = now();
        let status = command.status()?;
        let took = now() - began;
        if !status.success() {
            return Err(format!("cargo check in {} failed", self.folder.display()).into());
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "a check ends in far less than 2^53 ns"
        )]
        Ok(took as f64)
    }
}

fn manifest(name: &str, benches: &Path) -> String {
    let larder = benches.join("..");
    format!(
        r#"[workspace]

[package]
name = "derive-cost-{name}"
version = "0.0.0"
edition = "2024"

[dependencies]
larder = {{ path = '{}', default-features = false, features = ["postgres", "redis", "msgpack", "json"] }}
chrono = {{ version = "0.4.42", default-features = false, features = ["serde", "clock"] }}
serde = {{ version = "1.0.228", features = ["derive"] }}
sqlx = {{ version = "0.9", default-features = false, features = ["runtime-tokio", "macros", "postgres", "chrono"] }}
"#,
        larder.display()
    )
}

fn source(entities: usize, cached: bool) -> String {
    let mut source = String::from("//! Written by the benchmark `derive-cost`.\n");
    for number in 0..entities {
        let (derive, table, id) = if cached {
            (
                ", larder::Cached",
                format!("#[cached(table = \"flights_{number}\", ttl = \"10m\")]\n"),
                "    #[cached(id)]\n",
            )
        } else {
            ("", String::new(), "")
        };
        write!(
            source,
            "
/// An entity.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, sqlx::FromRow{derive})]
{table}pub struct Flight{number} {{
{id}    pub id: i64,
    pub number: String,
    pub airline: String,
    pub origin: String,
    pub destination: String,
    pub status: String,
    pub departs_at: chrono::DateTime<chrono::Utc>,
    pub gate: Option<String>,
    pub seats_left: i64,
    pub remarks: String,
}}
"
        )
        .expect("a string takes all that is written to it");
    }
    source
}
