//! Every name that an expansion introduces is one that the user's scope cannot disturb.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use quote::ToTokens;

use super::{cached, columns};
use crate::expand::PARAMETERS;

const NESTED: &str =
    "struct Route { status: Status, #[sqlx(flatten)] part: Part, #[sqlx(json)] note: Note }";

/// The fields of lookups and tags, which their parameters are named after, and the other parameters of tags.
const FIELDS: &[&str] = &["email", "number", "tag", "tags", "tenant", "write"];

/// Entities that together have every method and every kind of field.
const ENTITIES: &[&str] = &[
    r#"#[cached(table = "t")] struct Flight { #[cached(id)] id: i64, #[cached(version)] version: i64 }"#,
    r#"#[cached(table = "t", strategy = "write_behind")] struct Flight { #[cached(id)] id: i64 }"#,
    r#"#[cached(table = "t", repository = "Flights", ttl = "1m", jitter = 0.5)]
       struct Flight {
           #[cached(id)] #[sqlx(try_from = "i64")] day: Day,
           #[cached(id)] number: String,
           #[sqlx(json)] meta: Meta,
           #[sqlx(json(nullable))] note: Option<Meta>,
           #[sqlx(flatten)] route: Route,
           #[sqlx(skip)] seen: bool,
       }"#,
    r#"#[cached(table = "t", unique(tenant, email), index(tenant, number, order_by = "email"))]
       struct Flight {
           #[cached(id)] id: i64,
           #[cached(unique(fold = "lower"))] email: String,
           #[cached(unique)] #[sqlx(try_from = "i64")] tenant: Tenant,
           #[cached(index)] number: Option<i64>,
           #[cached(index)] change: i64,
       }"#,
    r#"#[cached(table = "t", has_many(Seat::flight))]
       struct Flight { #[cached(id)] id: i64, #[cached(belongs_to = Airport)] origin: Option<i64>, #[cached(immutable)] day: i64 }"#,
    r#"#[cached(table = "t", tags("all of them", "number:{number}", "{email}/{tenant}"))]
       struct Flight { #[cached(id)] id: i64, number: Option<i64>, email: String, tenant: i64 }"#,
    r#"#[cached(table = "t", ttl_from = "until")] struct Flight { #[cached(id)] id: i64, until: Option<Moment> }"#,
    r#"#[cached(table = "t")] struct Flight { #[cached(id)] id: i64, #[cached(omit)] note: Option<String> }"#,
    // Three with a mistake.
    r#"#[cached(table = "t", ttl = 5, tags("number:{number}"))] struct Flight { #[cached(id)] id: i64, number: i64 }"#,
    r#"#[cached(table = "t", ttl = 5)] struct Flight { #[cached(id)] id: i64, #[cached(unique)] email: String }"#,
    r#"#[cached(table = "t", ttl = 5)] struct Flight { #[cached(id)] id: i64 }"#,
];

/// The names that an expansion introduces, by how they could be disturbed.
#[derive(Default)]
struct Introduced {
    /// Parameters, which a unit struct, a constant or a static changes.
    values: Vec<String>,
    /// Type parameters, which hide types.
    generics: Vec<String>,
    /// Items, which hide items.
    items: Vec<String>,
    /// Calls of methods with `.`, which a trait can take over, after what they are called on.
    method_calls: Vec<String>,
    imported: Vec<String>,
}

impl Introduced {
    fn add(&mut self, item: &syn::Item) {
        match item {
            syn::Item::Struct(item) => self.add_named(&item.ident, &item.generics),
            syn::Item::Trait(item) => self.add_named(&item.ident, &item.generics),
            syn::Item::Use(item) => self.add_imports(&item.tree),
            syn::Item::Impl(item) => {
                self.add_generics(&item.generics);
                for item in &item.items {
                    if let syn::ImplItem::Fn(method) = item {
                        self.add_function(&method.sig, &method.block);
                    }
                }
            }
            syn::Item::Const(item) => {
                self.items.push(item.ident.to_string());
                if let syn::Expr::Block(block) = &*item.expr {
                    for statement in &block.block.stmts {
                        match statement {
                            syn::Stmt::Item(item) => self.add(item),
                            _ => panic!("a constant has items only"),
                        }
                    }
                }
            }
            syn::Item::Fn(function) => {
                self.items.push(function.sig.ident.to_string());
                self.add_function(&function.sig, &function.block);
            }
            syn::Item::Macro(_) => {}
            item => panic!("an unknown item: {}", item.to_token_stream()),
        }
    }

    fn add_named(&mut self, name: &Ident, generics: &syn::Generics) {
        self.items.push(name.to_string());
        self.add_generics(generics);
    }

    fn add_generics(&mut self, generics: &syn::Generics) {
        let names = generics.type_params().map(|name| name.ident.to_string());
        self.generics.extend(names);
    }

    fn add_imports(&mut self, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => self.add_imports(&path.tree),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.add_imports(tree));
            }
            syn::UseTree::Rename(rename) => self.imported.push(rename.rename.to_string()),
            tree => panic!("an unknown import: {}", tree.to_token_stream()),
        }
    }

    fn add_function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        self.add_generics(&signature.generics);
        for input in &signature.inputs {
            match input {
                syn::FnArg::Receiver(_) => {}
                syn::FnArg::Typed(input) => match &*input.pat {
                    syn::Pat::Ident(pattern) => self.values.push(pattern.ident.to_string()),
                    syn::Pat::Wild(_) => {}
                    pattern => panic!("an unknown pattern: {}", pattern.to_token_stream()),
                },
            }
        }
        let text = block.to_token_stream().to_string();
        // Between every other pair of strokes are the parameters of a closure.
        let mut closures = text.split('|').skip(1).step_by(2).map(str::trim);
        let is_ours = closures.all(|names| names.is_empty() || names.starts_with("__cached"));
        assert!(
            is_ours && !text.contains("let "),
            "a body has locals: {text}"
        );
        self.add_calls(block.to_token_stream());
    }

    fn add_calls(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (index, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => self.add_calls(group.stream()),
                TokenTree::Punct(dot) if dot.as_char() == '.' && is_call(&tokens[index + 2..]) => {
                    let receiver = match &tokens[index - 1] {
                        TokenTree::Group(_) => "()".to_owned(),
                        token => token.to_string(),
                    };
                    let method = &tokens[index + 1];
                    self.method_calls.push(format!("{receiver}.{method}"));
                }
                _ => {}
            }
        }
    }
}

