//! placeholder
use crate::{backend::Backend, column::ColumnSpec, entity::EntitySpec, error::Error};
use sqlx::Pool;
/// r
#[derive(Clone, Debug, Default)]
pub struct SchemaReport {}
pub(crate) fn check_id<DB: Backend>(
    _entity: &str,
    _columns: &[ColumnSpec<DB>],
) -> Result<(), Error> {
    Ok(())
}
pub(crate) async fn check<DB: Backend>(
    _spec: EntitySpec,
    _pool: &Pool<DB>,
    _columns: &[ColumnSpec<DB>],
) -> Result<SchemaReport, Error> {
    Ok(SchemaReport {})
}
