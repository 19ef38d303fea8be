//! The floors of `--check`: what each ratio must not fall below, or exceed.
//!
//! They lie in `floors.txt`, a line each: the name, `>=` or `<=`, and the bound. A floor is what a run has shown to be reached, less what
//! runs differ by. It is not the target.
//!
//! Not here: the ratios (`report`). Nobody checks them against a clock that others disturb: the tests do not run this.

use crate::{Failure, report::Line};

/// Where the floors are.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/floors.txt");

/// Fails if a ratio has crossed its floor, or has none.
pub(crate) fn check(lines: &[Line]) -> Result<(), Failure> {
    let text = std::fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"))?;
    let crossed = crossed(&text, lines)?;
    if crossed.is_empty() {
        println!(
            "\ncheck: all {} ratios are within their floors",
            lines.len()
        );
        return Ok(());
    }
    Err(crossed.join("; ").into())
}

/// Returns what is wrong, for each ratio that has crossed its floor or has none.
fn crossed(text: &str, lines: &[Line]) -> Result<Vec<String>, Failure> {
    let mut wrong = Vec::new();
    for Line { name, spread, .. } in lines {
        let value = spread.median;
        let floor = text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(name)).then(|| (words.next(), words.next()))
        });
        let holds = match floor {
            Some((Some(">="), Some(bound))) => value >= bound.parse()?,
            Some((Some("<="), Some(bound))) => value <= bound.parse()?,
            Some(_) => return Err(format!("{FILE}: the line of {name} has no bound").into()),
            None => {
                wrong.push(format!("{name} has no floor in {FILE}"));
                continue;
            }
        };
        if !holds {
            let (order, bound) = floor.unwrap_or_default();
            let (order, bound) = (order.unwrap_or_default(), bound.unwrap_or_default());
            wrong.push(format!(
                "{name} is {value:.2}, its floor is {order} {bound}"
            ));
        }
    }
    Ok(wrong)
}

/// Floors that hold, are crossed, are missing and are no floors.
pub(crate) fn control() -> Result<(), Failure> {
    let line = |name: &str, value: f64| Line {
        name: name.to_owned(),
        spread: crate::measure::Spread {
            low: value,
            median: value,
            high: value,
        },
        goal: crate::report::Goal::None,
    };
    let text = "fast >= 1.5\nslow <= 2\n";
    let seen = crossed(
        text,
        &[
            line("fast", 1.5),
            line("fast", 1.49),
            line("slow", 2.0),
            line("slow", 2.01),
            line("new", 1.0),
        ],
    )?;
    let names: Vec<_> = seen
        .iter()
        .filter_map(|wrong| wrong.split(' ').next())
        .collect();
    if names != ["fast", "slow", "new"] {
        return Err(format!("the check has seen {seen:?}").into());
    }
    if crossed("fast about 2", &[line("fast", 2.0)]).is_ok() {
        return Err("a line without a bound was taken for a floor".into());
    }
    println!("control of the floors: a crossed and a missing floor are seen");
    Ok(())
}
