//! `cargo xtask fresh`: what somebody meets who tries larder for the first time, in crates that have nothing of this
//! repository but the path to larder.
//! A workspace shares features and dependencies among its packages, and so hides what one of them forgot to ask for.
//! 1. For each database alone, a crate is made with the one line that the README tells, built from nothing, and run.
//!    2. Each example is copied as it stands, with the manifest at its top, and run; the one of tests is tested.
//!    3. It is said what was compiled and how long it took.
//!
//! Invariant: SQLite, which is C, is compiled only for a crate that asks for it.
//! Not here: whether the examples do what they say; the tests run them.

use std::fs;
use std::path::Path;
use std::process::Command;

use larder_testing::clock::Stopwatch;

use crate::cargo::{cargo, root, run as run_command};
use crate::failure::{Attempt, Failure, Outcome};
use crate::interrupt::Interrupt;

/// Each database: the feature, the name of its pool's type, and the address of no server.
const DATABASES: [(&str, &str, &str); 3] = [
    ("postgres", "PgPool", "postgres://nobody@localhost/nothing"),
    ("mysql", "MySqlPool", "mysql://nobody@localhost/nothing"),
    ("sqlite", "SqlitePool", "sqlite::memory:"),
];

/// The examples, and the cargo command that tries each.
const EXAMPLES: [(&str, &str); 6] = [
    ("quickstart", "run"),
    ("transactions", "run"),
    ("shop", "run"),
    ("write_behind", "run"),
    ("testing", "test"),
    // It runs until it is told to stop.
    ("axum", "build"),
];

/// The dependency as the documents write it.
const PUBLISHED: &str = "larder = { version = \"0.1\",";

/// The package that compiles SQLite.
const SQLITE: &str = "libsqlite3-sys";

/// A new crate.
struct Fresh<'f> {
    folder: &'f Path,
    name: &'f str,
}

/// Builds and tries all crates.
pub(crate) fn run(interrupt: &Interrupt) -> Outcome {
    let folder = tempfile::tempdir().attempt(|| "make a temporary folder".to_owned())?;
    for (database, pool, url) in DATABASES {
        let crate_ = Fresh {
            folder: folder.path(),
            name: database,
        };
        crate_.write(&manifest(database), &program(pool, url))?;
        let compiled = crate_.packages()?;
        let has_sqlite = compiled.iter().any(|name| name == SQLITE);
        if has_sqlite != (database == "sqlite") {
            return Err(Failure::message(format!(
                "`features = [\"{database}\"]` and SQLite: it is compiled is {has_sqlite}"
            )));
        }
        let stopwatch = Stopwatch::start();
        crate_.cargo(interrupt, "run", database)?;
        println!(
            "fresh: {database} alone: {} packages in {:.0} s",
            compiled.len(),
            stopwatch.seconds()
        );
    }
    for (example, command) in EXAMPLES {
        let crate_ = Fresh {
            folder: folder.path(),
            name: example,
        };
        let file = root().join("examples").join(example).with_extension("rs");
        let text = read(&file)?;
        let manifest = manifest_in(&text).ok_or_else(|| {
            Failure::message(format!("{}: no manifest at its top", file.display()))
        })?;
        crate_.write(&manifest, &text)?;
        let stopwatch = Stopwatch::start();
        // What the crate of this database has compiled is not compiled again.
        crate_.cargo(interrupt, command, "sqlite")?;
        println!("fresh: {example}: {:.0} s", stopwatch.seconds());
    }
    Ok(())
}

