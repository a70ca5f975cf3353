//! Any operations on a machine, in any order, with servers behind its channels that answer what they like.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use fibp_proto::config::{
    Backoff, Batching, Config, ConsumerSettings, Credit, OnFull, ProducerSettings, Reconnect, Replay,
};
use fibp_proto::consumer::{Consumer, Leases};
use fibp_proto::frame::{ReadBuffer, Transmit};
use fibp_proto::machine::{Action, CallId, ChannelId, Completion, DialId, Machine};
use fibp_proto::requests::{ProducerId, Requests, Settle};
use fibp_proto::server::{ServerConfig, ServerConnection};
use fibp_proto::simulation::{AnyMachine, TestHooks};
use fibp_proto::{Dialect, Fault, FaultKind, Message, Shared};

use crate::answer::answer;
use crate::input::Input;
use crate::pair;
use crate::stream::Stream;
use crate::values;
use crate::waiters::{Token, Waiters};

/// Buffers kept to be given back at the wrong time.
const HOARD: usize = 8;

/// Drives a machine with the operations that the input spells.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut driver = Driver::new(&mut input);
    while !input.is_empty() {
        driver.step(&mut input);
    }
    driver.finish();
}

struct Driver {
    machine: AnyMachine<Token>,
    /// All channels that there ever were, with the servers behind them. Those that are over take part all the same.
    servers: BTreeMap<ChannelId, ServerConnection>,
    waiters: Waiters,
    now: Instant,
    accepts: Vec<Dialect>,
    dials: Vec<(ChannelId, DialId)>,
    calls: VecDeque<CallId>,
    producers: Vec<ProducerId>,
    /// Room that was asked for, and the message that it is for.
    rooms: Vec<(ProducerId, CallId, Message)>,
    buffers: VecDeque<(ChannelId, ReadBuffer)>,
    transmits: VecDeque<(ChannelId, Transmit)>,
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
        let mut machine: AnyMachine<Token> = match choice % 3 {
            0 => {
                let credit = [Credit::Auto, Credit::Standing, Credit::Window][input.below(3)];
                let settings = ConsumerSettings::default()
                    .prefetch(1 + input.below(20))
                    .credit(credit)
                    .resubscribe(input.flag());
                Consumer::new(&shared, "queue".into(), settings, now, 7, opened).into()
            }
            _ => Requests::new(&shared, now, 7, opened).into(),
        };
        machine.set_test_hooks(TestHooks::default().lowest_free_ids(choice & 64 == 64));
        let accepts = vec![server];
        Self {
            machine,
            servers: BTreeMap::from([(ChannelId::MAIN, serve(&accepts))]),
            waiters,
            now,
            accepts,
            dials: Vec::new(),
            calls: VecDeque::new(),
            producers: Vec::new(),
            rooms: Vec::new(),
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
            10 => self.take_transmit(input),
            11 => self.return_transmit(input),
            12 => self.take_buffer(input),
            13 => self.return_buffer(input),
            14 => {
                let channel = self.channel(input);
                self.machine.handle_eof(self.now, channel);
            }
            15 => {
                let fault = Fault::new(fault_kind(input), "a fault");
                let channel = self.channel(input);
                self.machine.handle_transport_error(self.now, channel, fault);
            }
            16 => {
                // Time may come from another thread's clock, a moment old.
                let late = self.now.checked_sub(Duration::from_millis(u64::from(input.byte())));
                self.machine.handle_timeout(late.unwrap_or(self.now));
            }
            17..=19 => self.sleep(),
            20..=30 => self.ask(input),
            31 | 32 => self.abandon(input),
            33 => match input.below(8) {
                1 => {
                    let channel = self.channel(input);
                    self.machine.abandon_channel(self.now, channel);
                }
                2 | 3 => self.start_drivers(),
                _ => self.send_reserved(input),
            },
            34..=36 => self.consume(input),
            37 => match input.below(16) {
                0 => {
                    let deadline = Duration::from_millis(u64::from(input.byte()));
                    let call = self.machine.close(self.now, deadline, self.waiters.token());
                    self.calls.push_back(call);
                }
                1 => self.machine.abort(self.now),
                2 => {
                    if let Some(consumer) = self.machine.consumer() {
                        let call = consumer.stop_consuming(self.now, self.waiters.token());
                        self.calls.push_back(call);
                    }
                }
                _ => {}
            },
            38 => {
                if let Some(requests) = self.machine.requests() {
                    self.producers.push(requests.open_producer(producer(input)));
                }
            }
            _ => {
                if let (Some(producer), Some(requests)) = (self.producers.pop(), self.machine.requests()) {
                    requests.close_producer(producer);
                }
            }
        }
        self.drain();
        self.look();
    }

    /// Whoever looks changes nothing.
    fn look(&self) {
        for channel in self.servers.keys().copied() {
            let timeout = self.machine.poll_timeout(channel);
            let needs_driver = self.machine.needs_driver(channel);
            let _ = (self.machine.wants_write(channel), self.machine.wants_read(channel));
            let _ = (self.machine.in_flight(channel), self.machine.is_terminated(channel));
            assert_eq!(timeout, self.machine.poll_timeout(channel));
            assert_eq!(needs_driver, self.machine.needs_driver(channel));
        }
    }

    /// Any channel. Where there is only one, this uses up nothing of the input.
    fn channel(&self, input: &mut Input<'_>) -> ChannelId {
        let choice = if self.servers.len() > 1 {
            input.below(self.servers.len())
        } else {
            0
        };
        self.servers.keys().nth(choice).copied().unwrap_or(ChannelId::MAIN)
    }

    /// Learns of new channels, as whoever starts their drivers does.
    fn start_drivers(&mut self) {
        while let Some(channel) = self.machine.poll_new_channel() {
            let known = self.servers.insert(channel, serve(&self.accepts));
            assert!(known.is_none(), "{channel:?} is used again");
        }
    }

    /// Takes actions, as drivers do.
    fn act(&mut self) {
        self.start_drivers();
        let channels: Vec<ChannelId> = self.servers.keys().copied().collect();
        for channel in channels {
            while let Some(action) = self.machine.poll_action(channel) {
                if let Action::Dial { id, .. } = action {
                    self.dials.push((channel, id));
                    self.machine.handle_dialed(self.now, channel, id, Ok(None));
                    self.servers.insert(channel, serve(&self.accepts));
                }
            }
            let until = self.machine.poll_timeout(channel);
            self.machine.note_sleep(channel, until);
        }
    }

    fn answer_dial(&mut self, input: &mut Input<'_>) {
        let known = self.dials.get(input.below(self.dials.len())).copied();
        if let Some((channel, id)) = known {
            if input.flag() {
                self.machine.handle_dialed(self.now, channel, id, Ok(None));
            } else {
                let fault = Fault::new(fault_kind(input), "the dial failed");
                self.machine.handle_dial_failed(self.now, channel, id, fault);
            }
        }
    }

    /// Passes bytes both ways as they should be passed, as far as the channel allows.
    fn converse(&mut self, input: &mut Input<'_>) {
        let channel = self.channel(input);
        let Some(mut server) = self.servers.remove(&channel) else {
            return;
        };
        let mut driver = pair::Driver::new(channel);
        for _ in 0..1 + input.below(4) {
            while driver.claim(self.now, &mut self.machine, 4096) {
                let mut all = |_| usize::MAX;
                let mut stream = Stream::new(&[], &mut all);
                while driver.write(self.now, &mut self.machine, &mut stream) {}
                feed_server(&mut server, &stream.sent);
            }
            while let Some(event) = server.poll_event() {
                answer(&mut server, event, input);
            }
            if input.below(4) == 3 {
                let push = values::push(input, &"queue".into());
                let _ = server.push(&push);
            }
            let mut out = Transmit::new();
            while server.take_transmit(&mut out) {
                let bytes = pour(&out);
                let n = out.len();
                server.transmitted(&mut out, n);
                let mut all = |_| usize::MAX;
                let mut stream = Stream::new(&bytes, &mut all);
                while !stream.is_read() && driver.listen(&mut self.machine) {
                    driver.read(self.now, &mut self.machine, &mut stream);
                }
            }
        }
        self.servers.insert(channel, server);
    }

    fn take_transmit(&mut self, input: &mut Input<'_>) {
        let channel = self.channel(input);
        let mut transmit = Transmit::new();
        if self.machine.take_transmit(self.now, channel, 1024, &mut transmit) && self.transmits.len() < HOARD {
            self.transmits.push_back((channel, transmit));
        }
    }

    /// Gives back one that may be of another connection.
    fn return_transmit(&mut self, input: &mut Input<'_>) {
        let Some((channel, mut transmit)) = self.transmits.remove(input.below(self.transmits.len())) else {
            return;
        };
        match input.below(3) {
            0 => {
                let fault = Fault::new(fault_kind(input), "writing failed");
                self.machine.transmit_failed(self.now, channel, transmit, fault);
            }
            1 => {
                let n = transmit.len().saturating_mul(2);
                self.machine.transmitted(self.now, channel, &mut transmit, n);
            }
            _ => {
                let n = transmit.len() / 2;
                self.machine.transmitted(self.now, channel, &mut transmit, n);
                self.transmits.push_back((channel, transmit));
            }
        }
    }

    fn take_buffer(&mut self, input: &mut Input<'_>) {
        let channel = self.channel(input);
        if let Some(buffer) = self.machine.take_read_buffer(channel)
            && self.buffers.len() < HOARD
        {
            self.buffers.push_back((channel, buffer));
        }
    }

    fn return_buffer(&mut self, input: &mut Input<'_>) {
        let Some((channel, mut buffer)) = self.buffers.remove(input.below(self.buffers.len())) else {
            return;
        };
        let n = input.below(40);
        let _ = buffer.copy_from(input.bytes(n));
        if !input.flag() {
            buffer.advance(usize::MAX);
        }
        self.machine.handle_input(self.now, channel, buffer);
    }

    /// Goes to the next timeout, which must lead somewhere.
    fn sleep(&mut self) {
        self.act();
        self.drain();
        let channels = self.machine.channels();
        match channels.filter_map(|channel| self.machine.poll_timeout(channel)).min() {
            Some(at) if at > self.now => {
                self.now = at;
                self.timeouts = 0;
            }
            Some(_) => self.timeouts += 1,
            None => return,
        }
        self.machine.handle_timeout(self.now);
        let usage = self.machine.usage();
        assert!(self.timeouts < 50, "due again and again: {usage:?}");
    }

    fn ask(&mut self, input: &mut Input<'_>) {
        let Some(requests) = self.machine.requests() else {
            return;
        };
        let timeout = input.flag().then(|| Duration::from_millis(u64::from(input.byte())));
        let (now, token) = (self.now, self.waiters.token());
        let call = match input.below(9) {
            0 => requests.call(now, values::request(input), timeout, token),
            1 => requests.enqueue(now, values::message(input), timeout, token),
            2 => requests.enqueue_many(now, input.list(6, values::message), timeout, token),
            3 => requests.settle(now, settle(input), timeout, token),
            4 => requests.settle_many(now, input.list(6, settle), timeout, token),
            5 => {
                let producer = choose(requests, &mut self.producers, input);
                requests.flush(now, producer, timeout, token)
            }
            6 | 7 => {
                let (producer, message) = (choose(requests, &mut self.producers, input), values::message(input));
                let room = requests.reserve(now, producer, &message, timeout, token);
                self.rooms.push((producer, room, message));
                room
            }
            _ => {
                let (producer, message) = (choose(requests, &mut self.producers, input), values::message(input));
                match requests.try_send(now, producer, message, timeout, token) {
                    Ok(call) => call,
                    Err((_, token)) => return token.redeem(),
                }
            }
        };
        self.calls.push_back(call);
    }

    /// Sends into room that was asked for, whether it was given, or used before, or not.
    fn send_reserved(&mut self, input: &mut Input<'_>) {
        let Some((producer, room, message)) = self.rooms.get(input.below(self.rooms.len())).cloned() else {
            return;
        };
        let Some(requests) = self.machine.requests() else {
            return;
        };
        match requests.send_reserved(self.now, producer, room, message, self.waiters.token()) {
            Ok(call) => self.calls.push_back(call),
            Err((_, token)) => token.redeem(),
        }
    }

    fn consume(&mut self, input: &mut Input<'_>) {
        let Some(consumer) = self.machine.consumer() else {
            return;
        };
        match input.below(3) {
            0 => {
                let mut leases = Leases::new();
                let taken = consumer.take_leases(self.now, input.below(30), &mut leases);
                assert_eq!(taken, leases.len());
                for lease in leases.filter(|_| input.byte() > 20) {
                    consumer.release_delivery(lease.sequence);
                }
            }
            1 => {
                let call = consumer.wait_delivery(self.now, self.waiters.token());
                self.calls.push_back(call);
            }
            _ => {
                let _ = consumer.poll_end();
            }
        }
    }

    fn abandon(&mut self, input: &mut Input<'_>) {
        if let Some(call) = self.calls.get(input.below(self.calls.len())).copied()
            && let Some(token) = self.machine.abandon(call)
        {
            token.redeem();
        }
    }

    fn drain(&mut self) {
        self.machine.drain_completions(&mut self.completions);
        for Completion { token, .. } in self.completions.drain(..) {
            token.redeem();
        }
    }

    /// The end: everybody is told.
    fn finish(mut self) {
        for (_, room, _) in std::mem::take(&mut self.rooms) {
            // Nobody uses it any more.
            let _ = self.machine.abandon(room).map(Token::redeem);
        }
        self.machine.abort(self.now);
        for _ in 0..8 {
            self.turn_idle();
            self.now += Duration::from_secs(60);
            self.machine.handle_timeout(self.now);
        }
        self.turn_idle();
        assert!(self.machine.is_over());
        let channels: Vec<ChannelId> = self.machine.channels().collect();
        assert_eq!(channels, [ChannelId::MAIN], "further channels vanish");
        let usage = self.machine.usage();
        assert_eq!(
            (usage.in_flight, usage.charged_bytes, usage.parked),
            (0, 0, 0),
            "{usage:?}"
        );
        drop(self.machine);
        self.waiters.finish();
    }

    /// Takes actions and does none of them.
    fn turn_idle(&mut self) {
        self.start_drivers();
        for channel in self.servers.keys().copied() {
            while self.machine.poll_action(channel).is_some() {}
        }
        self.drain();
    }
}

fn serve(accepts: &[Dialect]) -> ServerConnection {
    ServerConnection::new(ServerConfig::new(accepts.to_vec()))
}

fn feed_server(server: &mut ServerConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match server.feed(bytes) {
            0 => return,
            n => bytes = &bytes[n..],
        }
        while !bytes.is_empty() {
            // Requests that wait are in the way of further input.
            let Some(event) = server.poll_event() else { break };
            answer(server, event, &mut Input::new(&[]));
        }
    }
}

/// One of the producers; a new one if there is none.
fn choose(requests: &mut Requests<Token>, producers: &mut Vec<ProducerId>, input: &mut Input<'_>) -> ProducerId {
    match producers.get(input.below(producers.len())).copied() {
        Some(producer) => producer,
        None => {
            let producer = requests.open_producer(producer(input));
            producers.push(producer);
            producer
        }
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
