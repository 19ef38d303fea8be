//! The examples run, as a reader would run them: the programs that `cargo` has built beside this one, without any server.
//!
//! The tests inside `examples/testing.rs` are tests of their own. `cargo xtask fresh` copies the files into new crates.

use std::{
    fmt::Write as _,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use larder_testing::{clock::Deadline, redis_process::PATIENCE};

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
fn shop_serves_no_old_price() {
    let printed = printed("shop");
    assert!(
        printed.contains("prices that were no longer true: 0\n"),
        "{printed}"
    );
    assert!(printed.contains("50 products are deleted"), "{printed}");
}

#[test]
fn shop_notices_old_prices_if_it_changes_them_past_the_cache() {
    let mut shop = Command::new(program("shop"));
    let Output { status, stdout, .. } = shop.arg("--break").output().unwrap();
    let printed = String::from_utf8(stdout).unwrap();
    assert_eq!(status.code(), Some(1), "{printed}");
    assert!(printed.contains("no longer true: "), "{printed}");
}

/// The sale of the example `shop`, which goes on until it is closed. It is killed if a test ends early.
pub(crate) struct Sale {
    process: Child,
    output: BufReader<ChildStdout>,
    /// Where it serves its metrics.
    pub(crate) address: String,
}

impl Sale {
    pub(crate) fn open() -> Self {
        let mut process = Command::new(program("shop"))
            .args(["--metrics", "127.0.0.1:0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("metrics: http://");
        let address = url.and_then(|url| url.strip_suffix("/metrics"));
        Self {
            address: address.expect("it says where").to_owned(),
            process,
            output,
        }
    }

    /// Ends its input. Returns what it printed last.
    fn close(mut self) -> String {
        drop(self.process.stdin.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.process.wait().unwrap().success(), "{rest}");
        rest
    }
}

impl Drop for Sale {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
    }
}

#[test]
fn shop_serves_its_metrics_until_its_input_ends() {
    let sale = Sale::open();
    let deadline = Deadline::after(PATIENCE);
    while !ask(&sale.address, "GET /metrics", "")
        .1
        .contains("larder_reads_total")
    {
        assert!(deadline.pause(), "no reads are in its metrics");
    }
    let printed = sale.close();
    assert!(
        printed.contains("prices that were no longer true: 0\n"),
        "{printed}"
    );
}

#[test]
fn write_behind_runs() {
    let printed = printed("write_behind");
    assert!(printed.contains("refused: "), "{printed}");
    assert!(printed.contains("left in the queue: 1"), "{printed}");
}

/// Sends a request to an address. Returns the status and the body. The version asks for an answer that is not in chunks.
pub(crate) fn ask(address: &str, request: &str, body: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        connection,
        "{request} HTTP/1.0\r\nhost: test\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    (status.parse().unwrap(), body.to_owned())
}

/// The shop of the example `axum`, which is killed if a test ends early.
pub(crate) struct Shop {
    process: Child,
    output: BufReader<ChildStdout>,
    pub(crate) address: String,
    /// What it has logged.
    log: PathBuf,
}

impl Shop {
    fn start(folder: &Path) -> Self {
        Self::start_over(folder, None)
    }

    /// Starts it over this Redis, or with a cache of its own.
    pub(crate) fn start_over(folder: &Path, redis: Option<&str>) -> Self {
        let log = folder.join("log");
        let mut process = Command::new(program("axum"))
            .env("ADDRESS", "127.0.0.1:0")
            .env("DATABASE", folder.join("shop.db"))
            .env("LOG", "sqlx=debug")
            .env_remove("REDIS_URL")
            .envs(redis.map(|url| ("REDIS_URL", url)))
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
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
            log,
        }
    }

    /// Sends a request. Returns the status and the body.
    pub(crate) fn send(&self, request: &str, body: &str) -> (u16, String) {
        ask(&self.address, request, body)
    }

    /// Sends a request that must succeed. Returns the body.
    #[track_caller]
    pub(crate) fn done(&self, request: &str, body: &str) -> String {
        let (status, answer) = self.send(request, body);
        assert!(matches!(status, 200 | 201), "{request}: {status} {answer}");
        answer
    }

    /// Returns the number of statements on the tables of the shop since it was started. Those of the queue of views are made
    /// in the background.
    fn statements(&self) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap();
        let lines = log.lines().filter(|line| line.contains("sqlx::query"));
        let tables = ["`users`", "`products`", "`orders`", "`order_lines`"];
        lines
            .filter(|line| tables.iter().any(|table| line.contains(table)))
            .filter(|line| !line.contains("pragma"))
            .count()
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

impl Drop for Shop {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
    }
}

pub(crate) const ADA: &str = r#"{"email": "Ada@example.org", "name": "Ada"}"#;

pub(crate) fn tea(number: u32, stock: u32) -> String {
    format!(
        r#"{{"sku": "TEA-{number}", "category": "tea", "name": "Tea {number}", "price": {}, "stock": {stock}}}"#,
        number * 100
    )
}

pub(crate) fn order(lines: &[(u32, u32)]) -> String {
    let lines = lines.iter();
    let lines =
        lines.map(|(tea, quantity)| format!(r#"{{"sku": "TEA-{tea}", "quantity": {quantity}}}"#));
    let lines = lines.collect::<Vec<_>>().join(", ");
    format!(r#"{{"email": "ada@example.org", "lines": [{lines}]}}"#)
}

#[test]
fn axum_answers_with_the_right_status_and_stops_without_losing_a_write() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::start(folder.path());
    assert_eq!(shop.send("GET /users/ada@example.org", "").0, 404);
    shop.done("POST /users", ADA);
    assert_eq!(shop.send("POST /users", ADA).0, 409);
    let ada = shop.done("GET /users/ADA@example.org", "");
    assert!(ada.contains(r#""id":1,"email":"Ada@example.org""#), "{ada}");

    assert_eq!(shop.send("GET /products/TEA-1", "").0, 404);
    for number in 1..=3 {
        shop.done("POST /products", &tea(number, 5));
    }
    let first = shop.done("GET /products/TEA-1", "");
    assert!(first.contains(r#""stock":5,"version":1"#), "{first}");
    let cheaper = tea(1, 5).replace('}', r#", "version": 1}"#);
    let changed = shop.done("PUT /products/TEA-1", &cheaper);
    assert!(changed.contains(r#""version":2"#), "{changed}");
    // The same change again is based on an old row: the answer has the current one.
    let (status, current) = shop.send("PUT /products/TEA-1", &cheaper);
    assert_eq!((status, current), (409, changed.clone()));
    assert_eq!(shop.done("GET /products/TEA-1", ""), changed);
    assert_eq!(shop.send("PUT /products/TEA-7", &cheaper).0, 404);
    let moved = cheaper
        .replace("\"tea\"", "\"coffee\"")
        .replace("\"version\": 1", "\"version\": 2");
    assert_eq!(shop.send("PUT /products/TEA-1", &moved).0, 409);

    let page = shop.done("GET /categories/tea?limit=2", "");
    assert!(page.contains(r#""next":"TEA-2""#), "{page}");
    let page = shop.done("GET /categories/tea?limit=2&after=TEA-2", "");
    assert!(
        page.contains("TEA-3") && page.contains(r#""next":null"#),
        "{page}"
    );

    let placed = shop.done("POST /orders", &order(&[(3, 1), (1, 2)]));
    assert!(
        placed.contains(r#""products":["Tea 1","Tea 3"]"#),
        "{placed}"
    );
    let (status, reason) = shop.send("POST /orders", &order(&[(3, 1), (1, 4)]));
    assert_eq!((status, &*reason), (409, "only 3 of TEA-1 are left"));
    assert_eq!(shop.send("POST /orders", &order(&[(9, 1)])).0, 404);
    let stocks = [1, 3].map(|number| shop.done(&format!("GET /products/TEA-{number}"), ""));
    assert!(stocks[0].contains(r#""stock":3"#), "{stocks:?}");
    assert!(
        stocks[1].contains(r#""stock":4"#),
        "what was refused took nothing: {stocks:?}"
    );
    assert_eq!(shop.done("GET /orders/1", ""), placed);
    let all = shop.done("GET /users/ada@example.org/orders", "");
    assert_eq!(all, format!("[{placed}]"));
    assert_eq!(shop.done("GET /products/TEA-1/views", ""), "3");
    assert_eq!(shop.stop(), "stopped\n");

    // The views were only queued, and are in the database.
    let shop = Shop::start(folder.path());
    assert_eq!(shop.done("GET /products/TEA-1/views", ""), "3");
    assert_eq!(shop.done("GET /orders/1", ""), placed);
    assert_eq!(shop.send("DELETE /products/TEA-2", "").0, 204);
    assert_eq!(shop.send("GET /products/TEA-2", "").0, 404);
    assert_eq!(shop.send("DELETE /products/TEA-2", "").0, 404);
}

/// Each route in a new process, whose cache is empty, and the same again.
#[test]
fn the_routes_of_the_shop_make_the_statements_that_the_readme_lists() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::start(folder.path());
    shop.done("POST /users", ADA);
    for number in 1..=50 {
        shop.done("POST /products", &tea(number, 1_000));
    }
    for number in 1..=20 {
        shop.done("POST /orders", &order(&[(number, 1), (number + 1, 2)]));
    }
    shop.stop();
    let two = order(&[(1, 1), (2, 2)]);
    let mut measured = String::from("| route | cold | warm |\n|---|---|---|\n");
    for (route, request, body) in [
        ("GET /users/{email}", "GET /users/ada@example.org", ""),
        ("GET /products/{sku}", "GET /products/TEA-1", ""),
        (
            "GET /categories/{category}",
            "GET /categories/tea?limit=20",
            "",
        ),
        (
            "GET /categories/{category}?after={sku}",
            "GET /categories/tea?limit=20&after=TEA-20",
            "",
        ),
        ("GET /orders/{id}", "GET /orders/1", ""),
        (
            "GET /users/{email}/orders",
            "GET /users/ada@example.org/orders",
            "",
        ),
        ("POST /orders, of two products", "POST /orders", &two),
    ] {
        let shop = Shop::start(folder.path());
        let mut counts = Vec::new();
        for _ in 0..2 {
            let before = shop.statements();
            shop.done(request, body);
            counts.push(shop.statements() - before);
        }
        writeln!(measured, "| `{route}` | {} | {} |", counts[0], counts[1]).unwrap();
    }
    let readme = include_str!("../../examples/README.md");
    assert!(
        readme.contains(&measured),
        "the README should have\n{measured}"
    );
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
