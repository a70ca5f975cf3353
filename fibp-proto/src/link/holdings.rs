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
        let client = self.accounts.get(CLIENT).and_then(Option::as_ref);
        let mut holdings = Holdings {
            calls: self.calls.len() + self.joins.len(),
            delayed: self.delayed.len(),
            lane_items: self.lanes.len(),
            parked: accounts().map(Account::parked).sum(),
            charged_requests: client.map_or(0, |account| account.charged().0),
            charged_bytes: accounts().map(|account| account.charged().1).sum(),
            deliveries: self.waiting_deliveries(),
            unclaimed: self.completions.len() + self.actions.len(),
            ..Holdings::default()
        };
        if let Some(connection) = &mut self.connection {
            holdings.in_flight = Connection::in_flight(connection);
            holdings.tombstones = connection.tombstones();
            holdings.output = connection.out.len();
            holdings.decoder = connection.decoder().capacity();
        }
        holdings
    }
}
