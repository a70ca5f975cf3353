//! Credit: how many deliveries a server may push, where the dialect has it (docs/protocol/preamble.md 1.7).

use crate::config::{ConsumerSettings, Credit};
use crate::dialect::Rules;

/// A standing grant: the server-side balance never comes near the 64 at which servers with bug 1 lose
/// messages (docs/protocol/preamble.md 1.7), and never near the end of the counter.
const STANDING_CREDIT: u32 = 1 << 30;

/// What was granted on this connection and used up since.
#[derive(Debug, Clone, Copy)]
pub(super) enum CreditLedger {
    /// The dialect has no credit.
    None,
    /// Top up what was received, when half of the grant is gone.
    Standing { used: u32 },
    /// Top up what was settled or dropped, so that no more than the window is ever leased and unsettled.
    Window {
        size: u32,
        /// Credit that the server has not used yet.
        open: u32,
        /// Settled or dropped, and not granted again yet.
        released: u32,
    },
}

impl CreditLedger {
    /// `unsettled`: how much of a window is taken up already.
    pub(super) fn new(settings: &ConsumerSettings, rules: Rules, unsettled: usize) -> Self {
        let window = match settings.credit {
            Credit::Auto => rules.credit_window,
            Credit::Standing => false,
            Credit::Window => true,
        };
        if !rules.credit {
            Self::None
        } else if window {
            let size = u32::try_from(settings.prefetch)
                .unwrap_or(STANDING_CREDIT)
                .clamp(1, STANDING_CREDIT);
            Self::Window {
                size,
                open: size.saturating_sub(u32::try_from(unsettled).unwrap_or(u32::MAX)),
                released: 0,
            }
        } else {
            Self::Standing { used: 0 }
        }
    }

    pub(super) fn initial(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Standing { .. } => STANDING_CREDIT,
            Self::Window { open, .. } => open,
        }
    }

    pub(super) fn is_window(self) -> bool {
        matches!(self, Self::Window { .. })
    }

    /// Deliveries were received; what to grant for them now.
    pub(super) fn received(&mut self, n: usize) -> Option<u32> {
        match self {
            Self::Standing { used } => top_up(used, n, STANDING_CREDIT / 2),
            Self::Window { open, .. } => {
                // A server may push more than it was granted; its balance is not negative for that.
                *open = open.saturating_sub(u32::try_from(n).unwrap_or(u32::MAX));
                None
            }
            Self::None => None,
        }
    }

    /// A delivery was settled or dropped; what to grant for it now. `starving`: the consumer waits for a delivery, so
    /// that all others may be held for long, and half of a window may never come together.
    pub(super) fn released(&mut self, n: u32, starving: bool) -> Option<u32> {
        let Self::Window { size, open, released } = self else {
            return None;
        };
        *released = released.saturating_add(n);
        // By halves: a grant for each settled message would cost a frame each.
        let half = size.div_ceil(2);
        if *released == 0 || !(*released >= half || (starving && *open < half)) {
            return None;
        }
        *open = open.saturating_add(*released);
        Some(std::mem::take(released))
    }
}

fn top_up(count: &mut u32, n: usize, from: u32) -> Option<u32> {
    *count = count.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
    (*count >= from).then(|| std::mem::take(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standing_credit_is_granted_anew_when_half_of_it_is_used() {
        let mut ledger = CreditLedger::Standing { used: 0 };
        let half = (STANDING_CREDIT / 2) as usize;
        assert_eq!(ledger.received(half - 1), None);
        assert_eq!(ledger.released(1_000, true), None, "settling costs nothing");
        assert_eq!(ledger.received(1), Some(STANDING_CREDIT / 2));
        assert_eq!(ledger.received(1), None);
    }

    #[test]
    fn windows_are_granted_again_by_halves() {
        let window = |size, open| CreditLedger::Window {
            size,
            open,
            released: 0,
        };
        let mut ledger = window(5, 5);
        assert_eq!(ledger.received(5), None, "receiving frees nothing");
        assert_eq!(ledger.released(2, false), None);
        assert_eq!(ledger.released(1, false), Some(3));
        assert_eq!(ledger.released(2, false), None);
        assert_eq!(window(1, 0).released(1, false), Some(1));
    }

    #[test]
    fn a_consumer_that_waits_is_granted_what_there_is() {
        let mut ledger = CreditLedger::Window {
            size: 10,
            open: 4,
            released: 0,
        };
        assert_eq!(ledger.released(0, true), None, "nothing is free");
        assert_eq!(ledger.released(1, false), None);
        assert_eq!(ledger.released(0, true), Some(1));
        assert_eq!(ledger.released(1, true), None, "half of the window is open");
    }

    #[test]
    fn what_is_held_from_earlier_connections_takes_up_the_window() {
        let rules = crate::Dialect::Preamble(crate::AdminRevision::Binary)
            .codec()
            .unwrap()
            .rules();
        let settings = ConsumerSettings::default().prefetch(10);
        for (held, initial) in [(0, 10), (4, 6), (10, 0), (12, 0)] {
            assert_eq!(CreditLedger::new(&settings, rules, held).initial(), initial);
        }
    }
}
