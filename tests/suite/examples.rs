//! The examples run, as a reader would run them: the programs that `cargo` has built beside this one, without any server.
//!
//! The tests inside `examples/testing.rs` are tests of their own. `cargo xtask fresh` copies the files into new crates.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

/// The program of an example. Cargo builds it with the tests of this package.
fn program(example: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let program = here
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples")
        .join(example);
    assert!(
        program.is_file(),
        "{} is not built; run `cargo build --examples --all-features`",
        program.display()
    );
    program
}

/// What an example prints. It must succeed.
fn printed(example: &str) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(program(example)).output().unwrap();
    let printed = String::from_utf8(stdout).unwrap();
    let errors = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{status}\n{printed}\n{errors}");
    printed
}

#[test]
fn quickstart_runs() {
    assert!(printed("quickstart").contains("Stats {"));
}

#[test]
fn transactions_runs() {
    let printed = printed("transactions");
    assert!(printed.contains("transfer 1 is done"), "{printed}");
    assert!(
        printed.contains("refused: the account has only 70 cents"),
        "{printed}"
    );
    assert!(
        printed.contains("refused: there is no account 3"),
        "{printed}"
    );
}

#[test]
fn write_behind_runs() {
    let printed = printed("write_behind");
    assert!(printed.contains("refused: "), "{printed}");
    assert!(printed.contains("left in the queue: 1"), "{printed}");
}

/// The service of the example, which is killed if a test ends early.
struct Service {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
    address: String,
}

impl Service {
    fn start(folder: &std::path::Path) -> Self {
        let mut process = Command::new(program("axum"))
            .env("ADDRESS", "127.0.0.1:0")
            .env("DATABASE", folder.join("flights.db"))
            .env_remove("REDIS_URL")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .expect("it listens");
        Self {
            address: address.to_owned(),
            process,
            output,
        }
    }

    /// Sends a request. Returns the status and the body.
    fn send(&self, request: &str, body: &str) -> (u16, String) {
        let mut connection = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(
            connection,
            "{request} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    /// Asks it to end. Returns what it printed last.
    fn stop(mut self) -> String {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(sent.success());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.process.wait().unwrap().success(), "{rest}");
        rest
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
    }
}

#[test]
fn axum_answers_with_the_right_status_and_stops_without_losing_a_write() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let flight = r#"{"code": "LH400", "gate": null}"#;
    assert_eq!(service.send("GET /flights/1", "").0, 404);
    let (status, body) = service.send("POST /flights", flight);
    assert_eq!(status, 201, "{body}");
    assert!(
        body.contains(r#""id":1"#) && body.contains(r#""version":1"#),
        "{body}"
    );
    assert_eq!(service.send("POST /flights", flight).0, 409);
    assert_eq!(service.send("GET /flights/1", ""), (200, body));
    let moved = r#"{"code": "LH400", "gate": "A12", "version": 1}"#;
    let (status, body) = service.send("PUT /flights/1", moved);
    assert_eq!(status, 200, "{body}");
    // The same change again is based on an old row: the answer has the current one.
    let (status, current) = service.send("PUT /flights/1", moved);
    assert_eq!((status, current), (409, body.clone()));
    assert_eq!(service.send("GET /flights/1", ""), (200, body));
    assert_eq!(service.send("PUT /flights/7", moved).0, 404);
    assert_eq!(
        service.send("GET /flights/1/views", ""),
        (200, "2".to_owned())
    );
    assert_eq!(service.stop(), "stopped\n");

    // The views were only queued, and are in the database.
    let service = Service::start(folder.path());
    assert_eq!(
        service.send("GET /flights/1/views", ""),
        (200, "2".to_owned())
    );
    assert_eq!(service.send("DELETE /flights/1", "").0, 204);
    assert_eq!(service.send("GET /flights/1", "").0, 404);
    assert_eq!(service.send("DELETE /flights/1", "").0, 404);
}

/// The README shows the file that the tests run.
#[test]
fn the_quick_start_of_the_readme_is_the_example() {
    let readme = include_str!("../../README.md");
    let example = include_str!("../../examples/quickstart.rs");
    let (head, code) = example.split_once("\n\n").unwrap();
    let (_, quick_start) = readme.split_once("## Quick start\n").unwrap();
    assert!(quick_start.contains(&format!("```rust\n{code}```")));
    let manifest: Vec<_> = head
        .lines()
        .skip_while(|line| *line != "//! [dependencies]")
        .take_while(|line| *line != "//! ```")
        .map(|line| line.trim_start_matches("//! "))
        .collect();
    assert!(quick_start.contains(&manifest.join("\n")), "{manifest:?}");
}
