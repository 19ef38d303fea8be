//! Text from outside as it is printed: in errors, in the log, and in `Display` and `Debug` texts.
//!
//! Ids, keys and what servers say come from others. Printed as they are, a line break makes a second line of the log, an escape
//! sequence commands the terminal of the reader, and a mark for the direction of text shows another id than the one that is
//! meant. And a text has no end until the server says so.
//!
//! 1. Characters that cannot be seen are escaped as Rust does it: `\n`, `\u{1b}`, `\u{202e}`. Bytes that are no UTF-8 are
//!    escaped too.
//! 2. A text is cut after a number of characters, and ends with `…` then.
//!
//! Invariant: what was printed here is printed the same again, so a text may come past here twice.
//! Not here: the accessors that return a text as data (`DeadLetter::error`), and the causes of an error, which belong to the
//! libraries that made them.

use std::{
    error::Error,
    fmt::{self, Display, Write},
};

/// The most characters of a server's text that are printed.
const SHORT: usize = 200;
/// The most characters of a key, or of a message with a text of a server in it.
const LONG: usize = 2_000;

/// A text from outside.
pub(crate) struct Printed<'t> {
    text: &'t [u8],
    most: usize,
}

impl<'t> Printed<'t> {
    /// A text that may be long.
    pub(crate) fn new(text: &'t (impl AsRef<[u8]> + ?Sized)) -> Self {
        let text = text.as_ref();
        Self { text, most: LONG }
    }

    /// A text of a server, or another one of which the beginning is enough.
    pub(crate) fn short(text: &'t (impl AsRef<[u8]> + ?Sized)) -> Self {
        let most = SHORT;
        Self {
            most,
            ..Self::new(text)
        }
    }
}

impl Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.most;
        for chunk in self.text.utf8_chunks() {
            for character in chunk.valid().chars() {
                if left == 0 {
                    return f.write_char('…');
                }
                left -= 1;
                if is_seen(character) {
                    f.write_char(character)?;
                } else if matches!(character, '\n' | '\r' | '\t' | '\0') {
                    character
                        .escape_debug()
                        .try_for_each(|part| f.write_char(part))?;
                } else {
                    character
                        .escape_unicode()
                        .try_for_each(|part| f.write_char(part))?;
                }
            }
            for byte in chunk.invalid() {
                if left == 0 {
                    return f.write_char('…');
                }
                left -= 1;
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// Returns the beginning of what a server, or a library about its bytes, has said.
pub(crate) fn short(text: &impl Display) -> String {
    Printed::short(&text.to_string()).to_string()
}

/// Returns a message with a text of a server in it.
pub(crate) fn message(text: &str) -> Option<String> {
    let is_printable = text.len() <= LONG && text.chars().all(is_seen);
    (!is_printable).then(|| Printed::new(text).to_string())
}

/// Returns the messages of an error and of its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = Printed::new(&error.to_string()).to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = short(&error);
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// Returns whether a reader sees a character as what it is.
fn is_seen(character: char) -> bool {
    match character {
        ' '..='~' => true,
        // Letters and marks that are not drawn.
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' => {
            false
        }
        '\u{2800}' | '\u{3164}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}' => false,
        _ => {
            // Rust knows which characters are controls, formats, separators, or not assigned. Behind another character,
            // the marks of a script count as visible.
            let mut bytes = [b'a', 0, 0, 0, 0];
            let length = character.encode_utf8(&mut bytes[1..]).len();
            let text = std::str::from_utf8(&bytes[..=length]).expect("two characters are UTF-8");
            text.escape_debug().count() == 2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_escaped() {
        let invisible = [
            '\0',
            '\u{7}',
            '\n',
            '\r',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{9b}',
            '\u{a0}',
            '\u{ad}',
            '\u{61c}',
            '\u{180e}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202b}',
            '\u{202c}',
            '\u{202d}',
            '\u{202e}',
            '\u{2060}',
            '\u{2064}',
            '\u{2066}',
            '\u{2067}',
            '\u{2068}',
            '\u{2069}',
            '\u{3164}',
            '\u{feff}',
            '\u{fff9}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e0100}',
            '\u{e000}',
            '\u{10ffff}',
        ];
        for character in invisible {
            let text = format!("a{character}b");
            let printed = Printed::new(&text).to_string();
            assert!(!printed.contains(character), "{:x}", u32::from(character));
            assert!(
                printed.starts_with("a\\") && printed.ends_with('b'),
                "{printed}"
            );
        }
        let line = Printed::new("a\nb\u{1b}[2K\u{202e}c").to_string();
        assert_eq!(line, r"a\nb\u{1b}[2K\u{202e}c");
    }

    #[test]
    fn text_in_any_script_is_printed_as_it_is() {
        for text in [
            "larder:User:42",
            "näme",
            "Zoë",
            "e\u{301}",
            "हिन्दी",
            "日本語",
            "עברית",
            "\\n'\"",
            "🦀",
        ] {
            assert_eq!(Printed::new(text).to_string(), text);
            assert_eq!(message(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_escaped() {
        assert_eq!(Printed::new(b"a\xff\xc3b").to_string(), r"a\xff\xc3b");
    }

    #[test]
    fn a_long_text_is_cut() {
        let long = "ä".repeat(1_000_000);
        let printed = short(&long);
        assert_eq!(printed.chars().count(), SHORT + 1);
        assert!(printed.ends_with('…'));
        assert_eq!(message(&long).unwrap().chars().count(), LONG + 1);
        assert_eq!(short(&"x".repeat(SHORT)), "x".repeat(SHORT));
    }

    #[test]
    fn what_was_printed_is_printed_the_same() {
        let text = "a\n\u{202e}\u{1b}".repeat(500);
        let once = short(&text);
        assert_eq!(Printed::new(&once).to_string(), once);
    }

    #[test]
    fn causes_of_an_error_are_printed() {
        let cause = std::io::Error::other("the\ncause");
        let error = crate::error::StoreError::new("it failed");
        assert_eq!(chain(&error), "it failed");
        assert_eq!(chain(&cause), r"the\ncause");
    }
}
