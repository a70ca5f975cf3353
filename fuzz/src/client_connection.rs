//! Bytes from a hostile server.

use std::time::{Duration, Instant};

use fibp_proto::admin::QueueSpec;
use fibp_proto::config::{Config, ConsumerSettings, ProducerSettings};
use fibp_proto::consumer::{Consumer, Lease, Leases};
use fibp_proto::machine::{Action, ChannelId, Machine, Reply};
use fibp_proto::requests::{Requests, Settle};
use fibp_proto::simulation::AnyMachine;
use fibp_proto::{Dialect, Fault, FaultKind, Message, Request, Shared};

use crate::input::Input;
use crate::pair::Driver;
use crate::stream::Stream;
use crate::waiters::{Token, Waiters};

/// The channel that the server is at.
const MAIN: ChannelId = ChannelId::MAIN;

/// The largest frame that the client accepts.
const LIMIT: u32 = 64 * 1024;

/// Feeds a machine what a server may send, and checks what it tells its callers and what it keeps.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let setup = Setup::new(&mut input);
    let portion = 1 + input.below(255);
    listen(&setup, input.rest(), |_| portion);
}

/// What does not depend on how the bytes are cut.
#[derive(Debug)]
pub(crate) struct Setup {
    consumer: bool,
    dialect: Dialect,
    key: bool,
    /// How many deliveries the user takes at a time; none for a user that takes nothing.
    takes: usize,
    /// How many connections there are, one after the other.
    connections: usize,
}

impl Setup {
    pub(crate) fn new(input: &mut Input<'_>) -> Self {
        let choice = input.byte();
        Self {
            consumer: choice & 1 == 1,
            dialect: if choice & 2 == 2 {
                Dialect::Auto
            } else {
                input.dialect()
            },
            key: choice & 4 == 4,
            takes: usize::from(choice >> 4),
            connections: 3,
        }
    }

    /// For a consumer that takes what there is, on one connection: what it is told depends on the bytes alone.
    pub(crate) fn only_consumes(mut self) -> Self {
        self.consumer = true;
        self.takes = usize::MAX;
        self.connections = 1;
        self
    }

    pub(crate) fn config(&self) -> Config {
        let config = Config::new("127.0.0.1:5555")
            .dialect(self.dialect)
            .max_frame_size(LIMIT, LIMIT);
        if self.key { config.api_key("a-key") } else { config }
    }

    fn machine(&self, shared: &Shared, now: Instant, token: Token) -> AnyMachine<Token> {
        if self.consumer {
            let settings = ConsumerSettings::default().prefetch(16);
            Consumer::new(shared, "queue".into(), settings, now, 7, Some(token)).into()
        } else {
            Requests::new(shared, now, 7, Some(token)).into()
        }
    }
}

/// What a machine told its users. How completions and deliveries lie between each other depends on when the users look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) completions: Vec<String>,
    pub(crate) deliveries: Vec<String>,
}

