//! Deliveries whose lease has ended before they are handed out: they are skipped, as the server delivers them again.

use std::time::{Duration, Instant};

use super::Consumer;
use super::deliveries::Deliveries;
use super::leases::Chunk;
use crate::config::ConsumerSettings;
use crate::event::Event;

/// How long the consumer is busy with what it was given.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When deliveries were handed out last, and how many, if it has not asked for more.
    given: Option<(Instant, u32)>,
    /// The time that one of them took.
    handling: Duration,
}

impl Pace {
    pub(super) fn handed_out(&mut self, now: Instant, n: usize) {
        self.given = u32::try_from(n).ok().filter(|n| *n > 0).map(|n| (now, n));
    }

    /// The consumer asks for more.
    pub(super) fn asked(&mut self, now: Instant) {
        if let Some((at, n)) = self.given.take() {
            self.handling = now.saturating_duration_since(at) / n;
        }
    }
}

/// What was skipped.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    deliveries: u64,
    /// How many of them take up the window.
    counted: u32,
    /// The first ones of their burst.
    is_news: bool,
}

impl<T> Deliveries<T> {
    /// Skips the deliveries whose lease has ended, or would end before the handler is done with them.
    pub(super) fn skip_expired(&mut self, now: Instant, settings: &ConsumerSettings) -> Skipped {
        // The time that the handler took is part of the margin below.
        self.pace.asked(now);
        let mut skipped = Skipped::default();
        if !settings.skips_expired() {
            return skipped;
        }
        // Only the end of a lease, lest a handler that was slow once is given nothing any more.
        let margin = self.pace.handling.min(settings.lease() / 8);
        let over = now.checked_add(margin).unwrap_or(now);
        // The deadline is that of a whole chunk, so chunks are skipped whole. They are in the order of their deadlines.
        let is_over = |chunk: &Chunk| chunk.deadline().is_some_and(|at| at <= over);
        while self.waiting.front_chunk().is_some_and(is_over)
            && let Some(chunk) = self.waiting.pop_chunk()
        {
            for sequence in chunk.sequences() {
                skipped.deliveries += 1;
                // Gone from `unsettled`, so that a guard that is dropped later releases nothing twice.
                skipped.counted += u32::from(self.unsettled.remove(&sequence));
            }
            // One event for a burst, in however many takes it is skipped.
            skipped.is_news |= std::mem::replace(&mut self.skipped_until, chunk.deadline()) != chunk.deadline();
        }
        skipped
    }
}

impl<T> Consumer<T> {
    /// How many deliveries are worth taking at a time: one where expired ones are skipped, so that none expires after it
    /// was taken.
    #[must_use]
    pub fn worth_taking(&self, max: usize) -> usize {
        if self.settings.skips_expired() { max.min(1) } else { max }
    }

    pub(super) fn note_skipped(&mut self, skipped: &Skipped) {
        if skipped.deliveries == 0 {
            return;
        }
        self.stats.expired += skipped.deliveries;
        if skipped.is_news {
            self.shared.push_event(Event::Expired {
                queue: self.queue.clone(),
                skipped: skipped.deliveries,
            });
        }
        let starving = self.deliveries.is_awaited();
        let grant = self.deliveries.credit.released(skipped.counted, starving);
        self.grant(grant);
        self.publish_stats();
    }
}
