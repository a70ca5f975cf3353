//! The deliveries of one consumer, polled.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::cell::{Call, ConsumerCell, Taken};
use super::waiter::{Waiter, answer};
use crate::consumer::{Consumer, Lease};
use crate::error::Error;

/// What a consumer's machine received, taken from it in batches: most deliveries cost no lock. Fused.
#[derive(Debug)]
pub struct Deliveries<S> {
    cell: Arc<ConsumerCell<S>>,
    /// How many are taken at a time.
    batch: usize,
    taken: VecDeque<Lease>,
    waiting: Option<Call<Consumer<Waiter>, S, answer::Ready>>,
    ended: bool,
}

impl<S: Send + Sync + 'static> Deliveries<S> {
    /// The deliveries of the machine under `cell`; at most half of its prefetch is taken at a time.
    #[must_use]
    pub fn new(cell: Arc<ConsumerCell<S>>, prefetch: usize) -> Self {
        Self {
            cell,
            batch: prefetch.div_ceil(2),
            taken: VecDeque::new(),
            waiting: None,
            ended: false,
        }
    }

    /// The next delivery, if one was taken from the machine already.
    pub fn take(&mut self) -> Option<Lease> {
        self.taken.pop_front()
    }

    /// The next delivery, or the error that ended the consumer, then `None`. `now` is asked only if the machine is.
    pub fn poll(&mut self, now: fn() -> Instant, cx: &mut Context<'_>) -> Poll<Option<Result<Lease, Error>>> {
        loop {
            if let Some(lease) = self.take() {
                return Poll::Ready(Some(Ok(lease)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            if let Some(waiting) = &mut self.waiting {
                ready!(Pin::new(waiting).poll(cx));
                self.waiting = None;
            }
            match self.cell.take_deliveries(now(), self.batch, &mut self.taken) {
                Taken::Some => {}
                Taken::Later(call) => self.waiting = Some(call),
                Taken::Ended(error) => {
                    self.ended = true;
                    return Poll::Ready(error.map(Err));
                }
            }
        }
    }

    /// The next deliveries, `max` at most and one at least; otherwise as [`poll`](Self::poll).
    pub fn poll_many(
        &mut self,
        now: fn() -> Instant,
        max: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Vec<Lease>, Error>>> {
        let first = match ready!(self.poll(now, cx)) {
            Some(Ok(lease)) => lease,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(None),
        };
        let mut leases = vec![first];
        self.take_many(now, max.max(1) - 1, &mut leases);
        Poll::Ready(Some(Ok(leases)))
    }

    /// Moves up to `max` of the deliveries that are there to the back of `into`, without waiting. The lock is taken once.
    pub fn take_many(&mut self, now: fn() -> Instant, max: usize, into: &mut Vec<Lease>) {
        let missing = max.saturating_sub(self.taken.len());
        if missing > 0 && !self.ended {
            self.cell.take_ready(now(), missing, &mut self.taken);
        }
        let n = max.min(self.taken.len());
        into.extend(self.taken.drain(..n));
    }

    /// Whether only `None` follows.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        self.ended && self.taken.is_empty()
    }

    /// Stops receiving. Once polled, that happens even if the future is dropped.
    pub async fn drain(&mut self, now: Instant) {
        let stop = self
            .cell
            .queue::<answer::Drained>(|consumer, waiter| consumer.stop_consuming(now, waiter));
        stop.detached().await;
    }

    /// Closes the connection. What was not taken comes back to the queue when its lease expires.
    pub fn abort(&mut self, now: Instant) {
        self.cell.with(|consumer| consumer.abort(now));
    }
}
