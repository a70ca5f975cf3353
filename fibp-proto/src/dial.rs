//! Which of a host's addresses to try, and when: RFC 8305 ("happy eyeballs") as a machine without sockets.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use core::net::SocketAddr;

use crate::fault::{Fault, FaultKind};

/// What is said of an address that did not answer.
pub(crate) const NO_ANSWER: &str = "no answer in time";

/// A race between the addresses of one host, of which the first to be connected wins.
///
/// Families alternate, IPv6 first, in the resolver's order within each. An attempt starts `delay` after the
/// one before, or at once when one fails. The adapter opens the sockets:
///
/// 1. start every address that [`poll_attempt`](Self::poll_attempt) gives, until it gives none;
/// 2. stop with the fault that [`poll_fault`](Self::poll_fault) gives;
/// 3. wait for a socket or for [`poll_timeout`](Self::poll_timeout); a connected socket ends the race,
///    dropping the others; report a failed one with [`handle_failed`](Self::handle_failed);
/// 4. go back to 1.
#[derive(Debug)]
pub struct AddressRace {
    waiting: VecDeque<SocketAddr>,
    running: BTreeSet<SocketAddr>,
    failed: Vec<(SocketAddr, Fault)>,
    delay: Duration,
    /// When the next attempt may start; `None` if only after a failure.
    next_at: Option<Instant>,
    deadline: Option<Instant>,
}

impl AddressRace {
    /// A race that begins now. Without a deadline it lasts until every attempt has failed.
    #[must_use]
    pub fn new(now: Instant, addresses: Vec<SocketAddr>, delay: Duration, deadline: Option<Instant>) -> Self {
        Self {
            waiting: interleave(addresses),
            running: BTreeSet::new(),
            failed: Vec::new(),
            delay,
            next_at: Some(now),
            deadline,
        }
    }

    /// The next address to start an attempt to, if one is due.
    #[must_use]
    pub fn poll_attempt(&mut self, now: Instant) -> Option<SocketAddr> {
        if self.next_at.is_none_or(|next| now < next) || self.is_late(now) {
            return None;
        }
        let address = self.waiting.pop_front()?;
        self.running.insert(address);
        self.next_at = now.checked_add(self.delay);
        Some(address)
    }

    /// An attempt failed: the next one need not wait. An address that was not tried is ignored.
    pub fn handle_failed(&mut self, now: Instant, address: SocketAddr, fault: Fault) {
        if self.running.remove(&address) {
            self.failed.push((address, fault));
            self.next_at = Some(now);
        }
    }

    /// When to look again, at the latest. `None` means that only sockets can bring news.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let next = self.next_at.filter(|_| !self.waiting.is_empty());
        match (next, self.deadline) {
            (Some(next), Some(deadline)) => Some(next.min(deadline)),
            (one, other) => one.or(other),
        }
    }

    /// The end of the race without a winner: every attempt failed, or the deadline passed. The text lists each
    /// address with its cause.
    #[must_use]
    pub fn poll_fault(&self, now: Instant) -> Option<Fault> {
        let late = self.is_late(now);
        let running = !(self.waiting.is_empty() && self.running.is_empty());
        if running && !late {
            return None;
        }
        let mut text = String::new();
        for (address, fault) in &self.failed {
            list(&mut text, address, fault);
        }
        for address in &self.running {
            list(&mut text, address, &NO_ANSWER);
        }
        for address in &self.waiting {
            list(&mut text, address, &"not tried in time");
        }
        if text.is_empty() {
            return Some(Fault::new(FaultKind::Resolve, "the name has no address"));
        }
        let mut kinds = self.failed.iter().map(|(_, fault)| fault.kind);
        let kind = match kinds.next() {
            _ if late => FaultKind::TimedOut,
            Some(first) if kinds.all(|kind| kind == first) => first,
            _ => FaultKind::Other,
        };
        let mut fault = Fault::new(kind, text);
        fault.source = self.failed.iter().rev().find_map(|(_, fault)| fault.source.clone());
        Some(fault)
    }

    fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }
}

fn list(text: &mut String, address: &SocketAddr, cause: &dyn std::fmt::Display) {
    let separator = if text.is_empty() { "" } else { "; " };
    // Writing to a String cannot fail.
    let _ = write!(text, "{separator}{address}: {cause}");
}

