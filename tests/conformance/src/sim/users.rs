//! Those who call: what they ask for, and what they do with what they get.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fibp_proto::admin::QueueSpec;
use fibp_proto::config::{Config, Replay};
use fibp_proto::event::Cursor;
use fibp_proto::machine::{CallId, Machine};
use fibp_proto::requests::{ProducerId, Requests};
use fibp_proto::{Error, ErrorKind, Event, Message, Outcome, QueueName, Request, Shared, State};

use super::pair::random::Random;
use super::plan::Plan;
use super::port::Port;
use super::truth::{Awaits, Tag};
use super::world::{Phase, World};

/// Keys whose value, once set, is the key itself.
const KEYS: usize = 12;

/// One client: what its machines share, and its producers.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) shared: Shared,
    cursor: Cursor,
    pub(super) main: Option<usize>,
    producers: Vec<Producer>,
    /// Calls that may be abandoned.
    calls: VecDeque<(usize, CallId, u64)>,
    next: Instant,
    /// Its user closed it, and has another.
    pub(super) closed: bool,
}

/// Sends to one queue, in order.
#[derive(Debug)]
struct Producer {
    id: ProducerId,
    queue: QueueName,
    name: u64,
    place: u64,
}

/// A message that its sender keeps until there is room for it.
#[derive(Debug)]
pub(super) struct Outside {
    port: usize,
    producer: ProducerId,
    /// The producer's name: ids are used again.
    name: u64,
    wait: CallId,
    deadline: Option<Instant>,
    tag: Tag,
    message: Message,
}

impl Client {
    pub(super) fn new(plan: &Plan, start: Instant, random: &mut Random) -> Option<Self> {
        Self::with(plan.config(random), start)
    }

    fn with(config: Config, start: Instant) -> Option<Self> {
        let shared = Shared::new(config).ok()?;
        Some(Self {
            cursor: shared.subscribe(),
            shared,
            main: None,
            producers: Vec::new(),
            calls: VecDeque::new(),
            next: start,
            closed: false,
        })
    }

    pub(super) fn replays_enqueues(&self) -> bool {
        self.shared.config().settings().replay == Replay::IncludingEnqueue
    }

    pub(super) fn poll_timeout(&self, phase: Phase) -> Option<Instant> {
        (phase == Phase::Storm && !self.closed).then_some(self.next)
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.shared.next_event(&mut self.cursor)
    }
}

impl World {
    /// Everybody whose time has come does something.
    pub(super) fn users_act(&mut self) -> Result<bool, String> {
        let mut progress = false;
        for client in 0..self.clients.len() {
            let due = self
                .clients
                .get(client)
                .and_then(|client| client.poll_timeout(self.phase))
                .is_some_and(|at| at <= self.now);
            if due {
                let pause = self.random.millis(0, self.plan.pause);
                if let Some(client) = self.clients.get_mut(client) {
                    client.next = self.now + pause + Duration::from_micros(1);
                }
                self.have_idea(client)?;
                progress = true;
            }
        }
        for consumer in 0..self.consumers.len() {
            progress |= self.consume(consumer)?;
        }
        Ok(progress)
    }

    /// The requests of a client; a new machine if the last has ended.
    pub(super) fn main(&mut self, client: usize) -> usize {
        let known = self.clients.get(client).and_then(|client| client.main);
        if let Some(port) = known {
            let ended = self.port(port).is_none_or(|port| port.machine.is_over());
            let may_replace = !matches!(self.phase, Phase::Close { .. });
            if !ended || !may_replace {
                return port;
            }
            self.close_client(client);
        }
        // Tokens name the port that they will be at.
        let port = self.ports.iter().position(Option::is_none).unwrap_or(self.ports.len());
        let deadline = self
            .clients
            .get(client)
            .and_then(|client| self.now.checked_add(client.shared.config().settings().connect_timeout));
        let (_, token) = self.truth.token(Awaits::Opened(port), deadline);
        let seed = self.random.next();
        if let Some(user) = self.clients.get_mut(client) {
            let requests = Requests::new(&user.shared, self.now, seed, Some(token));
            let credentials = user.shared.config().settings().credentials.clone();
            user.main = Some(port);
            user.producers.clear();
            self.add_port(Port::new(requests.into(), client, credentials));
        }
        port
    }

    fn close_machine(&mut self, port: usize, patience: Duration) {
        let now = self.now;
        let (_, token) = self.truth.token(Awaits::Closed, now.checked_add(patience));
        let most = self.truth.unheard();
        if let Some(port) = self.port(port) {
            port.close(now, patience, token, most);
        }
    }