/// Lets a machine hear `stream`, cut as `portion` says, on every connection that it opens; returns what it told.
pub(crate) fn listen(setup: &Setup, stream: &[u8], mut portion: impl FnMut(usize) -> usize) -> Told {
    let shared = Shared::new(setup.config()).expect("the configuration is valid");
    let waiters = Waiters::default();
    let start = Instant::now();
    let mut now = start;
    let mut machine = setup.machine(&shared, now, waiters.token());
    let mut told = Told::default();
    if let Some(requests) = machine.requests() {
        ask(requests, now, &waiters);
    }
    let mut driver = Driver::new(MAIN);
    let mut dialed = None;
    'connections: for _ in 0..setup.connections {
        let mut server = Stream::new(stream, &mut portion);
        let key = setup.config().settings().credentials.key();
        match dialed.take() {
            Some(id) => machine.handle_dialed(now, MAIN, id, key),
            None => server.answer = Some(key),
        }
        loop {
            driver.act(now, &mut machine, &mut server);
            if server.left.is_some() {
                dialed = server.left;
                continue 'connections;
            }
            if driver.claim(now, &mut machine, 4096) {
                while driver.write(now, &mut machine, &mut server) {}
            }
            visit_nodes(&mut machine, now);
            drain(&mut machine, &mut told);
            let mut taken = 0;
            if let Some(consumer) = machine.consumer().filter(|_| setup.takes > 0) {
                let mut leases = Leases::new();
                taken = consumer.take_leases(now, setup.takes, &mut leases);
                for Lease { sequence, received, .. } in leases {
                    told.deliveries.push(format!("{sequence} {received:?}"));
                    // What was taken is done with.
                    consumer.release_delivery(sequence);
                }
                consumer.wait_delivery(now, waiters.token());
            }
            drain(&mut machine, &mut told);
            let usage = machine.usage();
            assert!(usage.decoder <= 10 * LIMIT as usize, "{usage:?}");
            // One push beyond the bound, or what one read brought when the connection was lost.
            assert!(usage.deliveries <= 16 + LIMIT as usize / 16, "{usage:?}");
            assert!(usage.output <= 128 * 1024, "{usage:?}");
            if taken > 0 {
                continue;
            }
            if server.is_read() || !driver.listen(&mut machine) {
                break;
            }
            driver.read(now, &mut machine, &mut server);
        }
        machine.handle_eof(now, MAIN);
        // Whatever it waits for happens.
        now += Duration::from_secs(60);
        machine.handle_timeout(now);
    }
    if let Some(Some(error)) = machine.consumer().and_then(Consumer::poll_end) {
        told.completions.push(format!("ended: {:?}", error.kind()));
    }
    machine.abort(now);
    visit_nodes(&mut machine, now);
    drain(&mut machine, &mut told);
    drop(machine);
    waiters.finish();
    told
}

/// Something of every kind waits for an answer.
fn ask(requests: &mut Requests<Token>, now: Instant, waiters: &Waiters) {
    let asked = [
        Request::Heartbeat,
        Request::ListQueues,
        Request::QueueStats { queue: "queue".into() },
        Request::CreateQueue(QueueSpec::new("queue")),
        Request::GetConfig { key: "key".to_owned() },
        Request::ListApiKeys,
    ];
    for request in asked {
        requests.call(now, request, None, waiters.token());
    }
    requests.enqueue_many(
        now,
        vec![Message::new("queue", "1"), Message::new("other", "2")],
        None,
        waiters.token(),
    );
    let producer = requests.open_producer(ProducerSettings::default());
    let sent = requests.try_send(now, producer, Message::new("queue", "3"), None, waiters.token());
    assert!(sent.is_ok(), "an empty buffer has room");
    let settle = |nack: Option<&str>| Settle {
        queue: "queue".into(),
        id: "id".into(),
        nack: nack.map(str::to_owned),
        lease_deadline: Some(now),
    };
    requests.settle(now, settle(None), None, waiters.token());
    requests.settle_many(now, vec![settle(None), settle(Some("no"))], None, waiters.token());
    requests.flush(now, producer, None, waiters.token());
}

/// Where the server refers requests to other nodes, nobody is there.
fn visit_nodes(machine: &mut AnyMachine<Token>, now: Instant) {
    while machine.poll_new_channel().is_some() {}
    let channels: Vec<ChannelId> = machine.channels().filter(|channel| *channel != MAIN).collect();
    for channel in channels {
        while let Some(action) = machine.poll_action(channel) {
            if let Action::Dial { id, .. } = action {
                let fault = Fault::new(FaultKind::Refused, "nobody is there");
                machine.handle_dial_failed(now, channel, id, fault);
            }
        }
    }
}

/// Takes the completions.
fn drain(machine: &mut AnyMachine<Token>, Told { completions: told, .. }: &mut Told) {
    let mut completions = Vec::new();
    machine.drain_completions(&mut completions);
    for completion in completions {
        completion.token.redeem();
        match completion.reply {
            // Texts show the first bytes, however many those are.
            Reply::Opened(Err(error)) => told.push(format!("not opened: {:?}", error.kind())),
            Reply::Ready => {}
            reply => told.push(format!("{reply:?}")),
        }
    }
}
