//! The tags of a repository.

use crate::{
    database::{backend::Backend, entity::Entity},
    error::Error,
    repository::Repository,
};

impl<E: Entity, DB: Backend> Repository<E, DB> {
    /// Invalidates the cached rows with this tag, in one round trip, however many they are. When it returns, no process serves
    /// them any more, and loads that had begun before are not served either. Absences and lists of the entity are loaded again
    /// too: a row with the tag may have become one of them.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if no row of the entity can have the tag.
    /// - [`ErrorKind::CacheUnavailable`](crate::ErrorKind::CacheUnavailable) if the store cannot be reached. This process then
    ///   bypasses the cache until all of its keys have been dropped. Until then other processes may serve old rows, at most
    ///   until their time to live ends.
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
            self.0.bind_now().await?;
            self.0.invalidate_tags(&tags).await
        }
    }
}
