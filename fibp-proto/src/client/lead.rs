//! Who reads the socket of a connection that threads share.

use std::task::Waker;

/// The leader's role: the rules for it, apart from machines and sockets.
///
/// One thread at a time leads: it reads. The role is free for any caller to [`take`](Self::take); it is handed over to
/// the standing reader alone, never to a caller, who may have left already. With each connection begins another term.
#[derive(Debug, Default)]
pub(super) struct Lead {
    term: Term,
    /// Somebody reads.
    taken: bool,
    /// The standing reader is to lead next.
    wanted: bool,
    /// Nothing more can be read.
    ended: bool,
    /// The standing reader waits until input is wanted again.
    parked: bool,
    /// Counts reads, to tell a silent connection.
    reads: u64,
    /// Wakes the standing reader, while there is a connection.
    reader: Option<Waker>,
}

/// Tells the connections of one machine apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Term(u64);

impl Lead {
    /// A new connection: its reader goes first, as what opens a connection comes unasked.
    pub(super) fn begin(&mut self, reader: Waker) -> Term {
        // A leader of the last connection may still be at its read. Its term is over, so what it says later changes
        // nothing.
        *self = Self {
            term: Term(self.term.0.wrapping_add(1)),
            wanted: true,
            reader: Some(reader),
            ..Self::default()
        };
        self.term
    }

    /// The connection is gone. Returns whom to wake.
    pub(super) fn end(&mut self) -> Option<Waker> {
        self.reader.take()
    }

    /// Whether the term's connection is there.
    pub(super) fn is_in(&self, term: Term) -> bool {
        self.term == term && self.reader.is_some()
    }

    /// Takes the role for a caller; `None` if it is taken or promised, or nothing can be read.
    pub(super) fn take(&mut self) -> Option<Term> {
        if self.taken || self.wanted || self.ended || self.reader.is_none() {
            return None;
        }
        self.taken = true;
        Some(self.term)
    }

    /// Has the standing reader lead if nobody else does. Returns whom to wake.
    pub(super) fn call_reader(&mut self) -> Option<Waker> {
        // The leader looks for answers that are due when it leaves; a reader that was called is on its way.
        if self.taken || std::mem::replace(&mut self.wanted, true) {
            return None;
        }
        self.reader.clone()
    }

    /// Frees the role. Returns whom to wake, if answers that are still to come need a reader.
    pub(super) fn leave(&mut self, term: Term, answers_due: bool) -> Option<Waker> {
        if !self.is_in(term) {
            return None;
        }
        self.taken = false;
        if answers_due { self.call_reader() } else { None }
    }

    /// The leader has read; `ended` if nothing more can come.
    pub(super) fn note_read(&mut self, ended: bool) {
        self.reads = self.reads.wrapping_add(1);
        self.ended |= ended;
    }

    /// Input is wanted. Returns whom to wake.
    pub(super) fn unpark(&mut self) -> Option<Waker> {
        if self.ended || !std::mem::take(&mut self.parked) {
            return None;
        }
        self.reader.clone()
    }

    /// What the standing reader does now. `seen` is its note of how many reads there were when it looked last.
    pub(super) fn watch(&mut self, seen: &mut u64, wants_read: bool, answers_due: bool) -> Watch {
        let silent = std::mem::replace(seen, self.reads) == self.reads;
        if self.ended || !wants_read {
            self.parked = true;
            return Watch::Park;
        }
        // While callers come and go the connection is theirs: a read by the reader would cost them a wake-up each.
        if self.taken || !(self.wanted || silent || answers_due) {
            return Watch::Look;
        }
        self.taken = true;
        self.wanted = false;
        Watch::Lead
    }

    /// The reader's note after it has led: it is the callers' turn, the connection is not silent yet.
    pub(super) fn not_silent(&self) -> u64 {
        self.reads.wrapping_sub(1)
    }
}

/// What the standing reader does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    /// Reads.
    Lead,
    /// Looks again in a moment: the connection is its callers' unless they are silent.
    Look,
    /// Waits until input is wanted.
    Park,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::client::Count;

    /// The role in a connection whose reader has led and left.
    fn free() -> (Lead, u64) {
        let mut lead = Lead::default();
        assert!(lead.take().is_none(), "there is no connection");
        let term = lead.begin(Waker::noop().clone());
        let mut seen = 0;
        assert!(lead.take().is_none(), "the reader goes first");
        assert_eq!(lead.watch(&mut seen, true, false), Watch::Lead);
        assert!(lead.take().is_none());
        lead.note_read(false);
        assert!(lead.leave(term, false).is_none());
        (lead, seen)
    }

    #[test]
    fn one_leads_at_a_time() {
        let (mut lead, mut seen) = free();
        let term = lead.take().unwrap();
        assert!(lead.take().is_none());
        assert_eq!(lead.watch(&mut seen, true, true), Watch::Look);
        assert!(lead.leave(term, false).is_none());
        assert!(lead.take().is_some());
    }

    #[test]
    fn answers_that_are_due_get_the_reader() {
        let (mut lead, mut seen) = free();
        let term = lead.take().unwrap();
        assert!(lead.call_reader().is_none(), "somebody reads");
        assert!(lead.leave(term, true).is_some());
        assert!(lead.take().is_none(), "the role is promised");
        assert!(lead.call_reader().is_none(), "called already");
        assert_eq!(lead.watch(&mut seen, true, false), Watch::Lead);
    }

    #[test]
    fn the_reader_leads_a_silent_connection() {
        let (mut lead, _) = free();
        let mut seen = lead.not_silent();
        assert_eq!(lead.watch(&mut seen, true, false), Watch::Look, "the callers' turn");
        let term = lead.take().unwrap();
        lead.note_read(false);
        assert!(lead.leave(term, false).is_none());
        assert_eq!(lead.watch(&mut seen, true, false), Watch::Look);
        assert_eq!(lead.watch(&mut seen, true, false), Watch::Lead, "nobody has read");
    }

    #[test]
    fn the_reader_waits_for_room() {
        let count = Arc::new(Count::default());
        let mut lead = Lead::default();
        lead.begin(Waker::from(Arc::clone(&count)));
        let mut seen = 0;
        assert_eq!(lead.watch(&mut seen, false, true), Watch::Park);
        lead.unpark().unwrap().wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(lead.unpark().is_none(), "woken once");
        assert_eq!(lead.watch(&mut seen, true, false), Watch::Lead);
    }

    #[test]
    fn nobody_reads_what_has_ended() {
        let (mut lead, mut seen) = free();
        let term = lead.take().unwrap();
        lead.note_read(true);
        assert!(lead.leave(term, false).is_none());
        assert!(lead.take().is_none());
        assert_eq!(lead.watch(&mut seen, true, true), Watch::Park);
        assert!(lead.unpark().is_none(), "no use in waking anybody");
    }

    #[test]
    fn a_leader_of_an_earlier_connection_frees_nothing() {
        let (mut lead, _) = free();
        let earlier = lead.take().unwrap();
        assert!(lead.end().is_some());
        assert!(!lead.is_in(earlier));
        assert!(lead.take().is_none(), "there is no connection");
        let mut seen = 0;
        assert_ne!(lead.begin(Waker::noop().clone()), earlier);
        assert_eq!(lead.watch(&mut seen, true, false), Watch::Lead);
        assert!(lead.leave(earlier, true).is_none());
        assert!(lead.take().is_none(), "the reader leads");
    }
}
