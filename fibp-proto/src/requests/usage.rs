//! What the machine holds, for simulations.

use super::Requests;
use super::budget::Budget;
use super::work::CLIENT;
use crate::simulation::{TestHooks, Usage};

impl<T> Requests<T> {
    /// Sets the test hooks, for this and all later connections.
    pub fn set_test_hooks(&mut self, hooks: TestHooks) {
        self.router.hooks = hooks;
        for route in self.router.iter_mut() {
            route.channel.set_test_hooks(hooks);
        }
    }

    /// What the machine holds right now.
    #[must_use]
    pub fn usage(&mut self) -> Usage {
        let budgets = || self.ledger.budgets.iter();
        let client = self.ledger.budgets.get(CLIENT);
        let mut usage = Usage {
            calls: self.ledger.joins.len(),
            places: self.ledger.places.len(),
            parked: budgets().map(Budget::parked).sum(),
            charged_requests: client.map_or(0, |budget| budget.charged().0),
            charged_bytes: budgets().map(|budget| budget.charged().1).sum(),
            unclaimed: self.ledger.completions(),
            ..Usage::default()
        };
        for route in self.router.iter_mut() {
            usage.calls += route.calls.len();
            usage.delayed += route.delayed.len() + route.doubts.len();
            usage.queued_items += route.queues.len();
            usage.unclaimed += route.channel.actions();
            route.channel.add_usage(&mut usage);
        }
        usage
    }
}
