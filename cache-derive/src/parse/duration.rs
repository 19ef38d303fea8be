//! Durations as they are written in attributes: `"10m"`, `"2h5m"`, `"250ms"`.
//!
//! One or more numbers, each with its unit, the larger unit first. There is no number without a unit, because nobody
//! reads `ttl = "300"` the same way. Zero is for pauses only, because an entry that expires at once is a cache that is
//! switched off.

/// The units, largest first, each in milliseconds.
const UNITS: &[(&str, u64)] = &[
    ("d", 24 * 60 * 60 * 1000),
    ("h", 60 * 60 * 1000),
    ("m", 60 * 1000),
    ("s", 1000),
    ("ms", 1),
];

/// The longest duration: far above any sensible one, far below what Redis and Lua count exactly.
const MAX: u64 = 100 * 365 * UNITS[0].1;

/// The duration in whole milliseconds, above zero.
///
/// # Errors
///
/// Says what is wrong with the text, as the second half of a sentence.
pub(super) fn positive(text: &str) -> Result<u64, String> {
    match milliseconds(text)? {
        0 => Err(format!("`{text}` is zero")),
        milliseconds => Ok(milliseconds),
    }
}

/// A pause in whole milliseconds: from zero to `most`.
///
/// # Errors
///
/// As [`positive`].
pub(super) fn pause(text: &str, most: u64) -> Result<u64, String> {
    match milliseconds(text)? {
        milliseconds if milliseconds > most => Err(format!("`{text}` is longer")),
        milliseconds => Ok(milliseconds),
    }
}

fn milliseconds(text: &str) -> Result<u64, String> {
    if text.is_empty() {
        return Err("this one is empty".to_owned());
    }
    if text.starts_with('-') {
        return Err(format!("`{text}` is negative"));
    }
    let mut total: u64 = 0;
    let mut smallest = u64::MAX;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, unit, after) = step(text, rest)?;
        let &(name, length) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| {
                format!("`{unit}` is no unit; the units are `ms`, `s`, `m`, `h`, `d`")
            })?;
        if length >= smallest {
            return Err(format!(
                "`{text}` has `{name}` after a unit that is not larger"
            ));
        }
        let length_of_step = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(length));
        total = length_of_step
            .and_then(|length| total.checked_add(length))
            .filter(|total| *total <= MAX)
            .ok_or_else(|| format!("`{text}` is longer than 100 years"))?;
        (smallest, rest) = (length, after);
    }
    Ok(total)
}

/// Takes a number and its unit off the front of `rest`.
fn step<'a>(text: &str, rest: &'a str) -> Result<(&'a str, &'a str, &'a str), String> {
    let split =
        |rest: &'a str, end: fn(char) -> bool| rest.split_at(rest.find(end).unwrap_or(rest.len()));
    let (number, after) = split(rest, |c| !c.is_ascii_digit());
    let (unit, after) = split(after, |c| !c.is_ascii_alphabetic());
    match (number, unit) {
        ("", _) => Err(format!(
            "`{text}` is not whole numbers with units, such as `2h5m`"
        )),
        (_, "") if after.is_empty() => Err(format!(
            "`{number}` has no unit; the units are `ms`, `s`, `m`, `h`, `d`"
        )),
        (_, "") => Err(format!(
            "`{text}` is not whole numbers with units, such as `2h5m`"
        )),
        _ => Ok((number, unit, after)),
    }
}

#[cfg(test)]
mod tests {
    use super::{pause, positive};

    #[test]
    fn duration_adds_its_parts() {
        assert_eq!(positive("10m"), Ok(600_000));
        assert_eq!(positive("2h5m"), Ok(7_500_000));
        assert_eq!(positive("250ms"), Ok(250));
        assert_eq!(positive("1d1h1m1s1ms"), Ok(90_061_001));
        assert_eq!(positive("1h0m"), Ok(3_600_000));
    }

    #[test]
    fn wrong_duration_is_explained() {
        let reasons = [
            ("", "is empty"),
            ("-5m", "is negative"),
            ("0s", "is zero"),
            ("0h0m", "is zero"),
            ("5", "has no unit"),
            ("5m3", "has no unit"),
            ("m", "whole numbers"),
            ("1.5h", "whole numbers"),
            ("5 m", "whole numbers"),
            ("5m ", "whole numbers"),
            ("5min", "is no unit"),
            ("5M", "is no unit"),
            ("5m5m", "not larger"),
            ("5m2h", "not larger"),
            ("36501d", "longer than 100 years"),
            ("99999999999999999999999s", "longer than 100 years"),
            ("18446744073709551615d", "longer than 100 years"),
        ];
        for (text, reason) in reasons {
            let error = positive(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn pause_may_be_zero_and_is_short() {
        assert_eq!(pause("0ms", 10_000), Ok(0));
        assert_eq!(pause("0s", 10_000), Ok(0));
        assert_eq!(pause("10s", 10_000), Ok(10_000));
        assert_eq!(
            pause("10001ms", 10_000),
            Err("`10001ms` is longer".to_owned())
        );
        assert!(pause("10", 10_000).is_err());
    }
}
