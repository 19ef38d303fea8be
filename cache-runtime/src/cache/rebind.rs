//! Binds a namespace to another database, on request.

use std::sync::Arc;

use sqlx::Pool;

use super::Inner;
use crate::{
    binding::Bound,
    database::backend::Backend,
    error::{Error, ErrorKind},
    protocol::claim::Claim,
    store::Store,
};

/// Binds a namespace to the database that a pool connects to, replacing a former binding, and drops its cached rows.
pub(crate) async fn rebind<DB: Backend>(
    cache: &Arc<Inner>,
    namespace: &str,
    pool: &Pool<DB>,
) -> Result<(), Error> {
    let prober = cache.ledger.prober(pool);
    prober.forget();
    let seen = prober.seen(None).await?;
    let away = |error| {
        let message = format!(
            "failed to bind the namespace {namespace} to {seen}: the store cannot be reached; call `rebind` again"
        );
        Error::with_source(ErrorKind::CacheUnavailable, message, error)
    };
    let bound = Bound::to(&seen).encode();
    let claim = Claim {
        namespace,
        seen: "",
        leave: &bound,
        entity: "",
        table: "",
        shape: "",
        is_forced: true,
    };
    // Queued writes stay.
    let prefixes = || [format!("{namespace}:"), format!("{{{namespace}:")].map(Vec::from);
    let drop_rows = || cache.repairs.drop_all(prefixes());
    // Drop rows before binding, so that a crash here leaves no rows of the former database to the new one.
    drop_rows().await.map_err(away)?;
    cache.store.bind(&claim, None).await.map_err(away)?;
    cache.ledger.rebind(namespace, &seen);
    // Drop rows again, because other callers may have stored some in between.
    drop_rows().await.map_err(|error| {
        cache.repairs.remember_all(None);
        away(error)
    })?;
    tracing::info!(namespace, database = %seen, "bound the namespace to this database and dropped its cached rows");
    Ok(())
}
