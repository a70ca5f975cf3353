//! The deliveries of one consumer, polled.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::delivery::Delivery;
use crate::client::cell::{ConsumerCall, ConsumerCell, Taken};
use crate::client::clients::Handle;
use crate::client::waiter::answer;
use crate::consumer::Leases;
use crate::error::Error;

/// What a consumer's machine received, taken from it in batches: most deliveries cost no lock. Fused. Dropping it closes the
/// consumer.
#[derive(Debug)]
pub struct Deliveries<S: Send + Sync + 'static> {
    handle: Handle<S>,
    cell: Arc<ConsumerCell<S>>,
    /// How many are taken at a time.
    batch: usize,
    taken: Leases,
    waiting: Option<ConsumerCall<'static, S, answer::Ready>>,
    ended: bool,
}

impl<S: Send + Sync + 'static> Deliveries<S> {
    /// The deliveries of the machine under `cell`; at most half of its prefetch is taken at a time.
    pub(super) fn new(handle: Handle<S>, cell: Arc<ConsumerCell<S>>, prefetch: usize) -> Self {
        Self {
            handle,
            cell,
            batch: prefetch.div_ceil(2),
            taken: Leases::new(),
            waiting: None,
            ended: false,
        }
    }

    /// What opened the consumer.
    #[must_use]
    pub fn handle(&self) -> &Handle<S> {
        &self.handle
    }

    /// The consumer's machine.
    #[must_use]
    pub fn cell(&self) -> &Arc<ConsumerCell<S>> {
        &self.cell
    }

    /// The next delivery, if one was taken from the machine already.
    // As with what it calls, and what acks it: a delivery is large, and each function that returns it or takes it moves it.
    #[inline(always)]
    pub fn take(&mut self) -> Option<Delivery<S>> {
        let Self {
            handle, cell, taken, ..
        } = self;
        if Leases::is_empty(taken) {
            return None;
        }
        // The handle is cloned first, as a delivery is large and would be moved once more to wait for it.
        let handle = handle.clone();
        let lease = taken.next_guarded(|sequence| Some(cell.guard(sequence)))?;
        Some(Delivery { lease, handle })
    }

    /// The next delivery, or the error that ended the consumer, then `None`.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery<S>, Error>>> {
        loop {
            if let Some(delivery) = self.take() {
                return Poll::Ready(Some(Ok(delivery)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            if let Some(waiting) = &mut self.waiting {
                // Kept until it is ready: another poll goes on with this wait instead of adding one.
                ready!(Pin::new(waiting).poll(cx));
                self.waiting = None;
            }
            match self
                .cell
                .take_deliveries(self.handle.clients().now(), self.batch, &mut self.taken)
            {
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
        max: usize,
        cx: &mut Context<'_>,
        mut make: impl FnMut(Delivery<S>) -> D,
    ) -> Poll<Option<Result<Vec<D>, Error>>> {
        let first = match ready!(self.poll(cx)) {
            Some(Ok(delivery)) => make(delivery),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(self.collect(max.max(1) - 1, Some(first), make))))
    }

    /// Up to `max` of the deliveries that are there, without waiting, each as `make` makes of it. The lock is taken once.
    pub fn take_many<D>(&mut self, max: usize, make: impl FnMut(Delivery<S>) -> D) -> Vec<D> {
        self.collect(max, None, make)
    }

    fn collect<D>(&mut self, max: usize, first: Option<D>, mut make: impl FnMut(Delivery<S>) -> D) -> Vec<D> {
        // What was taken before is older, and goes first.
        let missing = max.saturating_sub(self.taken.len());
        if missing > 0 && !self.ended {
            self.cell
                .take_ready(self.handle.clients().now(), missing, &mut self.taken);
        }
        let more = max.min(self.taken.len());
        let mut all = Vec::with_capacity(more + usize::from(first.is_some()));
        all.extend(first);
        for _ in 0..more {
            let Some(delivery) = self.take() else { break };
            all.push(make(delivery));
        }
        all
    }

    /// Whether only `None` follows.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        self.ended && self.taken.is_empty()
    }

    /// Stops receiving, and the wait until that is done. It is done even if the wait is dropped.
    pub fn drain(&self) -> ConsumerCall<'_, S, answer::Drained> {
        let now = self.handle.clients().now();
        self.cell
            .queue(|consumer, waiter| consumer.stop_consuming(now, waiter))
            .detached()
    }
}

impl<S: Send + Sync + 'static> Drop for Deliveries<S> {
    /// Closes the connection. What was not taken comes back to the queue when its lease expires.
    fn drop(&mut self) {
        // Deliveries that were handed out keep the client, so they can still be settled.
        let now = self.handle.clients().now();
        self.cell.with(|consumer| consumer.abort(now));
    }
}