/// Families in turn, IPv6 first; repeated addresses are left out.
fn interleave(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let mut seen = BTreeSet::new();
    let (v6, v4): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .filter(|address| seen.insert(*address))
        .partition(SocketAddr::is_ipv6);
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut order = VecDeque::with_capacity(seen.len());
    loop {
        let round = order.len();
        order.extend(v6.next());
        order.extend(v4.next());
        if order.len() == round {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(250);

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn v6(n: u16) -> SocketAddr {
        SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, n], 5555))
    }

    fn v4(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 5555))
    }

    fn refused() -> Fault {
        Fault::new(FaultKind::Refused, "connection refused")
    }

    /// Jumps from wakeup to wakeup and notes when each attempt starts, in milliseconds.
    fn starts(race: &mut AddressRace, begin: Instant) -> Vec<(u128, SocketAddr)> {
        let mut now = begin;
        let mut all = Vec::new();
        while race.poll_fault(now).is_none() {
            while let Some(address) = race.poll_attempt(now) {
                all.push(((now - begin).as_millis(), address));
            }
            match race.poll_timeout() {
                Some(next) => now = next,
                None => break,
            }
        }
        all
    }

    #[test]
    fn families_alternate_with_staggered_starts() {
        let begin = crate::tests_epoch();
        let list = vec![v4(1), v4(2), v6(1), v4(1), v4(3), v6(2)];
        let mut race = AddressRace::new(begin, list, DELAY, None);
        assert_eq!(
            starts(&mut race, begin),
            [(0, v6(1)), (250, v4(1)), (500, v6(2)), (750, v4(2)), (1000, v4(3))]
        );
        assert_eq!(race.poll_timeout(), None);
    }

    #[test]
    fn a_failure_starts_the_next_at_once() {
        let begin = crate::tests_epoch();
        let mut race = AddressRace::new(begin, vec![v6(1), v4(1), v6(2)], DELAY, None);
        assert_eq!(race.poll_attempt(begin), Some(v6(1)));
        assert_eq!(race.poll_attempt(begin), None);
        assert_eq!(race.poll_timeout(), Some(begin + DELAY));

        let soon = begin + Duration::from_millis(1);
        race.handle_failed(soon, v6(1), refused());
        assert_eq!(race.poll_timeout(), Some(soon));
        assert_eq!(race.poll_attempt(soon), Some(v4(1)));
        assert_eq!(race.poll_attempt(soon), None);
        assert_eq!(race.poll_timeout(), Some(soon + DELAY));
    }

    #[test]
    fn the_deadline_ends_it() {
        let begin = crate::tests_epoch();
        let deadline = begin + Duration::from_millis(300);
        let mut race = AddressRace::new(begin, vec![v6(1), v4(1), v6(2)], DELAY, Some(deadline));
        assert_eq!(starts(&mut race, begin), [(0, v6(1)), (250, v4(1))]);
        assert_eq!(race.poll_attempt(deadline), None);
        let fault = race.poll_fault(deadline).unwrap();
        assert_eq!(fault.kind, FaultKind::TimedOut);
        assert_eq!(
            fault.text,
            "10.0.0.1:5555: no answer in time; [fd00::1]:5555: no answer in time; [fd00::2]:5555: not tried in time"
        );
    }

    #[test]
    fn when_all_failed_each_is_listed() {
        let begin = crate::tests_epoch();
        let mut race = AddressRace::new(begin, vec![v6(1), v4(1)], DELAY, Some(begin + DELAY));
        for address in [v6(1), v4(1)] {
            assert!(race.poll_fault(begin).is_none());
            assert_eq!(race.poll_attempt(begin), Some(address));
            race.handle_failed(begin, address, Fault::from_source(FaultKind::Refused, std::fmt::Error));
        }
        let fault = race.poll_fault(begin).unwrap();
        assert_eq!(fault.kind, FaultKind::Refused);
        assert!(fault.source.is_some());
        assert!(fault.text.starts_with("[fd00::1]:5555: ") && fault.text.contains("; 10.0.0.1:5555: "));
    }

    #[test]
    fn different_causes_have_no_common_kind() {
        let begin = crate::tests_epoch();
        let mut race = AddressRace::new(begin, vec![v6(1), v4(1)], DELAY, None);
        assert_eq!(race.poll_attempt(begin), Some(v6(1)));
        race.handle_failed(begin, v6(1), refused());
        assert_eq!(race.poll_attempt(begin), Some(v4(1)));
        race.handle_failed(begin, v4(1), Fault::new(FaultKind::Unreachable, "no route"));
        assert_eq!(race.poll_fault(begin).unwrap().kind, FaultKind::Other);
    }

    #[test]
    fn no_address_is_a_failed_resolution() {
        let begin = crate::tests_epoch();
        let mut race = AddressRace::new(begin, Vec::new(), DELAY, None);
        assert_eq!(race.poll_attempt(begin), None);
        assert_eq!(race.poll_fault(begin).unwrap().kind, FaultKind::Resolve);
    }

    #[test]
    fn strange_calls_are_harmless() {
        let begin = crate::tests_epoch();
        let mut race = AddressRace::new(begin, addresses(&["10.0.0.1:1", "10.0.0.2:1"]), Duration::MAX, None);
        let [first, second] = addresses(&["10.0.0.1:1", "10.0.0.2:1"])[..] else {
            unreachable!()
        };
        race.handle_failed(begin, second, refused());
        assert_eq!(race.poll_attempt(begin), Some(first));
        assert_eq!(race.poll_attempt(begin + DELAY), None);
        race.handle_failed(begin + DELAY, first, refused());
        race.handle_failed(begin + DELAY, first, refused());
        assert_eq!(race.poll_attempt(begin + DELAY), Some(second));
        assert_eq!(race.poll_attempt(begin + DELAY), None);
        race.handle_failed(begin + DELAY, second, refused());
        assert_eq!(
            race.poll_fault(begin + DELAY).unwrap().text.matches("refused").count(),
            2
        );
    }
}
