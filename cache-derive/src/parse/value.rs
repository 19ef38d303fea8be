//! Reads the value of a `#[cached(..)]` key in the form that the grammar gives it.

use proc_macro2::TokenStream;
use syn::{
    Ident, Lit, LitStr, Path, Token,
    parse::{ParseStream, Parser},
    punctuated::Punctuated,
};

use super::{duration, list::Written, size, words};
use crate::{
    ast::{Relation, Value, Word},
    diagnostics::{Errors, nearest},
    grammar::{Form, Key, list},
};

/// Reads the value of `key`, or reports that what is written there has another form. A group of keys is not read here.
pub(super) fn read(
    errors: &mut Errors,
    key: &'static Key,
    written: &Written,
    tokens: &TokenStream,
) -> Value {
    let value = match (key.form, written) {
        (Form::Flag, Written::Nothing) => Some(Value::Flag),
        (Form::Switch, Written::Equals(tokens)) => switch(tokens).map(Value::Switch),
        (Form::Text, Written::Equals(tokens)) => text(tokens).map(Value::Text),
        (Form::Duration | Form::DurationOrOff | Form::Pause(_), Written::Equals(tokens)) => {
            duration(errors, key, tokens)
        }
        (Form::Size, Written::Equals(tokens)) => bytes(errors, key, tokens),
        (Form::Number { least, most }, Written::Equals(tokens)) => {
            number(tokens, least, most).map(Value::Number)
        }
        (Form::Share, Written::Equals(tokens)) => share(tokens).map(Value::Share),
        (Form::Choice(words), Written::Equals(tokens)) => {
            text(tokens).map(|written| choice(errors, key, words, &written))
        }
        (Form::Path, Written::Equals(tokens)) => path(tokens).map(Value::Path),
        (Form::Name, Written::Equals(tokens)) => identifier(errors, key, tokens),
        (Form::Relation, Written::Equals(tokens)) => {
            path(tokens).map(|path| Value::Relation(Relation { path, name: None }))
        }
        (Form::Texts, Written::Parentheses(tokens)) => texts(tokens).map(Value::Texts),
        (Form::Paths, Written::Parentheses(tokens)) => paths(tokens).map(Value::Paths),
        (Form::Relation, Written::Parentheses(tokens)) => {
            relation.parse2(tokens.clone()).ok().map(Value::Relation)
        }
        _ => None,
    };
    value.unwrap_or_else(|| {
        let message = format!(
            "`{}` expects {}\n{}",
            key.name,
            key.form.expects(),
            key.help()
        );
        errors.report(tokens, message);
        Value::Unreadable
    })
}

/// `Author`, or `Author, name = "writers"`.
fn relation(input: ParseStream<'_>) -> syn::Result<Relation> {
    let path = input.parse()?;
    let mut name = None;
    if input.parse::<Option<Token![,]>>()?.is_some() && !input.is_empty() {
        let word = input.parse::<Ident>()?;
        if word != "name" {
            return Err(syn::Error::new(word.span(), "not `name`"));
        }
        input.parse::<Token![=]>()?;
        name = Some(input.parse::<LitStr>()?.parse()?);
        input.parse::<Option<Token![,]>>()?;
    }
    Ok(Relation { path, name })
}

/// At least one string, with commas between.
fn texts(tokens: &TokenStream) -> Option<Vec<LitStr>> {
    let parser = Punctuated::<LitStr, Token![,]>::parse_terminated;
    let texts = parser.parse2(tokens.clone()).ok()?;
    (!texts.is_empty()).then(|| texts.into_iter().collect())
}

/// At least one path, with commas between.
fn paths(tokens: &TokenStream) -> Option<Vec<Path>> {
    let parser = Punctuated::<Path, Token![,]>::parse_terminated;
    let paths = parser.parse2(tokens.clone()).ok()?;
    (!paths.is_empty()).then(|| paths.into_iter().collect())
}

