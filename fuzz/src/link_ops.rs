//! Any operations on a link, in any order, with a server behind it that answers what it likes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fibp_proto::config::{
    Backoff, Batching, Config, ConsumerSettings, Credit, OnFull, ProducerSettings, Reconnect, Replay,
};
use fibp_proto::frame::{ReadBuffer, Transmit};
use fibp_proto::link::{Action, CallId, Completion, DialId, Parcel, ProducerId, Reply, Settle};
use fibp_proto::server::{ServerConfig, ServerConnection};
use fibp_proto::simulation::Knobs;
use fibp_proto::{Dialect, Fault, FaultKind, Link, Shared};

use crate::answer::answer;
use crate::input::Input;
use crate::values;
use crate::waiters::{Token, Waiters};

/// Buffers kept to be given back at the wrong time.
const HOARD: usize = 8;

/// Drives a link with the operations that the input spells.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut driver = Driver::new(&mut input);
    while !input.is_empty() {
        driver.step(&mut input);
    }
    driver.finish();
}

struct Driver {
    link: Link<Token>,
    /// Where work goes that `link` does not take.
    main: Link<Token>,
    waiters: Waiters,
    now: Instant,
    server: ServerConnection,
    accepts: Vec<Dialect>,
    dials: Vec<DialId>,
    calls: VecDeque<CallId>,
    producers: Vec<ProducerId>,
    parcels: Vec<Parcel<Token>>,
    buffers: VecDeque<ReadBuffer>,
    transmits: VecDeque<Transmit>,
    completions: Vec<Completion<Token>>,
    timeouts: usize,
}