/// Whether a call follows, after generic arguments or not.
fn is_call(tokens: &[TokenTree]) -> bool {
    match tokens.first() {
        Some(TokenTree::Group(group)) => group.delimiter() == Delimiter::Parenthesis,
        Some(TokenTree::Punct(punct)) => punct.as_char() == ':',
        _ => false,
    }
}

fn introduced(expansion: &str) -> Introduced {
    let mut introduced = Introduced::default();
    let file = syn::parse_file(expansion).expect("an expansion is a file");
    file.items.iter().for_each(|item| introduced.add(item));
    introduced
}

fn all() -> Vec<Introduced> {
    let entities = ENTITIES.iter().map(|input| introduced(&cached(input)));
    entities.chain([introduced(&columns(NESTED))]).collect()
}

#[test]
fn every_local_is_imported_as_a_function_or_written_by_nobody() {
    for Introduced {
        values, imported, ..
    } in all()
    {
        for value in values {
            let is_known = PARAMETERS.contains(&value.as_str()) || FIELDS.contains(&value.as_str());
            let shadows = is_known && imported.contains(&value);
            assert!(shadows || value.starts_with("__cached"), "{value}");
        }
    }
    let mut used: Vec<_> = all().into_iter().flat_map(|all| all.values).collect();
    used.retain(|value| !value.starts_with("__cached") && !FIELDS.contains(&value.as_str()));
    used.sort();
    used.dedup();
    assert_eq!(used, PARAMETERS, "no name is imported without need");
}

#[test]
fn every_type_parameter_is_free_or_written_by_nobody() {
    for Introduced { generics, .. } in all() {
        for name in generics {
            assert!(
                ["D", "DB", "Id", "R", "T", "V", "V1", "V2"].contains(&name.as_str())
                    || name.starts_with("__Cached"),
                "{name}"
            );
        }
    }
    let of = |entity: &str, id: &str, keys: &str| {
        introduced(&cached(&format!(
            r#"#[cached(table = "t" {keys})] struct {entity} {{ #[cached(id)] id: {id} }}"#
        )))
        .generics
    };
    for (entity, id, keys) in [
        ("DB", "Id", ""),
        ("r#DB", "crate::Id", ""),
        ("Flight", "(DB, Id)", ""),
        ("Flight", "Typed<DB, [Id; 2]>", ""),
        ("Flight", "key!()", ""),
        ("Id", "i64", r#", repository = "DB""#),
        ("Flight", "Id", ", crate = DB::larder"),
    ] {
        let mut generics = of(entity, id, keys);
        // None of them mentions this one.
        generics.retain(|name| name != "R");
        assert!(
            generics.iter().all(|name| name.starts_with("__Cached")),
            "{entity} {id} {keys}: {generics:?}"
        );
    }
    assert!(of("Database", "Identity", "").contains(&"DB".to_owned()));
    assert!(!of("Flight", "R", "").contains(&"R".to_owned()));
}

#[test]
fn every_item_but_the_repository_is_written_by_nobody() {
    for Introduced { items, .. } in all() {
        for name in items {
            let repository = name.strip_suffix("Within").unwrap_or(&name);
            let is_repository = ["FlightRepository", "Flights"].contains(&repository);
            assert!(
                is_repository || name == "_" || name.to_lowercase().starts_with("__cached"),
                "{name}"
            );
        }
    }
}

/// A method of the type itself comes before one of a trait if its receiver needs no `&`.
#[test]
fn every_method_call_is_on_a_reference_of_its_own_or_by_value() {
    for Introduced { method_calls, .. } in all() {
        for call in method_calls {
            let is_reference = ["__cached_columns.", "__cached_values."]
                .iter()
                .any(|receiver| call.starts_with(receiver));
            let is_by_value = ["None.or_else", "().or_else"].contains(&call.as_str());
            assert!(is_reference || is_by_value, "{call}");
        }
    }
}
