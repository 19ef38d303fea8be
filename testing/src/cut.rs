//! A caller that gives up: its future is dropped after so many polls.
//! A time-out drops a future where it happens to be; this drops it where the test says.
//! 1. It is polled so often. 2. Then it is dropped: at once, while its request is on the way, or when it is woken, so that the
//!    reply is there and nobody reads it.

use std::{future::poll_fn, task::Poll};

/// When a future is dropped.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// After so many polls.
    pub polls: usize,
    /// Not at once, but when it is woken.
    pub late: bool,
}

impl Cut {
    /// Runs a future; `None` if it was dropped.
    pub async fn run<T>(self, future: impl Future<Output = T>) -> Option<T> {
        let mut running = Some(Box::pin(future));
        let mut left = self.polls;
        poll_fn(move |context| {
            let Some(future) = running.as_mut().filter(|_| left > 0) else {
                running = None;
                return Poll::Ready(None);
            };
            left -= 1;
            match future.as_mut().poll(context) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if left == 0 && !self.late => {
                    running = None;
                    Poll::Ready(None)
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::Cut;

    #[tokio::test]
    async fn a_future_is_dropped_after_so_many_polls() {
        for late in [false, true] {
            for waits in 0..5 {
                let waiting = async {
                    for _ in 0..waits {
                        tokio::task::yield_now().await;
                    }
                };
                let cut = Cut { polls: 3, late };
                assert_eq!(cut.run(waiting).await.is_some(), waits < 3);
            }
        }
    }
}
