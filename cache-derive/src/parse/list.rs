//! The inside of an attribute as a list of entries: `name`, `name = value` or `name(..)`, with commas between.
//!
//! `syn` reads such lists too, but stops at the first entry it cannot read. Splitting at the commas first confines a
//! mistake to its own entry.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

/// One entry of a list.
pub(super) struct Entry {
    /// The word it starts with.
    pub(super) name: Ident,
    /// What follows the name.
    pub(super) value: Written,
    /// All of it, for a message.
    pub(super) tokens: TokenStream,
}

/// What follows the name of an entry.
pub(super) enum Written {
    Nothing,
    Equals(TokenStream),
    Parentheses(TokenStream),
    /// Something else, such as a second word.
    Other,
}

/// Splits a list. An entry that does not start with a word is handed back as it is.
pub(super) fn entries(tokens: TokenStream) -> Vec<Result<Entry, TokenStream>> {
    let mut list: Vec<Vec<TokenTree>> = vec![Vec::new()];
    for token in ungrouped(tokens) {
        match (&token, list.last_mut()) {
            (TokenTree::Punct(punct), Some(entry)) if punct.as_char() == ',' => {
                // The comma stays for the message if there was nothing in front of it.
                if entry.is_empty() {
                    entry.push(token);
                }
                list.push(Vec::new());
            }
            (_, Some(entry)) => entry.push(token),
            (_, None) => list.push(vec![token]),
        }
    }
    list.retain(|entry| !entry.is_empty());
    list.into_iter().map(entry).collect()
}

/// The tokens without the invisible groups that `macro_rules!` puts around a `$key:meta`.
fn ungrouped(tokens: TokenStream) -> Vec<TokenTree> {
    let tokens = tokens.into_iter().map(|token| match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::None => {
            ungrouped(group.stream())
        }
        token => vec![token],
    });
    tokens.flatten().collect()
}

fn entry(tokens: Vec<TokenTree>) -> Result<Entry, TokenStream> {
    let all: TokenStream = tokens.iter().cloned().collect();
    let mut tokens = tokens.into_iter();
    let Some(TokenTree::Ident(name)) = tokens.next() else {
        return Err(all);
    };
    let value = match (tokens.next(), tokens.len()) {
        (None, _) => Written::Nothing,
        (Some(TokenTree::Punct(punct)), _) if punct.as_char() == '=' => {
            Written::Equals(tokens.collect())
        }
        (Some(TokenTree::Group(group)), 0) if group.delimiter() == Delimiter::Parenthesis => {
            Written::Parentheses(group.stream())
        }
        _ => Written::Other,
    };
    Ok(Entry {
        name,
        value,
        tokens: all,
    })
}
