//! Futures that are dropped half-way.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// What became of a future.
#[derive(Debug)]
pub enum Polled<T> {
    /// It finished.
    Ready(T),
    /// It was dropped unfinished.
    Dropped,
}

/// Polls a future as often as it asks for it, but at most `polls` times, then drops it.
///
/// With `polls` counting up from zero this visits every await point at which the future ever waits.
pub async fn poll_times<T>(future: impl Future<Output = T>, polls: usize) -> Polled<T> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        let Some(next) = left.checked_sub(1) else {
            return Poll::Ready(Polled::Dropped);
        };
        left = next;
        let polled = future.as_mut().poll(context).map(Polled::Ready);
        if polled.is_pending() && left == 0 {
            return Poll::Ready(Polled::Dropped);
        }
        polled
    })
    .await
}
