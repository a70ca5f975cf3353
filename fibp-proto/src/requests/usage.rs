//! What the machine holds, for simulations.

use super::Requests;
use super::budget::Budget;
use super::work::CLIENT;
use crate::simulation::{Holdings, Knobs};

impl<T> Requests<T> {
    /// Turns the knobs, for this and all later connections.
    pub fn set_knobs(&mut self, knobs: Knobs) {
        self.knobs = knobs;
        for route in &mut self.routes {
            route.channel.turn_knobs(knobs);
        }
    }

    /// What the machine holds right now.
    #[must_use]
    pub fn holdings(&mut self) -> Holdings {
        let budgets = || self.ledger.budgets.iter().flatten();
        let client = self.ledger.budgets.get(CLIENT).and_then(Option::as_ref);
        let mut holdings = Holdings {
            calls: self.ledger.joins.len(),
            parked: budgets().map(Budget::parked).sum(),
            charged_requests: client.map_or(0, |budget| budget.charged().0),
            charged_bytes: budgets().map(|budget| budget.charged().1).sum(),
            unclaimed: self.ledger.completions(),
            ..Holdings::default()
        };
        for route in &mut self.routes {
            holdings.calls += route.calls.len();
            holdings.delayed += route.delayed.len();
            holdings.lane_items += route.queues.len();
            holdings.unclaimed += route.channel.actions();
            route.channel.add_holdings(&mut holdings);
        }
        holdings
    }
}
