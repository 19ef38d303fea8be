//! The live view: what each entity does, from what its processes list every five seconds.
//!
//! 1. Each look reads the list of processes. A process lists itself more rarely than somebody looks, so its rates are those between its last
//!    two listings, by the clock of the server.
//! 2. On a terminal it is drawn with ratatui. Without one, or with `--json`, each look is written as text.
//!
//! Not here: where the numbers come from (`cache::listing` of the runtime).

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    time::Duration,
};

use larder_runtime::{
    protocol::listing::{ListedCounts, ListedProcess},
    tools::{Tools, escaped},
};
use ratatui::{
    Frame,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Block, Paragraph, Row, Table},
};
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    failure::{Done, Failure},
    print,
};

/// How often the keyboard is looked at.
const KEYS_EVERY: Duration = Duration::from_millis(100);

/// What an entity did between two listings.
#[derive(Clone, Debug, Default, Serialize)]
struct Shown {
    entity: String,
    reads_per_second: f64,
    /// The share of the reads that the cache has answered. `None` without reads.
    hit_ratio: Option<f64>,
    loads_per_second: f64,
    writes_per_second: f64,
    errors_per_second: f64,
    /// The slowest process: half of the reads, and 99 of 100, in microseconds.
    read_us: Option<(u64, u64)>,
    waiting: Option<u64>,
    oldest_ms: Option<u64>,
    lost: u64,
}

/// One look.
#[derive(Clone, Debug, Default, Serialize)]
struct Look {
    namespace: String,
    processes: usize,
    /// What is wrong in a process, each once.
    problems: Vec<String>,
    entities: Vec<Shown>,
}

/// What a process has listed of an entity, and when, in milliseconds by the clock of the server.
#[derive(Clone)]
struct Listing {
    at_ms: u64,
    counts: ListedCounts,
}

/// The last two listings of each process and entity.
type Before = BTreeMap<(String, String), [Listing; 2]>;

/// Watches until the user ends it, or so many looks were made.
pub(crate) async fn run(
    tools: &Tools,
    every: Duration,
    looks: Option<u64>,
    json: bool,
) -> Result<Done, Failure> {
    let is_drawn = !json && io::stdout().is_terminal() && io::stdin().is_terminal();
    if !is_drawn {
        return write_looks(tools, every, looks.unwrap_or(1).max(1), json).await;
    }
    // It also puts the terminal back when the program panics.
    let mut terminal = ratatui::try_init()?;
    let watched = watch(&mut terminal, tools, every, looks).await;
    ratatui::try_restore()?;
    watched
}

async fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    tools: &Tools,
    every: Duration,
    looks: Option<u64>,
) -> Result<Done, Failure> {
    let mut before = Before::default();
    let mut made = 0;
    loop {
        let shown = look(tools, &mut before).await;
        terminal.draw(|frame| draw(frame, tools.namespace(), &shown))?;
        made += 1;
        if looks.is_some_and(|looks| made >= looks) {
            return Ok(Done::Well);
        }
        let next = Instant::now() + every;
        while Instant::now() < next {
            if is_ended()? {
                return Ok(Done::Well);
            }
            tokio::time::sleep(KEYS_EVERY).await;
        }
    }
}

