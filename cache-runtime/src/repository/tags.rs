//! The tags of a repository.

use std::pin::Pin;

use crate::{
    database::{self, WriteOutcome, backend::Backend, entity::Entity},
    error::Error,
    observe::{Operation, Told},
    repository::Repository,
    write::transaction::Transaction,
};

/// The statements of a [`Repository::write_tagged`].
pub type WriteFuture<'c, T> = Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'c>>;

impl<E: Entity, DB: Backend> Repository<E, DB> {
    /// Invalidates the cached rows with this tag, in one round trip, however many they are. When it returns, no process serves
    /// them any more, and loads that had begun before are not served either. Absences and lists of the entity are loaded again
    /// too: a row with the tag may have become one of them.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if no row of the entity can have the tag.
    /// - [`ErrorKind::CacheUnavailable`](crate::ErrorKind::CacheUnavailable) if the store cannot be reached. This process then
    ///   reads the rows of the entity from the database until the invalidation was delivered. Until then other processes may
    ///   serve old rows, at most until their time to live ends.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it ends, the rows may or may not be invalidated. Call it again.
    pub fn invalidate_tag(
        &self,
        tag: impl Into<String>,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        self.invalidate_tags([tag])
    }

    /// Runs statements of your own that change the rows with these tags, in a transaction, and returns what they return.
    ///
    /// Name the tags that the rows have before the change as well as those that they get. From before the commit until after it,
    /// readers of rows with these tags, of absences and of lists go to the database, and nothing of it is cached. So it is as safe
    /// as a write by id, and nothing has to be invalidated afterwards.
    ///
    /// ```
    /// # use larder_runtime::{Error, Repository, sqlx, Entity};
    /// # async fn example<E: Entity>(products: Repository<E, sqlx::Sqlite>) -> Result<u64, Error> {
    /// let cheaper = "UPDATE products SET price = price * 0.9 WHERE category = 7";
    /// let done = products
    ///     .write_tagged(["category:7"], move |connection| Box::pin(sqlx::query(cheaper).execute(connection)))
    ///     .await?;
    /// Ok(done.rows_affected())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if no row of the entity can have one of the tags. Nothing was
    ///   changed.
    /// - The error of the statements, as its source. They are rolled back.
    /// - As [`Transaction::commit`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the transaction is rolled back, unless its commit has begun: that runs to its end.
    pub async fn write_tagged<T: Send>(
        &self,
        tags: impl IntoIterator<Item = impl Into<String>> + Send,
        write: impl for<'c> FnOnce(&'c mut DB::Connection) -> WriteFuture<'c, T> + Send,
    ) -> Result<T, Error> {
        let texts: Vec<String> = tags.into_iter().map(Into::into).collect();
        let written = async {
            let tags = self.0.known_tags("write", &texts)?;
            let mut transaction = Transaction::begin(self.pool()).await?;
            let written = write(transaction.connection()).await;
            let value = written.map_err(|error| {
                let fate = WriteOutcome::Nothing;
                database::describe("write", &format!("rows of {}", E::SPEC.name), error, fate)
            })?;
            if !tags.is_empty() {
                transaction.mark_tags_changed(&self.0, tags)?;
            }
            transaction.commit().await?;
            Ok(value)
        };
        let told = |_: &_| Told::default();
        let signals = &self.0.signals;
        signals
            .observe_as(Operation::WriteTagged, told, written)
            .await
    }

    /// As [`Repository::invalidate_tag`], for several tags in one round trip.
    ///
    /// # Errors
    ///
    /// As [`Repository::invalidate_tag`]. If one tag is wrong, nothing is invalidated.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::invalidate_tag`].
    pub fn invalidate_tags(
        &self,
        tags: impl IntoIterator<Item = impl Into<String>>,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        let tags: Vec<String> = tags.into_iter().map(Into::into).collect();
        async move {
            let invalidated = async {
                self.0.bind_now().await?;
                self.0.invalidate_tags(&tags).await
            };
            let signals = &self.0.signals;
            signals
                .observe(Operation::InvalidateTags, invalidated)
                .await
        }
    }
}
