//! Faults: collected while an input is read and judged, rendered once.
//!
//! Without it a user repairs one mistake per compile. Parse and validate never stop at a fault; they report it here and
//! go on with what is left.
//!
//! A message is lower case, has no full stop, uses the user's spelling, and ends with the way out, on a line of its own
//! that starts with `help:` where it is more than a word.

use std::fmt::Display;

use proc_macro2::TokenStream;
use quote::ToTokens;

/// The faults of one input.
#[derive(Default)]
pub(crate) struct Errors(Option<syn::Error>);

impl Errors {
    /// Reports a fault at the tokens to change.
    ///
    /// There is no variant that takes a span: tokens are underlined from the first to the last on every compiler.
    pub(crate) fn report(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.push(syn::Error::new_spanned(tokens, message));
    }

    /// The faults as `compile_error!` items, or nothing where there are none.
    pub(crate) fn render(self) -> Option<TokenStream> {
        self.0.map(|error| error.to_compile_error())
    }

    fn push(&mut self, fault: syn::Error) {
        match &mut self.0 {
            Some(error) => error.combine(fault),
            None => self.0 = Some(fault),
        }
    }
}

/// The candidate that is most likely meant by `wrong`, if one is near enough to be a slip of the keyboard.
pub(crate) fn nearest<'a>(
    wrong: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let wrong = &wrong.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (distance(wrong, candidate), candidate))
        .filter(|&(distance, candidate)| {
            distance <= 1.max(candidate.chars().count().min(wrong.chars().count()) / 3)
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// How many characters must be inserted, removed, replaced or swapped with their neighbour to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
