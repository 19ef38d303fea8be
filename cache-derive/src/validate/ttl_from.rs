//! The rules of `ttl_from`, which names the column that says when a row ends.

use proc_macro2::Ident;

use super::{lookup, queue, text};
use crate::{ast::Input, diagnostics::Errors};

/// Judges the column that says when a row ends. Its type is judged by rustc.
pub(super) fn check(errors: &mut Errors, input: &Input) -> Option<Ident> {
    let setting = input.settings.get("ttl_from")?;
    check_queue(errors, input, &setting.name);
    let written = text(setting)?;
    let name = written.value();
    let Some(ident) = lookup::identifier(&name, written.span()) else {
        let message = format!("`{name}` is no field\n{}", setting.key.help());
        errors.report(written, message);
        return None;
    };
    let field = lookup::field(errors, input, &ident, "ttl_from")?;
    Some(field.ident.clone())
}

/// A queued write must stay in the cache until it is in the database, also after its row has ended.
fn check_queue(errors: &mut Errors, input: &Input, name: &Ident) {
    if queue::is_named(&input.settings) {
        let message = "`ttl_from` cannot be used with `strategy = \"write_behind\"`: a queued write is served until it is in the \
                       database, also after its row has ended\n\
                       help: use another strategy, or remove `ttl_from`";
        errors.report(name, message);
    }
}
