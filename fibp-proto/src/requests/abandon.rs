//! Callers that are gone.

use super::Requests;
use super::budget::Submission;
use super::route::Route;
use super::submit::closed;
use super::work::{InFlight, ReplyTo};
use crate::machine::CallId;

impl<T> Requests<T> {
    /// The caller is gone. Its token, if the call was still open; what was not sent yet is withdrawn, wherever it
    /// waits, except for receipts of producers.
    pub fn abandon(&mut self, id: CallId) -> Option<T> {
        let now = self.latest;
        let token = self.find_abandoned(id);
        self.settle_budgets(now);
        self.check_retiring(now);
        self.check_closing(now);
        token
    }

    fn find_abandoned(&mut self, id: CallId) -> Option<T> {
        let now = self.latest;
        if self.opened.as_ref().is_some_and(|(opened, _)| *opened == id) {
            return self.opened.take().map(|(_, token)| token);
        }
        if let Some(closing) = &mut self.ledger.closing
            && let Some(place) = closing.tokens.iter().position(|(known, _)| *known == id)
        {
            return Some(closing.tokens.swap_remove(place).1);
        }
        for route in &mut self.routes {
            if let Some(token) = route.withdraw_call(id) {
                self.ledger.release_call();
                return token;
            }
        }
        for index in 0..self.ledger.budgets.len() {
            let Some(budget) = self.ledger.budget(index) else {
                continue;
            };
            if let Some(token) = budget.abandon_flush(id) {
                return Some(token);
            }
            if budget.redeem(id).is_some() {
                // The room is free for the next in line.
                return None;
            }
            if let Some(parked) = budget.withdraw(id) {
                return match parked.submission {
                    Submission::Call(call) => call.token,
                    Submission::Room { token, .. } => Some(token),
                    Submission::Send { item, admitted } => {
                        self.ledger.fail_outside(item, &closed("the wait for room"));
                        Some(admitted)
                    }
                    Submission::Item(item) => item.ticket.reply_to.into_token(),
                    Submission::Many(many) => Some(many.token),
                };
            }
        }
        if let Some(reply_to) = self.routes.iter_mut().find_map(|route| route.queues.detach(id)) {
            return reply_to.into_token();
        }
        // Parts of a call with many items may be under way; they find nobody waiting.
        let mut token = self.ledger.joins.abandon(id);
        for route in &mut self.routes {
            for mut item in route.queues.withdraw(now, id) {
                let reply_to = std::mem::replace(&mut item.ticket.reply_to, ReplyTo::Told);
                token = token.or_else(|| reply_to.into_token());
                self.ledger.release(item.ticket.charge(), None);
            }
        }
        for route in &mut self.routes {
            let (found, is_call) = route.forget_in_flight(id);
            token = token.or(found);
            if is_call {
                self.ledger.release_call();
            }
        }
        token
    }
}

impl<T> Route<T> {
    /// Takes out a call that waits; its token, if its caller is still there.
    fn withdraw_call(&mut self, id: CallId) -> Option<Option<T>> {
        if let Ok(place) = self.calls.binary_search_by_key(&id, |call| call.id) {
            return self.calls.remove(place).map(|call| call.token);
        }
        let place = self.delayed.iter().position(|(_, call)| call.id == id)?;
        Some(self.delayed.swap_remove(place).1.token)
    }

    /// Takes the token out of what is in flight; a request nobody waits for leaves a tombstone. Also whether it was a
    /// call.
    fn forget_in_flight(&mut self, id: CallId) -> (Option<T>, bool) {
        let mut token = None;
        let mut is_call = false;
        if let Some(connection) = self.channel.connection_mut() {
            connection.visit(|work| match work {
                InFlight::Call(call) if call.id == id => {
                    token = call.token.take();
                    is_call = true;
                    true
                }
                InFlight::Batch(batch) => {
                    let place = batch.tickets.binary_search_by_key(&id, |ticket| ticket.call);
                    if let Some(ticket) = place.ok().and_then(|place| batch.tickets.get_mut(place)) {
                        token = std::mem::replace(&mut ticket.reply_to, ReplyTo::Nobody).into_token();
                    }
                    false
                }
                InFlight::Call(_) => false,
            });
        }
        (token, is_call)
    }
}