impl Driver {
    fn new(input: &mut Input<'_>) -> Self {
        let choice = input.byte();
        let server = input.dialect();
        let config = config(input, server);
        let shared = Shared::new(config).expect("the configuration is valid");
        let waiters = Waiters::default();
        let now = Instant::now();
        let opened = (choice & 1 == 1).then(|| waiters.token());
        let mut link = match choice % 3 {
            0 => {
                let credit = [Credit::Auto, Credit::Standing, Credit::Window][input.below(3)];
                let settings = ConsumerSettings::default()
                    .prefetch(1 + input.below(20))
                    .credit(credit)
                    .resubscribe(input.flag());
                Link::consumer(&shared, "queue".into(), settings, now, 7, opened)
            }
            1 => {
                let Some(endpoint) = shared.config().settings().endpoints.first().cloned() else {
                    panic!("one is configured");
                };
                drop_token(opened);
                Link::requests_to(&shared, endpoint, now, 7)
            }
            _ => Link::requests(&shared, now, 7, opened),
        };
        link.set_knobs(Knobs::default().lowest_free_ids(choice & 64 == 64));
        let accepts = vec![server];
        let mut main = Link::requests(&shared, now, 8, None);
        main.abort(now);
        Self {
            main,
            server: ServerConnection::new(ServerConfig::new(accepts.clone())),
            accepts,
            link,
            waiters,
            now,
            dials: Vec::new(),
            calls: VecDeque::new(),
            producers: vec![],
            parcels: Vec::new(),
            buffers: VecDeque::new(),
            transmits: VecDeque::new(),
            completions: Vec::new(),
            timeouts: 0,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(40) {
            0 => self.now += Duration::from_millis(u64::from(input.byte())),
            1 => self.now += Duration::from_secs(u64::from(input.byte())),
            2..=5 => self.act(),
            6 => self.answer_dial(input),
            7..=9 => self.converse(input),
            10 => self.take_transmit(),
            11 => self.return_transmit(input),
            12 => self.take_buffer(),
            13 => self.return_buffer(input),
            14 => self.link.handle_eof(self.now),
            15 => {
                let fault = Fault::new(fault_kind(input), "a fault");
                self.link.handle_transport_error(self.now, fault);
            }
            16 => {
                // Time may come from another thread's clock, a moment old.
                let late = self.now.checked_sub(Duration::from_millis(u64::from(input.byte())));
                self.link.handle_timeout(late.unwrap_or(self.now));
            }
            17..=19 => self.sleep(),
            20..=30 => self.ask(input),
            31 | 32 => self.abandon(input),
            33 => self.accept(),
            34 => {
                let mut leases = VecDeque::new();
                let taken = self.link.take_deliveries(self.now, input.below(30), &mut leases);
                assert_eq!(taken, leases.len());
                for lease in leases.iter().filter(|_| input.byte() > 20) {
                    self.link.release_delivery(lease.sequence);
                }
            }
            35 => {
                let call = self.link.wait_delivery(self.now, self.waiters.token());
                self.calls.push_back(call);
            }
            36 => {
                let _ = self.link.poll_consumer_end();
            }
            37 => match input.below(16) {
                0 => {
                    let deadline = Duration::from_millis(u64::from(input.byte()));
                    let call = self.link.close(self.now, deadline, self.waiters.token());
                    self.calls.push_back(call);
                }
                1 => self.link.abort(self.now),
                2 => {
                    let call = self.link.stop_consuming(self.now, self.waiters.token());
                    self.calls.push_back(call);
                }
                _ => {}
            },
            38 => {
                let producer = self.link.open_producer(producer(input));
                self.producers.push(producer);
            }
            _ => {
                if let Some(producer) = self.producers.pop() {
                    self.link.close_producer(producer);
                }
            }
        }
        self.drain();
        let _ = (
            self.link.needs_driver(),
            self.link.wants_write(),
            self.link.wants_read(),
        );
        let _ = (self.link.in_flight(), self.link.is_terminated());
    }

    /// Takes actions, as a driver does.
    fn act(&mut self) {
        while let Some(action) = self.link.poll_action() {
            match action {
                Action::Dial { id, .. } => {
                    self.dials.push(id);
                    self.link.handle_dialed(self.now, id, Ok(None));
                    self.server = ServerConnection::new(ServerConfig::new(self.accepts.clone()));
                }
                Action::Reroute { parcel, .. } => self.parcels.push(parcel),
                _ => {}
            }
        }
    }

    fn answer_dial(&mut self, input: &mut Input<'_>) {
        let known = self.dials.get(input.below(self.dials.len())).copied();
        if let Some(id) = known {
            if input.flag() {
                self.link.handle_dialed(self.now, id, Ok(None));
            } else {
                let fault = Fault::new(fault_kind(input), "the dial failed");
                self.link.handle_dial_failed(self.now, id, fault);
            }
        }
    }

    /// Passes bytes both ways as they should be passed, as far as the link allows.
    fn converse(&mut self, input: &mut Input<'_>) {
        for _ in 0..1 + input.below(4) {
            let mut transmit = Transmit::new();
            while self.link.take_transmit(self.now, 4096, &mut transmit) {
                let bytes = pour(&transmit);
                let n = transmit.len();
                self.link.transmitted(self.now, &mut transmit, n);
                self.feed_server(&bytes);
            }
            while let Some(event) = self.server.poll_event() {
                answer(&mut self.server, event, input);
            }
            if input.below(4) == 3 {
                let push = values::push(input, &"queue".into());
                let _ = self.server.push(&push);
            }
            let mut out = Transmit::new();
            while self.server.take_transmit(&mut out) {
                let bytes = pour(&out);
                let n = out.len();
                self.server.transmitted(&mut out, n);
                self.feed_link(&bytes);
            }
        }
    }

    fn feed_server(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(mut buffer) = self.server.take_read_buffer() else {
                return;
            };
            let place = buffer.unfilled();
            let (now, later) = bytes.split_at(bytes.len().min(place.len()));
            place[..now.len()].copy_from_slice(now);
            buffer.advance(now.len());
            self.server.handle_input(buffer);
            bytes = later;
            while !bytes.is_empty() {
                // Requests that wait are in the way of further input.
                let Some(event) = self.server.poll_event() else { break };
                answer(&mut self.server, event, &mut Input::new(&[]));
            }
        }
    }

