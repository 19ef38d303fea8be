//! The time at which a row ends by itself, such as a session or a token: the column that `ttl_from` names.
//!
//! Without it such a row would be served from the cache after its end, by up to the time to live of the entity.
//!
//! The types are those that convert into a `SystemTime`, so that larder names no crate of date and time.
//!
//! Not here: what the end of a row means for its entry (`context::expiry`).

use std::time::SystemTime;

/// A type of a column that says when its row ends.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no point in time at which a row could end",
    label = "`ttl_from` names this field",
    note = "it can be `chrono::DateTime<Utc>`, `time::OffsetDateTime`, or a type of yours that converts into `std::time::SystemTime`; and \
            an `Option` of it, where `None` is a row without an end",
    note = "a date and time without a time zone is no point in time"
)]
pub trait EndsAt<Kind> {
    /// Returns when the row ends, if it does.
    fn ends_at(&self) -> Option<SystemTime>;
}

/// The kind of a column that is `NOT NULL`.
#[derive(Debug)]
pub struct Always;

/// The kind of a column that may be `NULL`.
#[derive(Debug)]
pub struct Sometimes;

#[diagnostic::do_not_recommend]
impl<T: Clone + Into<SystemTime>> EndsAt<Always> for T {
    fn ends_at(&self) -> Option<SystemTime> {
        Some(self.clone().into())
    }
}

#[diagnostic::do_not_recommend]
impl<T: Clone + Into<SystemTime>> EndsAt<Sometimes> for Option<T> {
    fn ends_at(&self) -> Option<SystemTime> {
        self.clone().map(Into::into)
    }
}

/// Returns when a row ends that has this value in its column.
pub fn ends_at<Kind, T: EndsAt<Kind>>(value: &T) -> Option<SystemTime> {
    value.ends_at()
}