fn switch(tokens: &TokenStream) -> Option<bool> {
    let switch: syn::LitBool = syn::parse2(tokens.clone()).ok()?;
    Some(switch.value)
}

fn text(tokens: &TokenStream) -> Option<LitStr> {
    syn::parse2(tokens.clone()).ok()
}

/// `None` if the value is not even of the right kind; a text that is no duration is reported here, with the reason.
fn duration(errors: &mut Errors, key: &Key, tokens: &TokenStream) -> Option<Value> {
    match syn::parse2(tokens.clone()).ok()? {
        Lit::Str(text) => Some(match milliseconds(key.form, &text.value()) {
            Ok(milliseconds) => Value::Duration(milliseconds),
            Err(reason) => wrong(errors, key, &text, &reason),
        }),
        Lit::Bool(off) if !off.value && key.form == Form::DurationOrOff => Some(Value::Off),
        _ => None,
    }
}

/// As [`duration`].
fn bytes(errors: &mut Errors, key: &Key, tokens: &TokenStream) -> Option<Value> {
    let text = text(tokens)?;
    Some(match size::positive(&text.value()) {
        Ok(bytes) => Value::Size(bytes),
        Err(reason) => wrong(errors, key, &text, &reason),
    })
}

/// As [`duration`].
fn identifier(errors: &mut Errors, key: &Key, tokens: &TokenStream) -> Option<Value> {
    let text = text(tokens)?;
    let reason = format!("`{}` is no identifier", text.value().escape_debug());
    Some(match text.parse() {
        Ok(name) => Value::Name(name),
        Err(_) => wrong(errors, key, &text, &reason),
    })
}

/// Reports a text of the right kind that cannot be read.
fn wrong(errors: &mut Errors, key: &Key, text: &LitStr, reason: &str) -> Value {
    let (name, expects, help) = (key.name, key.form.expects(), key.help());
    errors.report(
        text,
        format!("`{name}` expects {expects}, but {reason}\n{help}"),
    );
    Value::Unreadable
}

fn milliseconds(form: Form, text: &str) -> Result<u64, String> {
    match form {
        Form::Pause(most) => duration::pause(text, most),
        _ => duration::positive(text),
    }
}

fn number(tokens: &TokenStream, least: u64, most: Option<u64>) -> Option<u64> {
    let Lit::Int(number) = syn::parse2(tokens.clone()).ok()? else {
        return None;
    };
    let value = number.base10_parse().ok()?;
    let fits =
        number.suffix().is_empty() && value >= least && most.is_none_or(|most| value <= most);
    fits.then_some(value)
}

fn share(tokens: &TokenStream) -> Option<f64> {
    let share = match syn::parse2(tokens.clone()).ok()? {
        Lit::Int(number) if number.suffix().is_empty() => number.base10_parse().ok()?,
        Lit::Float(number) if number.suffix().is_empty() => number.base10_parse().ok()?,
        _ => return None,
    };
    (0.0..1.0).contains(&share).then_some(share)
}

fn choice(
    errors: &mut Errors,
    key: &Key,
    choices: &'static [&'static str],
    written: &LitStr,
) -> Value {
    let value = written.value();
    if let Some(word) = choices.iter().find(|word| **word == value) {
        let span = written.span();
        return Value::Word(Word { word, span });
    }
    let meant = words::value(key.name, &value).or_else(|| nearest(&value, choices.iter().copied()));
    let way_out = match meant {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("the values are {}", list(choices.iter())),
    };
    errors.report(
        written,
        format!("unknown value `{value}` for `{}`; {way_out}", key.name),
    );
    Value::Unreadable
}

fn path(tokens: &TokenStream) -> Option<Path> {
    match text(tokens) {
        Some(text) => text.parse_with(Path::parse_mod_style).ok(),
        None => Path::parse_mod_style.parse2(tokens.clone()).ok(),
    }
}