    /// Somebody closes a client, whatever is under way.
    pub(super) fn close_any_client(&mut self) {
        let open: Vec<usize> = (0..self.clients.len())
            .filter(|client| self.clients.get(*client).is_some_and(|client| !client.closed))
            .collect();
        if let Some(client) = self.random.pick(&open) {
            self.close_client(client);
        }
    }

    /// Connects with another client if this one gave up its first connection: nothing can be opened with it.
    pub(super) fn replace_ended(&mut self, client: usize) {
        let Some(user) = self.clients.get(client) else { return };
        let (closed, main) = (user.shared.state() == State::Closed, user.main);
        let is_over = main.is_none_or(|port| self.port(port).is_none_or(|port| port.machine.is_over()));
        if closed && is_over {
            self.close_client(client);
        }
    }

    /// Closes a client, whose user goes on with another in its place.
    fn close_client(&mut self, client: usize) {
        let next = self.now + self.random.millis(0, 300);
        let moved = self.clients.len();
        let Some(place) = self.clients.get_mut(client) else {
            return;
        };
        let Some(fresh) = Client::with(place.shared.config().clone(), next) else {
            return;
        };
        let mut old = std::mem::replace(place, fresh);
        old.closed = true;
        self.clients.push(old);
        let patience = self.random.millis(0, 3000);
        let abort = self.random.chance(20);
        self.note(|| format!("client {client}, now {moved}, is closed within {patience:?}, aborted: {abort}"));
        for port in 0..self.ports.len() {
            let at = self.ports.get_mut(port).and_then(Option::as_mut);
            let Some(at) = at.filter(|port| port.client == client) else {
                continue;
            };
            at.client = moved;
            if abort {
                at.machine.abort(self.now);
            } else {
                self.close_machine(port, patience);
            }
        }
    }

    /// Forgets a port whose machine has ended.
    pub(super) fn retire(&mut self, port: usize) {
        if self.consumer_at(port).is_some() {
            return;
        }
        if let Some(place) = self.ports.get_mut(port) {
            *place = None;
        }
        for client in &mut self.clients {
            client.calls.retain(|(known, ..)| *known != port);
            if client.main == Some(port) {
                client.main = None;
            }
        }
    }

    // ---- ideas ----

    fn have_idea(&mut self, client: usize) -> Result<(), String> {
        let may_produce = self.produced < self.plan.messages;
        match self.random.below(100) {
            0..=24 if may_produce => self.enqueue(client),
            25..=34 if may_produce => self.enqueue_many(client),
            35..=62 if may_produce => return self.send(client),
            63..=65 => self.flush(client),
            66..=67 => self.close_producer(client),
            68..=84 => self.ask(client),
            85..=93 => return self.abandon(client),
            _ => {
                // Timeouts that nobody asked for do nothing.
                let (port, now) = (self.main(client), self.now);
                if let Some(port) = self.port(port) {
                    port.machine.handle_timeout(now);
                }
            }
        }
        Ok(())
    }

    /// A timeout to ask for, and the deadline that follows from it.
    pub(super) fn timeout(&mut self, client: usize) -> (Option<Duration>, Option<Instant>) {
        let own = self.random.chance(30).then(|| self.random.millis(10, 3000));
        let configured = self
            .clients
            .get(client)
            .and_then(|client| client.shared.config().settings().request_timeout);
        let deadline = own.or(configured).and_then(|timeout| self.now.checked_add(timeout));
        (own, deadline)
    }

    fn any_queue(&mut self) -> QueueName {
        let index = self.random.below(self.plan.queues);
        self.cluster.queues().get(index).cloned().unwrap_or_else(|| "".into())
    }

    pub(super) fn remember(&mut self, client: usize, port: usize, call: CallId, token: u64) {
        if let Some(client) = self.clients.get_mut(client) {
            client.calls.push_back((port, call, token));
            if client.calls.len() > 200 {
                client.calls.pop_front();
            }
        }
    }

    fn enqueue(&mut self, client: usize) {
        let (port, now) = (self.main(client), self.now);
        let (timeout, deadline) = self.timeout(client);
        let queue = self.any_queue();
        let size = self.random.spread(self.plan.largest);
        self.produced += 1;
        let (tag, message) = self.truth.message(&queue, size, None);
        let (number, token) = self.truth.token(Awaits::Enqueued(tag), deadline);
        if let Some(requests) = self.requests(port) {
            let call = requests.enqueue(now, message, timeout, token);
            self.note(|| format!("port {port}: enqueue {tag} of {size} bytes, token {number}, {call:?}"));
            self.remember(client, port, call, number);
        }
    }

