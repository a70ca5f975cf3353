//! The callers' side of a case: calls with their tokens, and what came back for them.

use std::time::Duration;

use fibp_proto::config::ProducerSettings;
use fibp_proto::consumer::{Lease, Leases};
use fibp_proto::machine::{CallId, CloseReport, Reply};
use fibp_proto::requests::{ProducerId, Settle};
use fibp_proto::{Error, Message, MessageId, Response, SendError, TypedRequest};

use crate::harness::{ConsumerSim, Sender, Sim, TestMachine, Token};

impl Sim {
    // ---- calls ----

    pub(crate) fn call(&mut self, operation: impl TypedRequest) -> Token {
        self.call_within(operation, None).0
    }

    pub(crate) fn call_within(&mut self, operation: impl TypedRequest, ms: Option<u64>) -> (Token, CallId) {
        let token = self.token();
        let timeout = ms.map(Duration::from_millis);
        (
            token,
            self.machine.call(self.now, operation.into_request(), timeout, token),
        )
    }

    pub(crate) fn enqueue(&mut self, queue: &str, payload: &str) -> Token {
        self.enqueue_within(queue, payload, None).0
    }

    pub(crate) fn enqueue_within(&mut self, queue: &str, payload: &str, ms: Option<u64>) -> (Token, CallId) {
        let token = self.token();
        let message = Message::new(queue, payload.to_owned());
        let timeout = ms.map(Duration::from_millis);
        (token, self.machine.enqueue(self.now, message, timeout, token))
    }

    pub(crate) fn enqueue_many(&mut self, messages: Vec<Message>) -> Token {
        let token = self.token();
        self.machine.enqueue_many(self.now, messages, None, token);
        token
    }

    pub(crate) fn settle_one(&mut self, settle: Settle) -> Token {
        let token = self.token();
        self.machine.settle(self.now, settle, None, token);
        token
    }

    pub(crate) fn settle_many(&mut self, settles: Vec<Settle>) -> Token {
        let token = self.token();
        self.machine.settle_many(self.now, settles, None, token);
        token
    }

    pub(crate) fn ack(&mut self, id: &str) -> Token {
        self.settle_one(Settle::ack("orders", &id.into()))
    }

    pub(crate) fn producer(&mut self, settings: ProducerSettings) -> ProducerId {
        self.machine.open_producer(settings)
    }

    /// Sends as clients do: at once if there is room, else once there is. The tokens of room and receipt, and the call
    /// that waits for one of them.
    pub(crate) fn send(&mut self, producer: ProducerId, payload: &str) -> (Token, Token, CallId) {
        let (admitted, receipt) = (self.token(), self.token());
        let message = Message::new("orders", payload.to_owned());
        let tried = self
            .machine
            .try_send(self.now, producer, message.clone(), None, receipt);
        let id = match tried {
            Ok(id) => {
                let reply = Reply::Room(Ok(()));
                self.ledger.borrow_mut().complete(self.at(), admitted, reply);
                id
            }
            Err((refused, back)) => {
                assert_eq!((refused.message, back), (message.clone(), receipt));
                let room = self.machine.reserve(self.now, producer, &message, None, admitted);
                let sender = Sender {
                    producer,
                    room,
                    message,
                    receipt,
                };
                self.senders.insert(admitted, sender);
                room
            }
        };
        (admitted, receipt, id)
    }

    /// Waits for room for a message.
    pub(crate) fn reserve(&mut self, producer: ProducerId, payload: &str) -> (Token, CallId) {
        let token = self.token();
        let message = Message::new("orders", payload.to_owned());
        let id = self.machine.reserve(self.now, producer, &message, None, token);
        (token, id)
    }

    /// Sends a message into room that was given.
    pub(crate) fn send_reserved(
        &mut self,
        producer: ProducerId,
        room: CallId,
        payload: &str,
    ) -> Result<Token, SendError> {
        let receipt = self.token();
        let message = Message::new("orders", payload.to_owned());
        match self.machine.send_reserved(self.now, producer, room, message, receipt) {
            Ok(_) => Ok(receipt),
            Err((error, back)) => {
                self.give_back(back);
                Err(error)
            }
        }
    }

    pub(crate) fn flush(&mut self, producer: ProducerId) -> Token {
        let token = self.token();
        self.machine.flush(self.now, producer, None, token);
        token
    }
}

impl<M: TestMachine> Sim<M> {
    pub(crate) fn token(&self) -> Token {
        self.ledger.borrow_mut().issue()
    }