impl Fresh<'_> {
    /// Makes the crate.
    fn write(&self, dependencies: &str, program: &str) -> Outcome {
        let here = self.folder.join(self.name);
        let name = format!("fresh-{}", self.name.replace('_', "-"));
        let larder = format!("larder = {{ path = {:?},", root());
        if !dependencies.contains(PUBLISHED) {
            return Err(Failure::message(format!(
                "{}: its manifest has no `{PUBLISHED} ..`",
                self.name
            )));
        }
        let dependencies = dependencies.replace(PUBLISHED, &larder);
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n{dependencies}\n"
        );
        let lock = read(&root().join("Cargo.lock"))?;
        fs::create_dir_all(here.join("src"))
            .and_then(|()| fs::write(here.join("Cargo.toml"), manifest))
            // The versions that are tested here.
            .and_then(|()| fs::write(here.join("Cargo.lock"), lock))
            .and_then(|()| fs::write(here.join("src/main.rs"), program))
            .attempt(|| format!("write a crate to {}", here.display()))
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = cargo([subcommand]);
        command.current_dir(self.folder.join(self.name));
        command
    }

    /// The names of the packages that are compiled for it, itself included.
    fn packages(&self) -> Outcome<Vec<String>> {
        let mut tree = self.command("tree");
        tree.args([
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ]);
        let output = tree.output().attempt(|| "run `cargo tree`".to_owned())?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Failure::message(errors));
        }
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = lines.lines().map(|line| line.trim_end_matches(" (*)"));
        let mut packages: Vec<_> = lines.map(str::to_owned).collect();
        packages.sort();
        packages.dedup();
        let names = packages.iter().filter_map(|line| line.split(' ').next());
        Ok(names.map(str::to_owned).collect())
    }

    /// Runs cargo in it, with the build folder of this name.
    fn cargo(&self, interrupt: &Interrupt, subcommand: &str, target: &str) -> Outcome {
        let mut command = self.command(subcommand);
        command.arg("--quiet");
        command.env("CARGO_TARGET_DIR", self.folder.join("target").join(target));
        run_command(interrupt, None, command)
    }
}

/// The manifest of a crate with one database.
fn manifest(database: &str) -> String {
    format!(
        "[dependencies]\n{PUBLISHED} features = [\"{database}\"] }}\n\
         serde = {{ version = \"1\", features = [\"derive\"] }}\n\
         sqlx = {{ version = \"0.9\", features = [\"runtime-tokio\", \"macros\"] }}\n\
         tokio = {{ version = \"1\", features = [\"macros\", \"rt-multi-thread\"] }}\n"
    )
}

/// A program that uses both stores and needs no server.
fn program(pool: &str, url: &str) -> String {
    format!(
        "use larder::{{Cache, Cached}};\n\
         use serde::{{Deserialize, Serialize}};\n\
         \n\
         #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]\n\
         #[cached(table = \"flights\")]\n\
         struct Flight {{\n    #[cached(id)]\n    id: i64,\n    code: String,\n}}\n\
         \n\
         #[tokio::main]\n\
         async fn main() -> Result<(), Box<dyn std::error::Error>> {{\n    \
             let pool = sqlx::{pool}::connect_lazy(\"{url}\")?;\n    \
             let shared = Cache::builder().redis(\"redis://127.0.0.1\").build()?;\n    \
             let _flights = Flight::repository(&shared, pool.clone());\n    \
             let flights = Flight::repository(&Cache::in_process(), pool);\n    \
             assert_eq!(flights.stats().loads, 0);\n    \
             Ok(())\n\
         }}\n"
    )
}

/// The manifest in the introduction of an example.
fn manifest_in(text: &str) -> Option<String> {
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    let mut lines = lines.skip_while(|line| *line != " ```toml").skip(1);
    let manifest: Vec<_> = lines.by_ref().take_while(|line| *line != " ```").collect();
    let lines = manifest
        .iter()
        .map(|line| line.strip_prefix(' ').unwrap_or(line));
    let manifest = lines.collect::<Vec<_>>().join("\n");
    (!manifest.is_empty()).then_some(manifest)
}

fn read(file: &Path) -> Outcome<String> {
    fs::read_to_string(file).attempt(|| format!("read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_of_one_file_has_a_manifest_and_is_tried() {
        let mut names = Vec::new();
        for entry in fs::read_dir(root().join("examples")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                let manifest = manifest_in(&read(&path).unwrap());
                assert!(
                    manifest.is_some_and(|text| text.contains(PUBLISHED)),
                    "{path:?}"
                );
                names.push(path.file_stem().unwrap().to_string_lossy().into_owned());
            }
        }
        names.sort();
        let mut tried: Vec<_> = EXAMPLES.iter().map(|(name, _)| *name).collect();
        tried.sort_unstable();
        assert_eq!(names, tried);
    }

    #[test]
    fn manifest_is_read_from_the_introduction() {
        let text = "//! Says.\n//!\n//! ```toml\n//! [dependencies]\n//! a = \"1\"\n//! ```\n\nfn main() {}\n";
        assert_eq!(manifest_in(text).unwrap(), "[dependencies]\na = \"1\"");
        assert_eq!(manifest_in("//! Says.\n"), None);
        assert_eq!(manifest_in("fn main() {}\n"), None);
    }
}