    fn enqueue_many(&mut self, client: usize) {
        let (port, now) = (self.main(client), self.now);
        let (timeout, deadline) = self.timeout(client);
        let count = self.random.below(12);
        self.produced += count;
        let mut tags = Vec::new();
        let mut messages = Vec::new();
        for _ in 0..count {
            let queue = self.any_queue();
            let size = self.random.spread(self.plan.largest);
            let (tag, message) = self.truth.message(&queue, size, None);
            tags.push(tag);
            messages.push(message);
        }
        self.note(|| format!("port {port}: enqueue {tags:?}"));
        let (number, token) = self.truth.token(Awaits::EnqueuedMany(tags), deadline);
        if let Some(requests) = self.requests(port) {
            let call = requests.enqueue_many(now, messages, timeout, token);
            self.remember(client, port, call, number);
        }
    }

    /// Sends by one of the client's producers.
    fn send(&mut self, client: usize) -> Result<(), String> {
        let (port, now) = (self.main(client), self.now);
        let count = self.clients.get(client).map_or(0, |client| client.producers.len());
        if count == 0 || (count < 3 && self.random.chance(5)) {
            let settings = Plan::producer(&mut self.random);
            let (queue, name) = (self.any_queue(), self.random.next());
            if let Some(id) = self.requests(port).map(|requests| requests.open_producer(settings))
                && let Some(client) = self.clients.get_mut(client)
            {
                client.producers.push(Producer {
                    id,
                    queue,
                    name,
                    place: 0,
                });
            }
        }
        let (timeout, deadline) = self.timeout(client);
        let count = self.clients.get(client).map_or(0, |client| client.producers.len());
        let chosen = self.random.below(count);
        let Some(producer) = self
            .clients
            .get_mut(client)
            .and_then(|client| client.producers.get_mut(chosen))
        else {
            return Ok(());
        };
        let (id, name) = (producer.id, producer.name);
        let queue = QueueName::clone(&producer.queue);
        let size = self.random.spread(self.plan.largest);
        self.produced += 1;
        let (tag, message) = self.truth.message(&queue, size, None);
        let (receipt, token) = self.truth.token(Awaits::Enqueued(tag), deadline);
        self.note(|| format!("port {port}: send {tag}, token {receipt}, by {id:?}"));
        let Some(requests) = self.requests(port) else {
            return Ok(());
        };
        let (refused, token) = match requests.try_send(now, id, message, timeout, token) {
            Ok(call) => {
                self.take_place(name, tag);
                self.remember(client, port, call, receipt);
                return Ok(());
            }
            Err(refused) => refused,
        };
        if refused.kind() != ErrorKind::Overloaded || self.random.chance(20) {
            return self.truth.refused(token, &refused.message);
        }
        // Its sender waits for room, and keeps the message meanwhile.
        self.truth.put_off(token, &refused.message)?;
        let message = refused.message;
        let (wait, token) = self.truth.token(Awaits::Room, deadline);
        self.note(|| format!("port {port}: room for {tag}, token {wait}, by {id:?}"));
        if let Some(requests) = self.requests(port) {
            let call = requests.reserve(now, id, &message, timeout, token);
            let outside = Outside {
                port,
                producer: id,
                name,
                wait: call,
                deadline,
                tag,
                message,
            };
            self.outside.insert(wait, outside);
            self.remember(client, port, call, wait);
        }
        Ok(())
    }

    /// A message is the next of its producer.
    fn take_place(&mut self, name: u64, tag: Tag) {
        let mut producers = self.clients.iter_mut().flat_map(|client| &mut client.producers);
        if let Some(producer) = producers.find(|producer| producer.name == name) {
            producer.place += 1;
            self.truth.placed(tag, (name, producer.place));
        }
    }

    /// A sender has room, or learns why not.
    pub(super) fn got_room(&mut self, wait: u64, result: Result<(), Error>) -> Result<(), String> {
        let Some(outside) = self.outside.remove(&wait) else {
            // The sender is gone, and with it the room.
            return Ok(());
        };
        let Outside {
            port,
            producer,
            name,
            wait: room,
            deadline,
            tag,
            message,
        } = outside;
        if let Err(error) = result {
            if error.outcome() == Outcome::Unknown {
                return Err(format!("message {tag} had no room, and its sender is told: {error}"));
            }
            self.truth.kept(tag);
            return Ok(());
        }
        if self.random.chance(5) {
            self.note(|| format!("port {port}: the sender of {tag} is gone"));
            self.truth.kept(tag);
            let back = self.requests(port).and_then(|requests| requests.abandon(room));
            return match back {
                None => Ok(()),
                Some(token) => Err(format!("{token:?} came back although its caller had room")),
            };
        }
        self.take_place(name, tag);
        let (receipt, token) = self.truth.token(Awaits::Enqueued(tag), deadline);
        self.note(|| format!("port {port}: send {tag} into its room, token {receipt}, by {producer:?}"));
        let now = self.now;
        let Some(port_now) = self.port(port) else {
            return Err(format!(
                "port {port} ended before the sender of {tag} heard of its room"
            ));
        };
        let client = port_now.client;
        let Some(requests) = port_now.machine.requests() else {
            return Err(format!("port {port} gave room and takes no messages"));
        };
        match requests.send_reserved(now, producer, room, message, token) {
            Ok(call) => self.remember(client, port, call, receipt),
            Err((refused, token)) => self.truth.refused(token, &refused.message)?,
        }
        Ok(())
    }

