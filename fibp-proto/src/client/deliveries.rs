//! The deliveries of one consumer, polled.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::cell::{Call, ConsumerCell, Taken};
use super::waiter::{Waiter, answer};
use crate::consumer::{Consumer, Lease, Leases};
use crate::error::Error;

/// What a consumer's machine received, taken from it in batches: most deliveries cost no lock. Fused.
#[derive(Debug)]
pub struct Deliveries<S> {
    cell: Arc<ConsumerCell<S>>,
    /// How many are taken at a time.
    batch: usize,
    taken: Leases,
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
            taken: Leases::new(),
            waiting: None,
            ended: false,
        }
    }

    /// Whether a delivery was taken from the machine already.
    #[must_use]
    pub fn has_taken(&self) -> bool {
        !self.taken.is_empty()
    }

    /// The next delivery, if one was taken from the machine already.
    #[inline]
    pub fn take(&mut self) -> Option<Lease> {
        let cell = &self.cell;
        self.taken.next_guarded(|sequence| Some(cell.guard(sequence)))
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

    /// The next deliveries, `max` at most and one at least, each as `make` makes of it; otherwise as [`poll`](Self::poll).
    pub fn poll_many<D>(
        &mut self,
        now: fn() -> Instant,
        max: usize,
        cx: &mut Context<'_>,
        mut make: impl FnMut(Lease) -> D,
    ) -> Poll<Option<Result<Vec<D>, Error>>> {
        let first = match ready!(self.poll(now, cx)) {
            Some(Ok(lease)) => make(lease),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(self.collect(now, max.max(1) - 1, Some(first), make))))
    }

    /// Up to `max` of the deliveries that are there, without waiting, each as `make` makes of it. The lock is taken once.
    pub fn take_many<D>(&mut self, now: fn() -> Instant, max: usize, make: impl FnMut(Lease) -> D) -> Vec<D> {
        self.collect(now, max, None, make)
    }

    fn collect<D>(
        &mut self,
        now: fn() -> Instant,
        max: usize,
        first: Option<D>,
        mut make: impl FnMut(Lease) -> D,
    ) -> Vec<D> {
        let missing = max.saturating_sub(self.taken.len());
        if missing > 0 && !self.ended {
            self.cell.take_ready(now(), missing, &mut self.taken);
        }
        let more = max.min(self.taken.len());
        let mut all = Vec::with_capacity(more + usize::from(first.is_some()));
        all.extend(first);
        for _ in 0..more {
            let Some(lease) = self.take() else { break };
            all.push(make(lease));
        }
        all
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
