//! Sizes as they are written in attributes: `"256 KiB"`, `"4 MiB"`.
//!
//! One whole number and its unit, with or without a blank between. There is no number without a unit, and no unit that is read
//! in two ways: nobody agrees on whether `KB` is 1,000 bytes. Zero is no size, because no row fits into nothing.

/// The units, each in bytes.
const UNITS: &[(&str, u64)] = &[("KiB", 1 << 10), ("MiB", 1 << 20)];

/// The largest size: what a record of the journal may have, and above what Redis takes without being told to.
const LARGEST: u64 = 1 << 30;

/// The size in bytes, above zero.
///
/// # Errors
///
/// Says what is wrong with the text, as the second half of a sentence.
pub(super) fn positive(text: &str) -> Result<u64, String> {
    if text.is_empty() {
        return Err("this one is empty".to_owned());
    }
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    if number.is_empty() {
        return Err(format!(
            "`{text}` is not a whole number with its unit, such as `256 KiB`"
        ));
    }
    if unit.is_empty() {
        return Err(format!(
            "`{number}` has no unit; the units are `KiB`, `MiB`"
        ));
    }
    let &(_, length) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| format!("`{unit}` is no unit; the units are `KiB`, `MiB`"))?;
    let bytes = number.parse::<u64>().ok();
    let bytes = bytes.and_then(|number| number.checked_mul(length));
    match bytes.filter(|bytes| *bytes <= LARGEST) {
        Some(0) => Err(format!("`{text}` is zero")),
        Some(bytes) => Ok(bytes),
        None => Err(format!("`{text}` is more than 1024 MiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::positive;

    #[test]
    fn size_is_a_number_of_its_unit() {
        assert_eq!(positive("256 KiB"), Ok(262_144));
        assert_eq!(positive("256KiB"), Ok(262_144));
        assert_eq!(positive("4 MiB"), Ok(4_194_304));
        assert_eq!(positive("1024 MiB"), Ok(1 << 30));
    }

    #[test]
    fn wrong_size_is_explained() {
        let reasons = [
            ("", "is empty"),
            ("0 KiB", "is zero"),
            ("0MiB", "is zero"),
            ("4", "has no unit"),
            ("4 ", "has no unit"),
            ("MiB", "a whole number"),
            ("-1 MiB", "a whole number"),
            (" 4 MiB", "a whole number"),
            ("1.5 MiB", "is no unit"),
            ("4  MiB", "is no unit"),
            ("4 MiB ", "is no unit"),
            ("4 MB", "is no unit"),
            ("4 mib", "is no unit"),
            ("4 GiB", "is no unit"),
            ("4 MiB 1 KiB", "is no unit"),
            ("1025 MiB", "more than 1024 MiB"),
            ("99999999999999999999 KiB", "more than 1024 MiB"),
            ("18446744073709551615 MiB", "more than 1024 MiB"),
        ];
        for (text, reason) in reasons {
            let error = positive(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
