//! Callers that are gone.

use super::Requests;
use super::budget::Submission;
use super::places::Place;
use super::route::Route;
use super::run::ReplyTo;
use super::work::InFlight;
use crate::machine::CallId;

impl<T> Requests<T> {
    /// The caller is gone. Its token, if the call was still open; what was not sent yet is withdrawn, wherever it
    /// waits, except for receipts of producers.
    pub fn abandon(&mut self, id: CallId) -> Option<T> {
        let now = self.latest;
        let token = self.find_abandoned(id);
        // What was withdrawn gave room back, and may have been the last that a close or a retiring route waited for. No
        // driver would look at them before something else happens.
        self.settle_budgets(now);
        self.router.check_retiring(now);
        self.check_closing(now);
        token
    }

    fn find_abandoned(&mut self, id: CallId) -> Option<T> {
        if self.opened.as_ref().is_some_and(|(opened, _)| *opened == id) {
            return self.opened.take().map(|(_, token)| token);
        }
        if let Some(closing) = &mut self.ledger.closing
            && let Some(place) = closing.tokens.iter().position(|(known, _)| *known == id)
        {
            return Some(closing.tokens.swap_remove(place).1);
        }
        for route in self.router.iter_mut() {
            if let Some(token) = route.withdraw_call(id) {
                self.ledger.release_call(id);
                return token;
            }
        }
        let budgets = &mut self.ledger.budgets;
        if let Some(token) = budgets.get_mut(id.budget).and_then(|budget| budget.abandon_flush(id)) {
            return Some(token);
        }
        if budgets.redeem(id.budget, id).is_some() {
            // The room is free for the next in line.
            return None;
        }
        if let Some(parked) = budgets.withdraw(id.budget, id) {
            // It was not charged yet: it leaves the line, and that is all.
            return match parked.submission {
                Submission::Call(call) => call.token,
                Submission::Room { token, .. } => Some(token),
                Submission::One(run) => run.ticket.reply_to.into_token(),
                Submission::Many(many) => Some(many.token),
            };
        }
        match self.ledger.places.get(id) {
            Some(Place::Waiting(index)) => self.abandon_waiting(id, index as usize),
            Some(Place::InFlight(request)) => self.abandon_in_flight(id, request),
            Some(Place::InDoubt) => self.router.iter_mut().find_map(|route| route.doubts.detach(id)),
            None => self.abandon_many(id),
        }
    }

    /// A call with one item, which waits in a batch queue.
    fn abandon_waiting(&mut self, id: CallId, index: usize) -> Option<T> {
        let now = self.latest;
        for route in self.router.iter_mut() {
            // Every route counts its queues by itself. The call id tells which of them this place is about.
            if let Some(reply_to) = route.queues.detach(index, id) {
                return reply_to.into_token();
            }
            if let Some(run) = route.queues.withdraw_one(now, index, id) {
                self.ledger.release(run.ticket.charge(), None);
                return run.ticket.reply_to.into_token();
            }
        }
        None
    }

    fn abandon_in_flight(&mut self, id: CallId, request: u32) -> Option<T> {
        for route in self.router.iter_mut() {
            match route.forget_in_flight(id, request) {
                Some(Forgotten::Call(token)) => {
                    self.ledger.release_call(id);
                    return token;
                }
                // The frame is under way and holds its room until the answer comes.
                Some(Forgotten::Item(reply_to)) => return reply_to.into_token(),
                None => {}
            }
        }
        None
    }

    /// Runs of a list may be under way; they find nobody waiting.
    fn abandon_many(&mut self, id: CallId) -> Option<T> {
        let now = self.latest;
        let token = self.ledger.joins.abandon(id)?;
        for route in self.router.iter_mut() {
            for run in route.queues.withdraw_many(now, id) {
                self.ledger.release(run.ticket.charge(), None);
            }
        }
        Some(token)
    }
}

/// What is taken out of what is in flight.
enum Forgotten<T> {
    Call(Option<T>),
    Item(ReplyTo<T>),
}

impl<T> Route<T> {
    /// Takes out a call that waits; its token, if its caller is still there.
    fn withdraw_call(&mut self, id: CallId) -> Option<Option<T>> {
        let delayed = |route: &mut Self| route.delayed.remove(&id).map(|(_, call)| call);
        let call = self.calls.remove(&id).or_else(|| delayed(self))?;
        Some(call.token)
    }

    /// Takes the token out of a request in flight, if it is this call's. A request nobody waits for leaves a tombstone.
    fn forget_in_flight(&mut self, id: CallId, request: u32) -> Option<Forgotten<T>> {
        let connection = self.channel.connection_mut()?;
        match connection.work_mut(request)? {
            InFlight::Call(call) if call.id == id => {
                let token = call.token.take();
                // The id stays taken, so that its answer is not taken for that of a later request.
                connection.give_up(request);
                Some(Forgotten::Call(token))
            }
            InFlight::Call(_) => None,
            InFlight::Batch(batch) => {
                let ticket = batch.tickets.find_mut(&id, |ticket| ticket.call)?;
                // Its deadline may have passed in flight: then it stays completed.
                match ticket.reply_to {
                    ReplyTo::Told => None,
                    _ => Some(Forgotten::Item(std::mem::replace(
                        &mut ticket.reply_to,
                        ReplyTo::Nobody,
                    ))),
                }
            }
        }
    }
}
