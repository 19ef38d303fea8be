//! A namespace given to another database, on request.

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

/// Binds a namespace to the database that a pool reaches, whatever it was bound to, and drops what is cached in it.
pub(crate) async fn rebind<DB: Backend>(
    cache: &Arc<Inner>,
    namespace: &str,
    pool: &Pool<DB>,
) -> Result<(), Error> {
    let prober = cache.ledger.prober(pool);
    prober.forget();
    let seen = prober.seen(None).await?;
    let away = |error| {
        let message = format!("failed to bind the namespace {namespace} to {seen}");
        Error::with_source(ErrorKind::Store, message, error)
    };
    let bound = Bound::to(&seen).encode();
    let claim = Claim {
        namespace,
        seen: "",
        leave: &bound,
        entity: "",
        table: "",
        is_forced: true,
    };
    // What stands in a queue stays.
    let prefixes = || [format!("{namespace}:"), format!("{{{namespace}:")].map(Vec::from);
    let drop_rows = || cache.repairs.drop_all(prefixes());
    // Before, so that a process that is stopped here leaves no rows of the former database to the new one.
    drop_rows().await.map_err(away)?;
    cache.store.bind(&claim, None).await.map_err(away)?;
    cache.ledger.rebind(namespace, &seen);
    // And behind, because of what was stored meanwhile.
    drop_rows().await.map_err(|error| {
        cache.repairs.remember_everything(None);
        away(error)
    })?;
    tracing::info!(namespace, database = %seen, "the namespace is bound to this database from now on");
    Ok(())
}
