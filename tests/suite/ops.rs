//! The dashboard and the alerts in `ops`: a name that is misspelt, or a metric that is renamed, would leave a panel empty and an
//! alert silent, and nobody would notice before the outage.
//!
//! 1. The linter of Prometheus accepts the alerts and runs their tests. Changed alerts fail them.
//! 2. The names in both files are compared with the list of the metrics.
//! 3. A Prometheus scrapes two examples at work: `shop`, whose cache is in the process, and `axum` over a Redis. It is asked what
//!    each panel asks, and notices that the Redis dies.
//!
//! Invariant: each program that a test starts is killed when its value is dropped, also if the test fails.
//! Not here: whether the metrics are true (`metrics`); how Grafana draws them.

use std::{
    collections::BTreeSet,
    fs::File,
    net::TcpStream,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use larder_testing::{
    clock::Deadline,
    port::Port,
    redis_process::{self, RedisProcess},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::examples::{ADA, Sale, Shop, ask, order, tea};

const DASHBOARD: &str = include_str!("../../ops/grafana.json");
const ALERTS: &str = include_str!("../../ops/alerts.yml");
const TESTS_OF_ALERTS: &str = include_str!("../../ops/alerts_test.yml");
const METRICS: &str = include_str!("../../docs/metrics.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// The maximum time until Prometheus has scraped something. Queues are surveyed every ten seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs `promtool` in a folder with these alerts and their tests. Returns whether it succeeded, and what it printed.
fn promtool(arguments: &[&str], alerts: &str) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("alerts.yml"), alerts).unwrap();
    std::fs::write(folder.path().join("alerts_test.yml"), TESTS_OF_ALERTS).unwrap();
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(folder.path());
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .expect("promtool is in the package `prometheus`, which `cargo xtask test` installs");
    let printed = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (status.success(), printed.concat())
}

/// What the lines with this key say, in their order.
fn said<'t>(text: &'t str, key: &str) -> Vec<&'t str> {
    let lines = text
        .lines()
        .map(|line| line.trim_start().trim_start_matches("- "));
    let said = lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    said.collect()
}

fn alerts() -> Vec<&'static str> {
    let alerts = said(ALERTS, "alert");
    assert!(!alerts.is_empty());
    alerts
}

#[test]
fn the_linter_accepts_the_alerts_and_their_tests_pass() {
    for arguments in [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ] {
        let (succeeded, printed) = promtool(&arguments, ALERTS);
        assert!(succeeded, "{printed}");
    }
}

/// The alerts that a test of `promtool` expects to fire, and those that one expects to be quiet.
fn expectations() -> (BTreeSet<&'static str>, BTreeSet<&'static str>) {
    let (mut firing, mut quiet) = (BTreeSet::new(), BTreeSet::new());
    for expectation in TESTS_OF_ALERTS.split("alertname: ").skip(1) {
        let (alert, rest) = expectation.split_once('\n').unwrap();
        let (_, expected) = rest.split_once("exp_alerts:").unwrap();
        let set = if expected.starts_with(" []") {
            &mut quiet
        } else {
            &mut firing
        };
        set.insert(alert);
    }
    (firing, quiet)
}

#[test]
fn each_alert_is_tested_firing_and_quiet_and_has_a_section_that_says_what_to_do() {
    let all: BTreeSet<_> = alerts().into_iter().collect();
    let (firing, quiet) = expectations();
    assert_eq!(firing, all);
    assert_eq!(quiet, all);
    assert_eq!(all.len(), alerts().len(), "an alert is there twice");
    let count = |key| said(ALERTS, key).len();
    for key in ["for", "severity", "summary", "description"] {
        assert_eq!(count(key), all.len(), "{key}");
    }
    let runbooks: Vec<_> = alerts()
        .iter()
        .map(|alert| format!("docs/operations.md#{}", alert.to_lowercase()))
        .collect();
    assert_eq!(said(ALERTS, "runbook"), runbooks);
    for alert in all {
        let heading = format!("\n### {alert}\n");
        assert!(OPERATIONS.contains(&heading), "{alert} has no section");
    }
}

/// Makes each alert one that never fires. Its tests of firing must fail.
#[test]
fn a_test_fails_for_each_alert_that_never_fires() {
    let lines = ALERTS.lines().map(|line| match line.trim_start() {
        text if text.starts_with("for: ") => "        for: 30d\n".to_owned(),
        _ => format!("{line}\n"),
    });
    let (succeeded, printed) = promtool(
        &["test", "rules", "alerts_test.yml"],
        &lines.collect::<String>(),
    );
    assert!(!succeeded);
    for alert in alerts() {
        assert!(
            printed.contains(&format!("name: {alert},\n    alertname: {alert}, time: ")),
            "{alert}: {printed}"
        );
    }
}

