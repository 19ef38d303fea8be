//! The layers of `cache-runtime` and of `cache-derive`: which file may import which.
//! Without the rule a file reaches for whatever has what it needs, and in the end every file needs every other.
//! 1. The table below lists the layers from the bottom to the top. 2. Every path that begins with `crate::` or `super::` is
//!    read from the tokens of every file, those inside function bodies and macros too. 3. A path into a higher layer is a
//!    complaint, and so is a file that is in no layer.
//!
//! Invariant: a file imports its own layer and layers below.
//! Not here: paths in comments; rustdoc links may point anywhere.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The modules of a crate from the bottom to the top; of several that contain a file the longest counts. A file that stands
/// in another layer than its folder has its reason beside it.
pub(crate) struct Layers {
    /// The folder of the crate's sources.
    folder: &'static str,
    layers: &'static [&'static [&'static str]],
}

pub(crate) const CRATES: [Layers; 2] = [
    Layers {
        folder: "cache-runtime/src/",
        layers: &[
            &[
                "error",
                "clock",
                "policy",
                "stats",
                "health",
                "pause",
                "observe",
                "detached",
                "printed",
                "gathering",
                "units",
            ],
            &["protocol"],
            &["journal"],
            &["store"],
            &["database"],
            &["repair"],
            &["binding"],
            &["cache"],
            // What a repository holds: the loads under way and their results, and what it knows of its queue. The steps
            // that use these are above it.
            &[
                "read::flight",
                "read::outcome",
                "read::turn",
                "write::row_gate",
                "write::target",
                "behind::queue",
                "behind::offsets",
            ],
            // Binding is a step of a repository before every other one, so it needs the context, and all of them need it.
            &["context", "binding::bind"],
            &["read"],
            &["write", "behind"],
            &["repository", "tools"],
            // What generated code names, macros of the root among it.
            &["private", ""],
        ],
    },
    Layers {
        folder: "cache-derive/src/",
        layers: &[
            &["grammar", "diagnostics", "paths"],
            &["ast"],
            &["model"],
            &["parse"],
            &["validate"],
            &["expand"],
            &["tests", ""],
        ],
    },
];

/// A path of a file, and the line it stands in.
struct Import {
    path: Vec<String>,
    line: usize,
}

impl Layers {
    /// The complaints about a file of the repository; nothing if it is not one of this crate.
    pub(crate) fn check(&self, name: &str, text: &str) -> Vec<String> {
        let Some(module) = self.module(name) else {
            return Vec::new();
        };
        let Ok(tokens) = text.parse::<TokenStream>() else {
            return vec![format!("{name}:1: cannot be read as Rust")];
        };
        let Some(own) = self.layer(&module) else {
            return vec![format!(
                "{name}:1: stands in no layer; give it one in xtask/src/layers.rs"
            )];
        };
        let mut imports = Vec::new();
        collect(tokens, &module, &mut imports);
        // A name of the root is in its layer: what the root exports again would hide where it comes from.
        let root = self.layers.len() - 1;
        let is_above = |import: &Import| self.layer(&import.path).unwrap_or(root) > own;
        let above = imports.into_iter().filter(is_above);
        above
            .map(|Import { path, line }| {
                let path = path.join("::");
                format!(
                    "{name}:{line}: imports `{path}` of a higher layer; see the table in xtask/src/layers.rs"
                )
            })
            .collect()
    }

    /// The module that a file is.
    fn module(&self, name: &str) -> Option<Vec<String>> {
        let path = name.strip_prefix(self.folder)?.strip_suffix(".rs")?;
        let path = path.strip_suffix("/mod").unwrap_or(path);
        let is_root = path == "lib";
        let parts = path.split('/').filter(|_| !is_root);
        Some(parts.map(str::to_owned).collect())
    }