    pub(crate) fn close(&mut self, ms: u64) -> Token {
        let token = self.token();
        self.machine.close(self.now, Duration::from_millis(ms), token);
        token
    }

    /// Abandons a call whose token must come back.
    pub(crate) fn abandon(&mut self, token: Token, id: CallId) {
        let back = self.machine.abandon(id);
        assert_eq!(back, Some(token), "the abandoned token");
        if let Some(sender) = self.senders.remove(&token) {
            self.give_back(sender.receipt);
        }
        assert_eq!(self.machine.abandon(id), None, "abandoned twice");
        let at = self.at();
        self.ledger.borrow_mut().take_back(token, format!("{at:?} abandoned"));
    }

    /// A sender learns whether there is room for its message, and sends it if so.
    pub(crate) fn got_room(&mut self, sender: Sender, result: &Result<(), Error>) {
        let Sender {
            producer,
            room,
            message,
            receipt,
        } = sender;
        let now = self.now;
        if let Some(requests) = self.machine.requests().filter(|_| result.is_ok()) {
            let sent = requests.send_reserved(now, producer, room, message.clone(), receipt);
            let Err((refused, back)) = sent else { return };
            assert_eq!((refused.message, back), (message, receipt));
        }
        self.give_back(receipt);
    }

    pub(crate) fn give_back(&self, token: Token) {
        self.ledger.borrow_mut().take_back(token, "given back".to_owned());
    }

    // ---- what came back ----

    #[track_caller]
    pub(crate) fn reply(&self, token: Token) -> Reply {
        let reply = self.ledger.borrow_mut().replies.remove(&token);
        match reply {
            Some(reply) => reply,
            None => panic!("token {token} is still out at {:?}", self.at()),
        }
    }

    pub(crate) fn is_open(&self, token: Token) -> bool {
        self.ledger.borrow().open.contains(&token)
    }

    #[track_caller]
    pub(crate) fn opened(&self) -> Result<(), Error> {
        match self.reply(self.opened) {
            Reply::Opened(result) => result,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn response(&self, token: Token) -> Result<Response, Error> {
        match self.reply(token) {
            Reply::Response(result) => result.map(|response| *response),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn output<O: TypedRequest>(&self, token: Token) -> Result<O::Output, Error> {
        self.response(token).and_then(O::output)
    }

    #[track_caller]
    pub(crate) fn enqueued(&self, token: Token) -> Result<MessageId, SendError> {
        match self.reply(token) {
            Reply::Enqueued(result) => result.map_err(|failed| *failed),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn enqueued_many(&self, token: Token) -> Vec<Result<MessageId, SendError>> {
        match self.reply(token) {
            Reply::EnqueuedMany(results) => results,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn settled(&self, token: Token) -> Result<(), Error> {
        match self.reply(token) {
            Reply::Settled(result) => result,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn settled_many(&self, token: Token) -> Vec<Result<(), Error>> {
        match self.reply(token) {
            Reply::SettledMany(results) => results,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn closed(&self, token: Token) -> CloseReport {
        match self.reply(token) {
            Reply::Closed(report) => report,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn flushed(&self, token: Token) -> Result<(), Error> {
        match self.reply(token) {
            Reply::Flushed(result) => result,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn room(&self, token: Token) -> Result<(), Error> {
        match self.reply(token) {
            Reply::Room(result) => result,
            other => panic!("{other:?}"),
        }
    }
}

impl ConsumerSim {
    pub(crate) fn take(&mut self, max: usize) -> Vec<Lease> {
        let mut into = Leases::new();
        let n = self.machine.take_leases(self.now, max, &mut into);
        assert_eq!(n, into.len());
        into.collect()
    }

    /// These deliveries are settled or dropped.
    pub(crate) fn release(&mut self, leases: &[Lease]) {
        for lease in leases {
            self.machine.release_delivery(lease.sequence);
        }
        self.settle();
    }

    /// Payloads of up to `max` waiting deliveries, which are dropped.
    pub(crate) fn payloads(&mut self, max: usize) -> Vec<String> {
        let leases = self.take(max);
        self.release(&leases);
        leases
            .iter()
            .map(|lease| String::from_utf8_lossy(&lease.received.payload).into_owned())
            .collect()
    }

    /// Waits for a delivery, settling meanwhile; true if there is news.
    pub(crate) fn wait_delivery(&mut self) -> bool {
        let token = self.token();
        let id = self.machine.wait_delivery(self.now, token);
        self.settle();
        if self.is_open(token) {
            self.abandon(token, id);
            return false;
        }
        true
    }
}
