//! From `syn` to the [`ast`](crate::ast): reads the three attributes larder looks at, field by field.
//!
//! 1. `#[cached(..)]` is read by the grammar, and whatever is not in the grammar is reported.
//! 2. `#[sqlx(..)]` is read as sqlx reads it, because both must agree on which column a field is.
//! 3. `#[serde(..)]` is searched for the keys that keep a field out of a payload.
//!
//! Invariant: reading never stops at a fault. One that is reported here leaves a mark in the ast, so that `validate` does
//! not report its consequences.
//!
//! Not here: rules about several attributes at once. Those are `validate`'s.

mod cached;
mod duration;
mod list;
mod serde;
mod size;
mod sqlx;
mod value;
mod words;

use syn::{Data, DeriveInput, Fields};

use crate::{
    ast::{Derive, Field, Input, Shape},
    diagnostics::Errors,
    grammar::Place,
};

/// Reads the input of a derive.
pub(crate) fn input(errors: &mut Errors, derive: Derive, input: &DeriveInput) -> Input {
    Input {
        derive,
        visibility: input.vis.clone(),
        ident: input.ident.clone(),
        generics: input.generics.clone(),
        shape: shape(errors, &input.data),
        settings: cached::settings(errors, Place::Struct, &input.attrs),
        sqlx: sqlx::container(&input.attrs),
        serde: serde::keys(&input.attrs),
    }
}

fn shape(errors: &mut Errors, data: &Data) -> Shape {
    match data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => Shape::Named(
                fields
                    .named
                    .iter()
                    .filter_map(|item| field(errors, item))
                    .collect(),
            ),
            Fields::Unnamed(_) => Shape::Tuple,
            Fields::Unit => Shape::Unit,
        },
        Data::Enum(_) => Shape::Enum,
        Data::Union(_) => Shape::Union,
    }
}

fn field(errors: &mut Errors, field: &syn::Field) -> Option<Field> {
    Some(Field {
        ident: field.ident.clone()?,
        ty: field.ty.clone(),
        settings: cached::settings(errors, Place::Field, &field.attrs),
        sqlx: sqlx::field(errors, &field.attrs),
        serde: serde::keys(&field.attrs),
    })
}