    /// The layer of a module or of something in it.
    fn layer(&self, path: &[String]) -> Option<usize> {
        let length_in = |module: &str| {
            let parts: Vec<_> = module.split("::").filter(|part| !part.is_empty()).collect();
            let is_in = path.len() >= parts.len() && parts.iter().zip(path).all(|(a, b)| a == b);
            // Only the root itself is in the root.
            (is_in && (!parts.is_empty() || path.is_empty())).then_some(parts.len())
        };
        let lengths = self.layers.iter().enumerate().flat_map(|(layer, modules)| {
            let lengths = modules.iter().filter_map(|module| length_in(module));
            lengths.map(move |length| (length, layer))
        });
        lengths.max().map(|(_, layer)| layer)
    }
}

/// Collects the paths in tokens that stand in a module.
fn collect(tokens: TokenStream, module: &[String], imports: &mut Vec<Import>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(word) if word == "mod" => {
                if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
                    (tokens.get(at + 1), tokens.get(at + 2))
                {
                    let mut inner = module.to_vec();
                    inner.push(name.to_string());
                    collect(body.stream(), &inner, imports);
                    at += 2;
                }
            }
            TokenTree::Ident(word) if word == "crate" || word == "super" => {
                let mut base = match *word == "super" {
                    true => module[..module.len().saturating_sub(1)].to_vec(),
                    false => Vec::new(),
                };
                let line = word.span().start().line;
                let mut next = at + 1;
                while is_path(&tokens, next)
                    && matches!(tokens.get(next + 2), Some(TokenTree::Ident(word)) if word == "super")
                {
                    base.pop();
                    next += 3;
                }
                if is_path(&tokens, next) {
                    branches(&tokens[next + 2..], &base, line, imports);
                }
            }
            TokenTree::Group(group) => collect(group.stream(), module, imports),
            _ => {}
        }
        at += 1;
    }
}

/// Whether there is a `::`.
fn is_path(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    colon(tokens.get(at)) && colon(tokens.get(at + 1))
}

/// Collects the paths behind a `::`, each branch of a tree by itself.
fn branches(tokens: &[TokenTree], base: &[String], line: usize, imports: &mut Vec<Import>) {
    match tokens.first() {
        Some(TokenTree::Ident(word)) => {
            let mut path = base.to_vec();
            if word != "self" {
                path.push(word.to_string());
            }
            if is_path(tokens, 1) {
                branches(&tokens[3..], &path, line, imports);
            } else {
                imports.push(Import { path, line });
            }
        }
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',');
            for branch in inner.split(is_comma).filter(|branch| !branch.is_empty()) {
                let line = branch[0].span().start().line;
                branches(branch, base, line, imports);
            }
        }
        // `*`, or a type's parameters behind a path.
        _ => imports.push(Import {
            path: base.to_vec(),
            line,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(name: &str, text: &str) -> Vec<usize> {
        let complaints = CRATES.iter().flat_map(|layers| layers.check(name, text));
        complaints
            .map(|complaint| complaint.split(':').nth(1).unwrap().parse().unwrap())
            .collect()
    }

    const STORE: &str = "cache-runtime/src/store/wake.rs";

    #[test]
    fn import_from_a_higher_layer_is_found_wherever_it_stands() {
        for (text, line) in [
            ("use crate::write::announce::Part;", 1),
            ("use crate::{\n    error::Error,\n    write::Part,\n};", 3),
            (
                "use crate::protocol::{self, key::Key};\nuse super::super::read::Judged;",
                2,
            ),
            (
                "fn f() {\n    let x = crate::context::Context::open();\n}",
                2,
            ),
            (
                "mod tests {\n    use super::super::super::repository::Repository;\n}",
                2,
            ),
            ("macro_rules! m { () => { $crate::private::fits() } }", 1),
            ("use crate::Error;", 1),
            ("use crate::write as w;", 1),
        ] {
            assert_eq!(complaints(STORE, text), [line], "{text}");
        }
    }

    #[test]
    fn import_from_the_own_layer_and_below_is_fine() {
        let text = "use crate::{error::Error, protocol::{self, key::*}, store::{Store, queue}};\n\
                    use super::faulty;\n\
                    mod tests { use super::*; }\n\
                    /// See [`crate::repository::Repository`].\n\
                    fn f(super_: u8) { let crate_ = super_; }";
        assert_eq!(complaints(STORE, text), [0; 0]);
        assert_eq!(
            complaints("tests/suite/read.rs", "use crate::write::X;"),
            [0; 0]
        );
    }

    #[test]
    fn file_may_stand_in_another_layer_than_its_folder() {
        let text = "use crate::context::Context;";
        assert_eq!(complaints("cache-runtime/src/read/load.rs", text), [0; 0]);
        assert_eq!(complaints("cache-runtime/src/read/flight.rs", text), [1]);
    }

    #[test]
    fn file_without_a_layer_is_found() {
        assert_eq!(complaints("cache-runtime/src/lists.rs", "").len(), 1);
        assert_eq!(complaints("cache-runtime/src/lib.rs", "mod write;"), [0; 0]);
    }
}