    fn flush(&mut self, client: usize) {
        let (port, now) = (self.main(client), self.now);
        let Some(id) = self
            .clients
            .get(client)
            .and_then(|client| client.producers.first())
            .map(|producer| producer.id)
        else {
            return;
        };
        let (timeout, deadline) = match self.random.chance(50) {
            true => self.timeout(client),
            false => (None, None),
        };
        let (number, token) = self.truth.token(Awaits::Flushed, deadline);
        if let Some(requests) = self.requests(port) {
            let call = requests.flush(now, id, timeout, token);
            self.remember(client, port, call, number);
        }
    }

    fn close_producer(&mut self, client: usize) {
        let port = self.main(client);
        let Some(last) = self.clients.get(client).and_then(|client| client.producers.last()) else {
            return;
        };
        // Whoever waits for room holds the producer.
        if self.outside.values().any(|outside| outside.name == last.name) {
            return;
        }
        let Some(producer) = self.clients.get_mut(client).and_then(|client| client.producers.pop()) else {
            return;
        };
        if let Some(requests) = self.requests(port) {
            requests.close_producer(producer.id);
        }
    }

    /// A request of its own frame.
    fn ask(&mut self, client: usize) {
        let (port, now) = (self.main(client), self.now);
        let (timeout, deadline) = self.timeout(client);
        let key = format!("key-{}", self.random.below(KEYS));
        let mut expected = None;
        let request = match self.random.below(10) {
            0..=4 => {
                expected = Some(key.clone());
                Request::GetConfig { key }
            }
            5 | 6 => Request::SetConfig {
                value: key.clone(),
                key,
            },
            7 => Request::QueueStats {
                queue: self.any_queue(),
            },
            8 => Request::Heartbeat,
            _ => match self.random.below(3) {
                0 => Request::ListQueues,
                1 => Request::CreateQueue(QueueSpec::new("passing")),
                _ => Request::DeleteQueue {
                    queue: "passing".into(),
                },
            },
        };
        let (number, token) = self.truth.token(Awaits::Answer(request.op(), expected), deadline);
        self.note(|| format!("port {port}: {:?}, token {number}", request.op()));
        if let Some(requests) = self.requests(port) {
            let call = requests.call(now, request, timeout, token);
            self.remember(client, port, call, number);
        }
    }

    fn abandon(&mut self, client: usize) -> Result<(), String> {
        let count = self.clients.get(client).map_or(0, |client| client.calls.len());
        let chosen = self.random.below(count);
        let Some((port, call, number)) = self
            .clients
            .get_mut(client)
            .and_then(|client| client.calls.remove(chosen))
        else {
            return Ok(());
        };
        let token = self.requests(port).and_then(|requests| requests.abandon(call));
        if let Some(outside) = self.outside.remove(&number) {
            self.truth.kept(outside.tag);
        }
        self.note(|| format!("port {port}: abandon {call:?}, token {number}: {token:?}"));
        match token {
            Some(token) => self.truth.abandoned(token),
            None => {
                self.truth.not_abandoned(number);
                Ok(())
            }
        }
    }

    /// Everybody closes what they have.
    pub(super) fn leave(&mut self) {
        let now = self.now;
        for index in 0..self.ports.len() {
            let Some(port) = self.ports.get_mut(index).and_then(Option::as_mut) else {
                continue;
            };
            let deadline = Duration::from_secs(5);
            if let Some(consumer) = port.machine.consumer() {
                let (_, token) = self.truth.token(Awaits::Drained, now.checked_add(deadline));
                consumer.stop_consuming(now, token);
            } else {
                let (_, token) = self.truth.token(Awaits::Closed, now.checked_add(deadline));
                port.close(now, deadline, token, self.truth.unheard());
            }
        }
    }
}