/// Makes each alert one that fires all the time. Its test in the quiet service must fail.
#[test]
fn a_test_fails_for_each_alert_that_fires_all_the_time() {
    let mut changed = String::new();
    let (mut is_alert, mut is_expression) = (false, false);
    for line in ALERTS.lines() {
        let text = line.trim_start();
        if text.starts_with("- ") {
            is_alert = text.starts_with("- alert: ");
        }
        if text.starts_with("for: ") {
            is_expression = false;
            changed.push_str("        for: 1m\n");
        } else if is_alert && text.starts_with("expr: ") {
            is_expression = true;
            changed.push_str("        expr: vector(1)\n");
        } else if !is_expression {
            changed.push_str(line);
            changed.push('\n');
        }
    }
    let (succeeded, printed) = promtool(&["test", "rules", "alerts_test.yml"], &changed);
    assert!(!succeeded);
    for alert in alerts() {
        assert!(
            printed.contains(&format!("name: quiet,\n    alertname: {alert}, time: ")),
            "{alert}: {printed}"
        );
    }
}

/// The metrics that are listed: the names of their series, each with the name of its metric.
fn listed() -> Vec<(String, &'static str)> {
    let mut listed = Vec::new();
    for part in METRICS.split("\n## ") {
        let suffixes: &[&str] = match part.starts_with("Durations") {
            true => &["_bucket", "_count", "_sum"],
            false => &[""],
        };
        for line in part.lines() {
            let name = line
                .strip_prefix("| `")
                .and_then(|line| line.split('`').next());
            if let Some(name) = name.filter(|name| name.starts_with("larder_")) {
                listed.extend(
                    suffixes
                        .iter()
                        .map(|suffix| (format!("{name}{suffix}"), name)),
                );
            }
        }
    }
    assert!(listed.len() > 30, "{listed:?}");
    listed
}

