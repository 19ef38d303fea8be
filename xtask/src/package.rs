//! Whether the published crates are complete: each is compiled from nothing but what it ships.
//! 1. `cargo package` makes the archives. 2. They are unpacked into a workspace of their own, in which each takes the
//!    place of the published crate of its name. 3. That workspace is checked.
//!
//! Not here: the verification of `cargo package` itself. It unpacks the archives among the user's downloaded crates,
//! and takes what an earlier run left there under the same version for what is packaged now.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::{cargo, root, run as run_command};
use crate::failure::{Attempt, Failure, Outcome};
use crate::interrupt::Interrupt;

/// The crates that are published.
const PUBLISHED: [&str; 4] = ["larder", "larder-cli", "larder-derive", "larder-runtime"];

/// Makes the archives and compiles what is in them.
pub(crate) fn run(interrupt: &Interrupt) -> Outcome {
    let target = root().join("target");
    let folder = target.join("published");
    if folder.exists() {
        fs::remove_dir_all(&folder).attempt(|| format!("remove {}", folder.display()))?;
    }

    let mut package = cargo(["package", "--locked", "--allow-dirty", "--no-verify"]);
    package.args(["--quiet", "--all-features"]);
    for name in PUBLISHED {
        package.args(["-p", name]);
    }
    package.arg("--target-dir").arg(&folder);
    run_command(interrupt, None, package)?;

    for name in PUBLISHED {
        let unpacked = folder.join(name);
        fs::create_dir(&unpacked).attempt(|| format!("create {}", unpacked.display()))?;
        let mut unpack = Command::new("tar");
        // All files in an archive bear the same date, by which cargo does not see that they have changed since the
        // last run; with `m` they are as old as this run. The one folder in it has the version in its name.
        unpack.args(["--strip-components=1", "-xmf"]);
        unpack.arg(archive_of(name, &folder.join("package"))?);
        unpack.arg("-C").arg(unpacked);
        run_command(interrupt, None, unpack)?;
    }
    write_workspace(&folder)?;
    // None can be built without a database.
    let mut check = cargo(["check", "--quiet", "--workspace", "--all-features"]);
    check.current_dir(&folder).arg("--target-dir").arg(target);
    run_command(interrupt, None, check)
}

/// The archive of a crate, whatever its version.
fn archive_of(name: &str, folder: &Path) -> Outcome<PathBuf> {
    let what = || format!("list {}", folder.display());
    for entry in fs::read_dir(folder).attempt(what)? {
        let path = entry.attempt(what)?.path();
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let version = file_name
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('-'));
        let is_version =
            version.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()));
        if is_version && file_name.ends_with(".crate") {
            return Ok(path);
        }
    }
    Err(Failure::message(format!(
        "no archive of {name} in {}",
        folder.display()
    )))
}

/// Makes one workspace of the unpacked crates, with the dependencies that are tested here.
fn write_workspace(folder: &Path) -> Outcome {
    let mut manifest = String::from(
        "[workspace]\nresolver = \"3\"\nmembers = [\"larder*\"]\n\n[patch.crates-io]\n",
    );
    for name in PUBLISHED {
        let _ = writeln!(manifest, "{name} = {{ path = \"{name}\" }}");
    }
    fs::write(folder.join("Cargo.toml"), manifest)
        .and_then(|()| fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")))
        .map(drop)
        .attempt(|| format!("write a workspace to {}", folder.display()))
}
