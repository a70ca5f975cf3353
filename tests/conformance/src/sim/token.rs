//! Waiters that tell when they are forgotten.

use std::cell::RefCell;
use std::rc::Rc;

/// Tokens that were dropped without being redeemed.
pub(super) type Lost = Rc<RefCell<Vec<u64>>>;

/// What a simulated caller hands to a machine. It cannot be copied, so it comes back at most once; dropping it is
/// noticed, so it comes back at least once.
#[derive(Debug)]
pub(super) struct Token {
    number: u64,
    lost: Option<Lost>,
}

impl Token {
    pub(super) fn new(number: u64, lost: &Lost) -> Self {
        Self {
            number,
            lost: Some(Rc::clone(lost)),
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// It came back.
    pub(super) fn redeem(mut self) -> u64 {
        self.lost = None;
        self.number
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some(lost) = &self.lost {
            lost.borrow_mut().push(self.number);
        }
    }
}