/// Returns whether the user wants to end it.
fn is_ended() -> io::Result<bool> {
    while event::poll(Duration::ZERO)? {
        let Event::Key(key) = event::read()? else {
            continue;
        };
        let is_interrupt =
            key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        let is_quit = matches!(key.code, KeyCode::Char('q') | KeyCode::Esc);
        if key.kind == KeyEventKind::Press && (is_quit || is_interrupt) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn write_looks(
    tools: &Tools,
    every: Duration,
    looks: u64,
    json: bool,
) -> Result<Done, Failure> {
    let mut before = Before::default();
    for made in 0..looks {
        if made > 0 {
            tokio::time::sleep(every).await;
        }
        let look = look(tools, &mut before).await?;
        if json {
            print::json(&look)?;
            continue;
        }
        for problem in &look.problems {
            print::line(problem)?;
        }
        let rows: Vec<_> = look.entities.iter().map(cells).collect();
        print::table(&HEAD, &rows)?;
    }
    Ok(Done::Well)
}

async fn look(tools: &Tools, before: &mut Before) -> Result<Look, Failure> {
    let processes = tools.processes().await?;
    let mut entities = added(&processes, before);
    for (name, entity) in tools.entities().await? {
        if entity.queue.is_none() {
            continue;
        }
        let partitions = tools.queue(&entity).await?;
        let shown = entities
            .entry(entity.entity.clone())
            .or_insert_with(|| Shown {
                entity: name,
                ..Shown::default()
            });
        let waiting = partitions
            .iter()
            .map(|partition| partition.depth)
            .sum::<u64>();
        shown.waiting = Some(shown.waiting.unwrap_or(0) + waiting);
        let oldest = partitions
            .iter()
            .filter_map(|partition| partition.oldest_ms);
        shown.oldest_ms = shown.oldest_ms.max(oldest.max());
    }
    let mut problems: Vec<_> = processes
        .values()
        .filter(|process| process.health != "ok")
        .map(|process| {
            let text = format!("{} pid {}: {}", process.host, process.pid, process.health);
            escaped(&text)
        })
        .collect();
    problems.sort_unstable();
    let mut entities: Vec<_> = entities.into_values().collect();
    entities.sort_by(|one, other| {
        let by_reads = other.reads_per_second.total_cmp(&one.reads_per_second);
        by_reads.then_with(|| one.entity.cmp(&other.entity))
    });
    Ok(Look {
        namespace: tools.namespace().to_owned(),
        processes: processes.len(),
        problems,
        entities,
    })
}

/// Sums up by entity what processes have counted between their last two listings.
#[expect(clippy::cast_precision_loss, reason = "rates need not be exact")]
fn added(
    processes: &BTreeMap<String, ListedProcess>,
    before: &mut Before,
) -> BTreeMap<String, Shown> {
    let mut entities = BTreeMap::<String, Shown>::new();
    let mut served = BTreeMap::<String, (u64, u64)>::new();
    for (id, process) in processes {
        for counts in &process.entities {
            let latest = Listing {
                at_ms: process.seen_ms,
                counts: counts.clone(),
            };
            // Of a process that is new, nothing is known of the time before.
            let [last, known] = before
                .entry((id.clone(), counts.entity.clone()))
                .or_insert_with(|| [latest.clone(), latest.clone()]);
            if known.at_ms != latest.at_ms {
                *last = std::mem::replace(known, latest);
            }
            let passed_ms = known.at_ms.saturating_sub(last.at_ms);
            let (last, counts) = (&last.counts, &known.counts);
            let shown = entities
                .entry(counts.entity.clone())
                .or_insert_with(|| Shown {
                    entity: counts.entity.clone(),
                    ..Shown::default()
                });
            shown.lost += counts.lost;
            shown.read_us = shown.read_us.max(counts.read_us);
            let rate = |value: fn(&ListedCounts) -> u64| {
                let added = value(counts).saturating_sub(value(last));
                match passed_ms {
                    0 => 0.0,
                    passed_ms => 1_000.0 * added as f64 / passed_ms as f64,
                }
            };
            shown.reads_per_second += rate(|counts| counts.reads);
            shown.loads_per_second += rate(|counts| counts.loads);
            shown.writes_per_second += rate(|counts| counts.writes);
            shown.errors_per_second += rate(|counts| counts.errors);
            let (all, of_cache) = served.entry(counts.entity.clone()).or_default();
            // Without reads in between, the ratio is that of the whole time.
            let base = match counts.reads == last.reads {
                true => (0, 0),
                false => (last.reads, last.served),
            };
            *all += counts.reads.saturating_sub(base.0);
            *of_cache += counts.served.saturating_sub(base.1);
        }
    }
    for (entity, (all, of_cache)) in served {
        if let Some(shown) = entities.get_mut(&entity) {
            shown.hit_ratio = (all > 0).then(|| of_cache as f64 / all as f64);
        }
    }
    entities
}

const HEAD: [&str; 10] = [
    "ENTITY", "READS/s", "HITS", "LOADS/s", "WRITES/s", "ERRORS/s", "P50", "P99", "WAITING", "LOST",
];

fn cells(shown: &Shown) -> Vec<String> {
    let none = || "-".to_owned();
    let micros = |pick: fn((u64, u64)) -> u64| {
        let picked = shown.read_us.map(pick);
        picked.map_or_else(none, |micros| format!("{micros} us"))
    };
    let waiting = shown.waiting.map(|waiting| match shown.oldest_ms {
        Some(oldest) if waiting > 0 => format!("{waiting}, {}", print::millis(oldest)),
        _ => waiting.to_string(),
    });
    vec![
        shown.entity.clone(),
        format!("{:.1}", shown.reads_per_second),
        shown
            .hit_ratio
            .map_or_else(none, |ratio| format!("{:.1} %", ratio * 100.0)),
        format!("{:.1}", shown.loads_per_second),
        format!("{:.1}", shown.writes_per_second),
        format!("{:.1}", shown.errors_per_second),
        micros(|(half, _)| half),
        micros(|(_, most)| most),
        waiting.unwrap_or_else(none),
        shown.lost.to_string(),
    ]
}

fn draw(frame: &mut Frame<'_>, namespace: &str, look: &Result<Look, Failure>) {
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let title = match look {
        Ok(look) => format!("larder top: {namespace}, {} processes", look.processes),
        Err(_) => format!("larder top: {namespace}"),
    };
    let bold = Style::default().add_modifier(Modifier::BOLD);
    frame.render_widget(Line::styled(title, bold), head);
    frame.render_widget(
        Line::styled("q: end", Style::default().fg(Color::DarkGray)),
        foot,
    );
    let look = match look {
        Ok(look) => look,
        Err(failure) => {
            let red = Style::default().fg(Color::Red);
            frame.render_widget(Paragraph::new(failure.to_string()).style(red), body);
            return;
        }
    };
    let problems = u16::try_from(look.problems.len())
        .unwrap_or(u16::MAX)
        .min(5);
    let [troubles, table] =
        Layout::vertical([Constraint::Length(problems), Constraint::Min(1)]).areas(body);
    let yellow = Style::default().fg(Color::Yellow);
    let lines: Vec<_> = look
        .problems
        .iter()
        .map(|text| Line::from(text.as_str()))
        .collect();
    frame.render_widget(Paragraph::new(lines).style(yellow), troubles);
    let rows = look.entities.iter().map(|shown| {
        let is_bad = shown.errors_per_second > 0.0 || shown.lost > 0;
        let colour = if is_bad { Color::Red } else { Color::Reset };
        let texts = cells(shown).into_iter().map(|text| escaped(&text));
        Row::new(texts).style(Style::default().fg(colour))
    });
    let widths = [
        Constraint::Min(16),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(16),
        Constraint::Length(6),
    ];
    let table_widget = Table::new(rows, widths)
        .header(Row::new(HEAD).style(bold))
        .block(Block::default());
    frame.render_widget(table_widget, table);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(at_ms: u64, reads: u64) -> BTreeMap<String, ListedProcess> {
        let counts = ListedCounts {
            entity: "Product".to_owned(),
            reads,
            ..ListedCounts::default()
        };
        let process = ListedProcess {
            seen_ms: at_ms,
            entities: vec![counts],
            ..ListedProcess::default()
        };
        BTreeMap::from([("one".to_owned(), process)])
    }

    /// A look between two listings shows the rate of the last two, and not zero, or what five seconds have added as that of one.
    #[test]
    fn rates_are_those_between_listings_however_often_one_looks() {
        let mut before = Before::new();
        let mut look =
            |at_ms, reads| added(&listed(at_ms, reads), &mut before)["Product"].reads_per_second;
        assert!(look(1_000, 700) == 0.0);
        assert!(look(6_000, 1_200) == 100.0);
        assert!(look(6_000, 1_200) == 100.0);
        assert!(look(11_000, 1_200) == 0.0);
        assert!(look(16_000, 2_200) == 200.0);
    }
}