    fn feed_link(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(mut buffer) = self.link.take_read_buffer() else {
                return;
            };
            let place = buffer.unfilled();
            let (now, later) = bytes.split_at(bytes.len().min(place.len()));
            place[..now.len()].copy_from_slice(now);
            buffer.advance(now.len());
            self.link.handle_input(self.now, buffer);
            bytes = later;
        }
    }

    fn take_transmit(&mut self) {
        let mut transmit = Transmit::new();
        if self.link.take_transmit(self.now, 1024, &mut transmit) && self.transmits.len() < HOARD {
            self.transmits.push_back(transmit);
        }
    }

    /// Gives back one that may be of another connection.
    fn return_transmit(&mut self, input: &mut Input<'_>) {
        let Some(mut transmit) = self.transmits.remove(input.below(self.transmits.len())) else {
            return;
        };
        match input.below(3) {
            0 => {
                let fault = Fault::new(fault_kind(input), "writing failed");
                self.link.transmit_failed(self.now, transmit, fault);
            }
            1 => {
                let n = transmit.len().saturating_mul(2);
                self.link.transmitted(self.now, &mut transmit, n);
            }
            _ => {
                let n = transmit.len() / 2;
                self.link.transmitted(self.now, &mut transmit, n);
                self.transmits.push_back(transmit);
            }
        }
    }

    fn take_buffer(&mut self) {
        if let Some(buffer) = self.link.take_read_buffer()
            && self.buffers.len() < HOARD
        {
            self.buffers.push_back(buffer);
        }
    }

    fn return_buffer(&mut self, input: &mut Input<'_>) {
        let Some(mut buffer) = self.buffers.remove(input.below(self.buffers.len())) else {
            return;
        };
        let n = input.below(40);
        let bytes = input.bytes(n);
        let place = buffer.unfilled();
        let n = bytes.len().min(place.len());
        place[..n].copy_from_slice(&bytes[..n]);
        buffer.advance(if input.flag() { n } else { usize::MAX });
        self.link.handle_input(self.now, buffer);
    }

    /// Goes to the next timeout, which must lead somewhere.
    fn sleep(&mut self) {
        self.act();
        self.drain();
        match self.link.poll_timeout() {
            Some(at) if at > self.now => {
                self.now = at;
                self.timeouts = 0;
            }
            Some(_) => self.timeouts += 1,
            None => return,
        }
        self.link.handle_timeout(self.now);
        assert!(self.timeouts < 50, "due again and again: {:?}", self.link.holdings());
    }

    fn ask(&mut self, input: &mut Input<'_>) {
        let timeout = input.flag().then(|| Duration::from_millis(u64::from(input.byte())));
        let token = self.waiters.token();
        let call = match input.below(8) {
            0 => self.link.call(self.now, values::request(input), timeout, token),
            1 => self.link.enqueue(self.now, values::message(input), timeout, token),
            2 => {
                let messages = input.list(6, values::message);
                self.link.enqueue_many(self.now, messages, timeout, token)
            }
            3 => self.link.settle(self.now, settle(input), timeout, token),
            4 => {
                let settles = input.list(6, settle);
                self.link.settle_many(self.now, settles, timeout, token)
            }
            5 => {
                let producer = self.producer(input);
                self.link.flush(self.now, producer, timeout, token)
            }
            6 => {
                let (producer, message) = (self.producer(input), values::message(input));
                let receipt = self.waiters.token();
                self.link.send(self.now, producer, message, timeout, token, receipt)
            }
            _ => {
                let (producer, message) = (self.producer(input), values::message(input));
                match self.link.try_send(self.now, producer, message, timeout, token) {
                    Ok(call) => call,
                    Err((_, token)) => return token.redeem(),
                }
            }
        };
        self.calls.push_back(call);
    }

    fn producer(&mut self, input: &mut Input<'_>) -> ProducerId {
        match self.producers.get(input.below(self.producers.len())).copied() {
            Some(producer) => producer,
            None => {
                let producer = self.link.open_producer(producer(input));
                self.producers.push(producer);
                producer
            }
        }
    }

    fn abandon(&mut self, input: &mut Input<'_>) {
        if let Some(call) = self.calls.get(input.below(self.calls.len())).copied()
            && let Some(token) = self.link.abandon(call)
        {
            token.redeem();
        }
    }

    /// Takes back what was handed to another link.
    fn accept(&mut self) {
        if let Some(parcel) = self.parcels.pop()
            && let Some(parcel) = self.link.accept(self.now, parcel)
        {
            let refused = self.main.accept(self.now, parcel);
            assert!(refused.is_none(), "the main link takes everything");
        }
    }

    fn drain(&mut self) {
        self.link.drain_completions(&mut self.completions);
        self.main.drain_completions(&mut self.completions);
        for Completion { token, reply, .. } in self.completions.drain(..) {
            token.redeem();
            if let Reply::Admitted(Err(refused)) = reply {
                refused.1.redeem();
            }
        }
    }

    /// The end: everybody is told.
    fn finish(mut self) {
        self.link.abort(self.now);
        self.drain();
        while let Some(action) = self.link.poll_action() {
            if let Action::Reroute { parcel, .. } = action {
                self.parcels.push(parcel);
            }
        }
        while !self.parcels.is_empty() {
            self.accept();
        }
        self.drain();
        for _ in 0..8 {
            self.now += Duration::from_secs(60);
            self.link.handle_timeout(self.now);
            while self.link.poll_action().is_some() {}
            self.drain();
        }
        assert!(self.link.is_terminated());
        let holdings = self.link.holdings();
        assert_eq!(
            (holdings.in_flight, holdings.charged_bytes, holdings.parked),
            (0, 0, 0),
            "{holdings:?}"
        );
        drop(self.link);
        self.waiters.finish();
    }
}

