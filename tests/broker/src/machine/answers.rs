//! Answers on their way out, and what faults make of them.

use fibp_proto::server::RequestId;
use fibp_proto::{Response, ServerError};

use super::{BrokerMachine, ConnectionId, Output, Reaction};

impl BrokerMachine {
    pub(super) fn react(&mut self, connection: ConnectionId, id: RequestId, reaction: Reaction) {
        match reaction {
            Reaction::Answer(response) => self.answer(connection, id, response),
            Reaction::Refuse(refusal) => {
                let error = self.style(connection).refusal(&refusal);
                self.answer(connection, id, Response::Error(error));
            }
            Reaction::Dismiss(refusal) => {
                self.react(connection, id, Reaction::Refuse(refusal));
                self.close(connection);
            }
            Reaction::Close => self.close(connection),
            Reaction::Silence => {}
        }
    }

    fn answer(&mut self, connection: ConnectionId, id: RequestId, mut response: Response) {
        let faults = &mut self.settings.faults;
        if faults.errors_close && matches!(response, Response::Error(_)) {
            return self.close(connection);
        }
        let dropping = faults
            .drop_before_answer
            .iter_mut()
            .find(|(op, times)| *op == id.op && *times > 0);
        if let Some((_, times)) = dropping {
            *times -= 1;
            return self.close(connection);
        }
        leave_out(&mut response, faults.missing_results);
        if self.style(connection).is_framed() {
            cut_lists(&mut response);
        }
        let faults = &self.settings.faults;
        if faults.stalled.contains(&id.op) {
            self.stalled.push((connection, id, response));
            return;
        }
        self.send(connection, id, response);
    }

    fn send(&mut self, connection: ConnectionId, id: RequestId, response: Response) {
        let faults = &self.settings.faults;
        if faults.unknown_answer_first.contains(&id.op) {
            let unknown = RequestId {
                id: id.id ^ 0x8000_0000,
                op: id.op,
            };
            self.outputs.push_back(Output::Answer {
                connection,
                request: unknown,
                response: response.clone(),
            });
        }
        let twice = faults.duplicate_answer.contains(&id.op).then(|| response.clone());
        for response in std::iter::once(response).chain(twice) {
            self.outputs.push_back(Output::Answer {
                connection,
                request: id,
                response,
            });
        }
    }

    pub(super) fn release_stalled(&mut self) {
        let faults = &self.settings.faults;
        let (released, stalled) = std::mem::take(&mut self.stalled)
            .into_iter()
            .partition(|(_, id, _)| !faults.stalled.contains(&id.op));
        self.stalled = stalled;
        let released: Vec<_> = released;
        for (connection, id, response) in released {
            self.send(connection, id, response);
        }
    }

    /// Refuses what could not be read.
    pub(super) fn refuse(&mut self, connection: ConnectionId, id: u32, error: ServerError) {
        if self.settings.faults.errors_close {
            self.close(connection);
        } else {
            self.outputs.push_back(Output::Refuse { connection, id, error });
        }
    }

    pub(super) fn close(&mut self, connection: ConnectionId) {
        if let Some(known) = self.connections.get_mut(&connection)
            && !known.closing
        {
            known.closing = true;
            self.outputs.push_back(Output::Close { connection });
        }
    }
}

fn leave_out(response: &mut Response, missing: usize) {
    match response {
        Response::Enqueue(results) => results.truncate(results.len().saturating_sub(missing)),
        Response::Ack(results) | Response::Nack(results) => results.truncate(results.len().saturating_sub(missing)),
        _ => {}
    }
}

/// Framed servers list no more than a u16 counts, and do not say so (docs/protocol/framed.md 5).
fn cut_lists(response: &mut Response) {
    const MOST: usize = u16::MAX as usize;
    match response {
        Response::ListQueues(list) => list.queues.truncate(MOST),
        Response::ListApiKeys(keys) => keys.truncate(MOST),
        Response::ListConfig { entries } => entries.truncate(MOST),
        Response::GetAcl(acl) => acl.permissions.truncate(MOST),
        Response::QueueStats(stats) => {
            stats.per_key.truncate(MOST);
            stats.per_throttle.truncate(MOST);
        }
        _ => {}
    }
}
