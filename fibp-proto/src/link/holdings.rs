//! What a link holds, for simulations.

use super::Link;
use super::accounts::Account;
use super::submit::CLIENT;
use crate::connection::Connection;
use crate::simulation::{Holdings, Knobs};

impl<T> Link<T> {
    pub(crate) fn turn_knobs(&mut self, knobs: Knobs) {
        self.knobs = knobs;
        if let Some(connection) = &mut self.connection {
            connection.turn_knobs(knobs);
        }
    }

    pub(crate) fn count_holdings(&mut self) -> Holdings {
        let accounts = || self.accounts.iter().flatten();
        let mut holdings = Holdings::default();
        holdings.calls = self.calls.len();
        holdings.delayed = self.delayed.len();
        holdings.lane_items = self.lanes.len();
        holdings.parked = accounts().map(Account::parked).sum();
        holdings.charged_requests = self
            .accounts
            .get(CLIENT)
            .and_then(Option::as_ref)
            .map_or(0, |account| account.charged().0);
        holdings.charged_bytes = accounts().map(|account| account.charged().1).sum();
        holdings.deliveries = self.waiting_deliveries();
        holdings.unclaimed = self.completions.len() + self.actions.len();
        if let Some(connection) = &mut self.connection {
            holdings.in_flight = Connection::in_flight(connection);
            holdings.tombstones = connection.tombstones();
            holdings.output = connection.out.len();
            holdings.decoder = connection.decoder().capacity();
        }
        holdings
    }
}