fn drop_token(token: Option<Token>) {
    if let Some(token) = token {
        token.redeem();
    }
}

fn pour(transmit: &Transmit) -> Vec<u8> {
    let mut slices = [std::io::IoSlice::new(&[]); 64];
    transmit
        .slices(&mut slices)
        .iter()
        .flat_map(|slice| slice.to_vec())
        .collect()
}

fn fault_kind(input: &mut Input<'_>) -> FaultKind {
    [
        FaultKind::Reset,
        FaultKind::Refused,
        FaultKind::TimedOut,
        FaultKind::Unreachable,
        FaultKind::Resolve,
        FaultKind::Tls,
        FaultKind::Other,
    ][input.below(7)]
}

fn settle(input: &mut Input<'_>) -> Settle {
    Settle {
        queue: values::queue(input),
        id: values::id(input),
        nack: input.flag().then(|| input.text()),
        lease_deadline: None,
    }
}

fn batching(input: &mut Input<'_>) -> Batching {
    match input.below(3) {
        0 => Batching::Auto,
        1 => Batching::Disabled,
        _ => Batching::Linger {
            delay: Duration::from_millis(1 + u64::from(input.byte())),
            max_messages: 1 + input.below(5),
        },
    }
}

fn producer(input: &mut Input<'_>) -> ProducerSettings {
    ProducerSettings::default()
        .batching(batching(input))
        .max_bytes(200)
        .buffer(200 + input.below(255))
        .on_full(if input.flag() { OnFull::Wait } else { OnFull::Fail })
}

fn config(input: &mut Input<'_>, server: Dialect) -> Config {
    let mut config = Config::new("127.0.0.1:5555,127.0.0.1:5556")
        .dialect(if input.flag() { server } else { Dialect::Auto })
        .request_timeout(Duration::from_millis(1 + u64::from(input.byte())))
        .connect_timeout(Duration::from_millis(1 + 10 * u64::from(input.byte())))
        .heartbeat(Duration::from_millis(1 + 10 * u64::from(input.byte())), 2)
        .max_in_flight(1 + input.below(8), 300 + input.below(255))
        .max_frame_size(600, 1200)
        .batch_max_messages(1 + input.below(6))
        .batching(batching(input))
        .replay([Replay::Never, Replay::SafeOps, Replay::IncludingEnqueue][input.below(3)])
        .on_full(if input.flag() { OnFull::Wait } else { OnFull::Fail })
        .reconnect(match input.below(3) {
            0 => Reconnect::Never,
            1 => Reconnect::Backoff(Backoff {
                max_attempts: Some(3),
                ..Backoff::default()
            }),
            _ => Reconnect::Backoff(Backoff::default()),
        });
    if input.flag() {
        config = config.api_key("a-key");
    }
    config
}