/// The series that a text names.
fn named(text: &'static str) -> BTreeSet<&'static str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words.filter(|word| word.starts_with("larder_")).collect()
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_exist() {
    let listed = listed();
    for (file, text) in [("grafana.json", DASHBOARD), ("alerts.yml", ALERTS)] {
        for name in named(text) {
            let is_listed = listed.iter().any(|(series, _)| series == name);
            assert!(is_listed, "{file}: docs/metrics.md does not list {name}");
        }
    }
}

#[test]
fn the_dashboard_shows_each_metric() {
    let shown = named(DASHBOARD);
    let all: BTreeSet<_> = listed().into_iter().map(|(_, metric)| metric).collect();
    let seen = |metric: &str| {
        let mut series = listed().into_iter().filter(|(_, of)| *of == metric);
        series.any(|(series, _)| shown.contains(&*series))
    };
    let missing: Vec<_> = all.into_iter().filter(|metric| !seen(metric)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The panels of the dashboard, without the titles of its rows.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let panels = list(&dashboard["panels"]).iter();
    panels.filter(|panel| text(&panel["type"]) != "row")
}

/// What Grafana makes of an expression: all programs, caches and entities are chosen.
fn chosen(expression: &str) -> String {
    let mut expression = expression.replace("$__rate_interval", "1m");
    for variable in ["job", "cache", "entity"] {
        expression = expression.replace(&format!("${variable}"), ".*");
    }
    assert!(!expression.contains('$'), "{expression}");
    expression
}

#[test]
fn each_panel_says_what_to_do_and_takes_the_data_source_that_is_chosen() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    for panel in list(&dashboard["panels"]) {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
    }
    for panel in panels(&dashboard) {
        assert!(text(&panel["description"]).ends_with('.'), "{panel}");
        for place in list(&panel["targets"]).iter().chain([panel]) {
            assert_eq!(place["datasource"]["uid"], "${datasource}", "{panel}");
        }
    }
}

/// A text as a parameter of a URL.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A Prometheus that scrapes programs every second, and judges the alerts.
struct Prometheus {
    process: Child,
    port: Port,
    folder: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes these addresses. Each is a job.
    fn scraping(jobs: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut configuration = "\
            global: {scrape_interval: 1s, evaluation_interval: 1s}\n\
            rule_files: [alerts.yml]\n\
            scrape_configs:\n"
            .to_owned();
        for (job, address) in jobs {
            configuration.push_str(&format!(
                "  - {{job_name: {job}, static_configs: [{{targets: ['{address}']}}]}}\n"
            ));
        }
        std::fs::write(folder.path().join("alerts.yml"), ALERTS).unwrap();
        std::fs::write(folder.path().join("prometheus.yml"), configuration).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let port = Port::reserve().unwrap();
        let process = Command::new("prometheus")
            .current_dir(folder.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={}", port.address()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("it is in the package `prometheus`, which `cargo xtask test` installs");
        let mut prometheus = Self {
            process,
            port,
            folder,
        };
        prometheus.wait_until_ready();
        prometheus
    }

    fn wait_until_ready(&mut self) {
        let deadline = Deadline::after(PATIENCE);
        // It accepts connections before it has read what it has stored.
        while TcpStream::connect(self.port.address()).is_err() || self.get("/-/ready").0 != 200 {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none() && deadline.pause(), "{}", self.log());
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn get(&self, path: &str) -> (u16, String) {
        let address = self.port.address().to_string();
        ask(&address, &format!("GET {path}"), "")
    }

    /// Asks its interface for data. It must know the answer.
    fn data(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str::<Value>(&body).unwrap()["data"].take()
    }

    /// Returns the values that an expression has now, without those that are no number.
    fn values(&self, expression: &str) -> Vec<f64> {
        let data = self.data(&format!("/api/v1/query?query={}", encoded(expression)));
        let samples = list(&data["result"]).iter();
        let values = samples.map(|sample| text(&sample["value"][1]).parse::<f64>().unwrap());
        values.filter(|value| value.is_finite()).collect()
    }

    /// Waits until a condition holds. Something can be done meanwhile.
    fn wait(&self, what: &str, mut meanwhile: impl FnMut(), holds: impl Fn(&Self) -> bool) {
        let deadline = Deadline::after(PATIENCE);
        while !holds(self) {
            assert!(
                deadline.pause(),
                "it never came true that {what}\n{}",
                self.log()
            );
            meanwhile();
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// The service of the example `axum` over a Redis of its own, and its customers.
struct Service {
    shop: Shop,
    redis: RedisProcess,
    /// The number of products.
    products: u32,
    _folder: TempDir,
}

impl Service {
    fn open() -> Self {
        let redis = RedisProcess::start(&redis_process::program(), &[]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let shop = Shop::start_over(folder.path(), Some(&redis.url()));
        shop.done("POST /users", ADA);
        Self {
            shop,
            redis,
            products: 0,
            _folder: folder,
        }
    }

    /// Offers a new product, whose row has to be loaded, and sells it. Its views are queued.
    fn work(&mut self) {
        self.products += 1;
        let number = self.products;
        let path = format!("GET /products/TEA-{number}");
        assert_eq!(self.shop.send(&path, "").0, 404);
        self.shop.done("POST /products", &tea(number, 10));
        for _ in 0..3 {
            self.shop.done(&path, "");
        }
        self.shop.done("POST /orders", &order(&[(number, 1)]));
    }
}

#[test]
fn each_panel_has_data_while_shops_are_open() {
    let sale = Sale::open();
    let mut service = Service::open();
    let prometheus = Prometheus::scraping(&[
        ("sale", sale.address.as_str()),
        ("service", service.shop.address.as_str()),
    ]);
    let dashboard = dashboard();
    for variable in list(&dashboard["templating"]["list"]) {
        if variable["type"] == "datasource" {
            continue;
        }
        let query = text(&variable["query"]["query"]);
        let inside = query.strip_prefix("label_values(").unwrap();
        let (series, label) = inside.strip_suffix(')').unwrap().rsplit_once(", ").unwrap();
        assert_eq!(label, variable["name"]);
        let path = format!(
            "/api/v1/label/{label}/values?match[]={}",
            encoded(&chosen(series))
        );
        let what = format!("there is a choice of {query}");
        prometheus.wait(
            &what,
            || service.work(),
            |prometheus| !list(&prometheus.data(&path)).is_empty(),
        );
    }
    for panel in panels(&dashboard) {
        for target in list(&panel["targets"]) {
            let expression = chosen(text(&target["expr"]));
            let what = format!("{} has data: {expression}", panel["title"]);
            prometheus.wait(
                &what,
                || service.work(),
                |prometheus| !prometheus.values(&expression).is_empty(),
            );
        }
    }
    let misspelt = prometheus.values("sum(larder_read_total)");
    assert!(
        misspelt.is_empty(),
        "a name that does not exist has no data"
    );

    // A rule that is not judged, or whose judgement fails, is not `ok`.
    prometheus.wait(
        "each rule is judged",
        || service.work(),
        |prometheus| {
            let data = prometheus.data("/api/v1/rules");
            let groups = list(&data["groups"]).iter();
            let mut rules = groups.flat_map(|group| list(&group["rules"]));
            rules.all(|rule| rule["health"] == "ok")
        },
    );
}

#[test]
fn an_alert_is_raised_when_redis_dies() {
    let mut service = Service::open();
    let prometheus = Prometheus::scraping(&[("service", service.shop.address.as_str())]);
    let raised = r#"ALERTS{alertname="LarderStoreAway", job="service"}"#;
    prometheus.wait(
        "the store is usable",
        || {},
        |prometheus| prometheus.values("larder_store_usable") == [1.0],
    );
    assert!(prometheus.values(raised).is_empty());
    service.redis.kill();
    // It is pending at first: a short outage wakes nobody.
    prometheus.wait(
        "the alert is raised",
        || {},
        |prometheus| prometheus.values(raised) == [1.0],
    );
    assert_eq!(prometheus.values("larder_store_usable"), [0.0]);
}
