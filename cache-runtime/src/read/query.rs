//! The answer of a query of the user: what it is at a key, beside rows and lookups.
//!
//! It takes the same way as a row (`read`): the same lease, flights, fill and outage. Its tags are stored with it, so that it can
//! be compared with the clock.
//!
//! Invariant: an answer is stored only if it is equal to itself after its codec has encoded and decoded it.
//! Not here: the key, the tags and the time to live, which the user gives (`repository/queries`).

use std::{collections::HashMap, sync::Arc};

use futures_util::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    context::Context,
    database::{
        backend::Backend,
        queries::{Answer, NoRow},
    },
    error::Error,
    protocol::{
        key::Key,
        state::Identity,
        tags::{Tag, Tags},
    },
    read::{
        LookedUp, Next,
        content::{Content, SelectError},
        flight::Flights,
    },
    store::{Payload, Representation, Store, failpoint::Mechanism},
};

/// What a query can return.
///
/// The answer is encoded by the codec of the cache, and compared with itself after it was decoded again.
pub trait Answers: Serialize + DeserializeOwned + PartialEq + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + PartialEq + Send + Sync + 'static> Answers for T {}

/// The statements of a query.
pub(crate) type Statements<T, DB> = Arc<
    dyn for<'c> Fn(
            &'c mut <DB as sqlx::Database>::Connection,
        ) -> BoxFuture<'c, Result<T, sqlx::Error>>
        + Send
        + Sync,
>;

/// A query of the user.
pub(crate) struct QueryOf<T, DB: Backend> {
    pub(crate) tags: Tags,
    pub(crate) fingerprint: u32,
    pub(crate) statements: Statements<T, DB>,
}

impl<T, DB: Backend> Clone for QueryOf<T, DB> {
    fn clone(&self) -> Self {
        Self {
            tags: self.tags.clone(),
            statements: Arc::clone(&self.statements),
            ..*self
        }
    }
}

impl<T: Answers, DB: Backend> Content<NoRow, DB> for QueryOf<T, DB> {
    type Value = Answer;
    const PLURAL: &'static str = "queries";

    fn flights(context: &Context<NoRow, DB>) -> &Flights<Answer> {
        &context.answers.flights
    }

    fn identity(&self, context: &Context<NoRow, DB>) -> Identity {
        Identity {
            fingerprint: self.fingerprint,
            ..context.identity()
        }
    }

    fn decode(context: &Context<NoRow, DB>, key: &Key, payload: Payload) -> Option<Arc<Answer>> {
        match payload {
            Payload::Bytes(bytes, header) => {
                let bytes = context.readable(key.unmarked(&bytes[header..])?)?;
                let decoded = context.codec.decode(bytes);
                let (tags, value): (Vec<u64>, T) = decoded.ok()?;
                Some(Arc::new(answer(tags.into_iter().map(Tag), value)))
            }
            Payload::Shared(answer, _) => {
                let answer: Arc<Answer> = answer.downcast().ok()?;
                answer.value.is::<T>().then_some(answer)
            }
        }
    }

    fn encode(context: &Context<NoRow, DB>, key: &Key, answer: &Arc<Answer>) -> Option<Payload> {
        context.encode_answer::<T>(key, answer)
    }

    fn tags(answer: &Answer) -> Option<Tags> {
        Some(answer.tags.clone())
    }

    async fn settle(_context: &Context<NoRow, DB>, _key: &Key) -> Result<LookedUp<Answer>, Error> {
        // Queries have no queue. Another program has written this entry.
        Ok(LookedUp::Unserved(Next::Bypass))
    }

    fn describe(&self, _context: &Context<NoRow, DB>, key: &Key) -> String {
        format!("the query with key {key}")
    }

    async fn select(
        _context: &Context<NoRow, DB>,
        connection: &mut DB::Connection,
        wanted: &[(&Key, &Self)],
    ) -> Result<HashMap<Key, Answer>, SelectError> {
        let mut answers = HashMap::with_capacity(wanted.len());
        for (key, query) in wanted {
            let value = (query.statements)(&mut *connection).await?;
            let tags = query.tags.as_slice().iter().copied();
            answers.insert((*key).clone(), answer(tags, value));
        }
        Ok(answers)
    }
}

fn answer<T: Answers>(tags: impl Iterator<Item = Tag>, value: T) -> Answer {
    let mut own = Tags::default();
    for tag in tags {
        own.push(tag);
    }
    Answer {
        tags: own,
        value: Arc::new(value),
    }
}

impl<DB: Backend> Context<NoRow, DB> {
    /// Returns the payload of an answer, if the codec reproduces it.
    fn encode_answer<T: Answers>(&self, key: &Key, answer: &Arc<Answer>) -> Option<Payload> {
        let value = answer.value.downcast_ref::<T>()?;
        let tags: Vec<u64> = answer.tags.as_slice().iter().map(|tag| tag.0).collect();
        let encoded = self.codec.encode(&(&tags, value));
        let decoded = encoded.as_deref().map(|bytes| self.codec.decode(bytes));
        let reason = match decoded {
            Ok(Ok((back, copy))) => {
                let (back, copy): (Vec<u64>, T) = (back, copy);
                let is_same = back == tags && copy == *value;
                let bytes = encoded.ok()?;
                if is_same || self.cache.store.disables(Mechanism::RoundTrip) {
                    return self.fits(&bytes).then(|| match self.cache.store.keeps() {
                        Representation::Rows => {
                            let copy = self::answer(back.into_iter().map(Tag), copy);
                            Payload::Shared(Arc::new(copy) as _, bytes.len())
                        }
                        Representation::Bytes => Payload::Bytes(key.marked(&bytes), 0),
                    });
                }
                "it comes back as another value".to_owned()
            }
            Ok(Err(error)) => format!("it cannot be decoded again: {error}"),
            Err(error) => format!("it cannot be encoded: {error}"),
        };
        self.counters.codec_mismatches.add_one();
        let what = self
            .cache
            .logged_mismatches
            .is_new(NO_ENTITY, Some(&key.to_string()));
        if what {
            tracing::warn!(
                %key,
                codec = ?self.codec,
                reason,
                "the answer of a query stays uncached, because the codec does not reproduce it; make serde write it as it reads it, \
                 or choose another `codec`"
            );
        }
        None
    }
}

/// The name under which answers are logged.
const NO_ENTITY: &str = "queries";
