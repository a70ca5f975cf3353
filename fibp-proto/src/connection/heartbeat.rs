//! Signs of life.

use std::time::{Duration, Instant};

/// Asks for a sign of life when nothing was received for a while, and notices when none comes.
#[derive(Debug)]
pub(super) struct Heartbeat {
    every: Option<Duration>,
    missed: u32,
    outstanding: u32,
    next: Option<Instant>,
}

/// What a due heartbeat calls for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Send,
    Dead,
}

impl Heartbeat {
    /// `every` between signs of life; after `missed` unanswered heartbeats the peer is dead.
    pub(super) fn new(every: Option<Duration>, missed: u32) -> Self {
        Self {
            every,
            missed: missed.max(1),
            outstanding: 0,
            next: None,
        }
    }

    /// Something arrived, or watching begins (again).
    pub(super) fn restart(&mut self, now: Instant) {
        // Any sign of life counts, not the answer alone: a busy peer may answer late.
        self.outstanding = 0;
        self.next = self.every.and_then(|every| now.checked_add(every));
    }

    /// Nothing is read for now, so silence means nothing.
    pub(super) fn suspend(&mut self) {
        self.next = None;
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Beat> {
        if self.next.is_none_or(|next| next > now) {
            return None;
        }
        // Looked at before the next one is sent: the last one had a whole interval to be answered in.
        if self.outstanding >= self.missed {
            self.next = None;
            return Some(Beat::Dead);
        }
        self.outstanding += 1;
        self.next = self.every.and_then(|every| now.checked_add(every));
        Some(Beat::Send)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unanswered_heartbeats_end_the_connection() {
        let start = crate::tests_epoch();
        let every = Duration::from_secs(15);
        let mut heartbeat = Heartbeat::new(Some(every), 2);
        heartbeat.restart(start);
        assert_eq!(heartbeat.handle_timeout(start), None);
        assert_eq!(heartbeat.handle_timeout(start + every), Some(Beat::Send));
        assert_eq!(heartbeat.handle_timeout(start + every * 2), Some(Beat::Send));
        heartbeat.restart(start + every * 2);
        assert_eq!(heartbeat.handle_timeout(start + every * 3), Some(Beat::Send));
        assert_eq!(heartbeat.handle_timeout(start + every * 4), Some(Beat::Send));
        assert_eq!(heartbeat.handle_timeout(start + every * 5), Some(Beat::Dead));
        assert_eq!(heartbeat.handle_timeout(start + every * 6), None);
    }

    #[test]
    fn suspended_silence_means_nothing() {
        let start = crate::tests_epoch();
        let mut heartbeat = Heartbeat::new(Some(Duration::from_secs(1)), 1);
        heartbeat.restart(start);
        heartbeat.suspend();
        assert_eq!(heartbeat.poll_timeout(), None);
        assert_eq!(heartbeat.handle_timeout(start + Duration::from_secs(60)), None);
    }
}
