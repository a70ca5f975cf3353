//! When deliveries can have arrived at the earliest, which is when their leases begin at the latest.

use std::time::Instant;

/// When the bytes that are being read can have become readable, at the earliest.
///
/// A burst is what is read without finding the socket empty in between. It begins when a reader that found the socket
/// empty, and slept, brings bytes again. While nothing is read (a pause), bytes may arrive at any time, so one that
/// follows a pause begins where the socket was known to be empty last.
#[derive(Debug, Default)]
pub(super) struct Burst {
    pub(super) began: Option<Instant>,
    /// The socket was empty at this instant, and nothing was read since.
    empty_at: Option<Instant>,
    /// Nobody has tried to read since then.
    paused: bool,
}

impl Burst {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: None,
            empty_at: Some(now),
            paused: false,
        }
    }

    /// A read brought bytes.
    pub(super) fn arrived(&mut self, now: Instant) {
        // Only the first bytes after an empty socket begin a burst. Those that follow may have been there as long, so a
        // later instant would promise leases that are over.
        if let Some(empty_at) = self.empty_at.take() {
            self.began = Some(if self.paused { empty_at } else { now });
        }
    }

    /// A read found nothing, or less than there was room for.
    pub(super) fn emptied(&mut self, now: Instant) {
        // The reader that found it empty now waits for more, so the next bytes come when it is woken: no pause.
        self.empty_at = Some(now);
        self.paused = false;
    }

    /// Nothing is read for now.
    pub(super) fn pause(&mut self) {
        self.paused = true;
    }

    /// Whether it would be news that the socket is empty.
    pub(super) fn is_unsure(&self) -> bool {
        self.paused || self.empty_at.is_none()
    }
}
