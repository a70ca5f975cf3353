//! Bytes from a hostile server.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fibp_proto::admin::QueueSpec;
use fibp_proto::config::{Config, ConsumerSettings, ProducerSettings};
use fibp_proto::frame::Transmit;
use fibp_proto::link::{Action, Lease, Reply, Settle};
use fibp_proto::{Dialect, Link, Message, Request, Shared};

use crate::input::Input;
use crate::waiters::{Token, Waiters};

/// The largest frame that the client accepts.
const LIMIT: u32 = 64 * 1024;

/// Feeds a link what a server may send, and checks what it tells its callers and what it keeps.
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

    fn link(&self, shared: &Shared, now: Instant, token: Token) -> Link<Token> {
        if self.consumer {
            let settings = ConsumerSettings::default().prefetch(16);
            Link::consumer(shared, "queue".into(), settings, now, 7, Some(token))
        } else {
            Link::requests(shared, now, 7, Some(token))
        }
    }
}

/// What a link told its users. How completions and deliveries lie between each other depends on when the users look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) completions: Vec<String>,
    pub(crate) deliveries: Vec<String>,
}

/// Lets a link hear `stream`, cut as `portion` says, on every connection that it opens; returns what it told.
pub(crate) fn listen(setup: &Setup, stream: &[u8], mut portion: impl FnMut(usize) -> usize) -> Told {
    let shared = Shared::new(setup.config()).expect("the configuration is valid");
    let waiters = Waiters::default();
    let start = Instant::now();
    let mut now = start;
    let mut link = setup.link(&shared, now, waiters.token());
    let mut told = Told::default();
    if !setup.consumer {
        ask(&mut link, now, &waiters);
    }
    let mut transmit = Transmit::new();
    // For nodes that nobody opens a link to.
    let mut parcels = Vec::new();
    'connections: for _ in 0..setup.connections {
        let mut open = false;
        let mut at = 0;
        loop {
            while let Some(action) = link.poll_action() {
                match action {
                    Action::Dial { id, .. } if !open => {
                        let key = setup.config().settings().credentials.key();
                        link.handle_dialed(now, id, key);
                        open = true;
                    }
                    Action::Dial { .. } => continue 'connections,
                    Action::Hangup => at = stream.len(),
                    Action::Reroute { parcel, .. } => parcels.push(parcel),
                    _ => {}
                }
            }
            if link.take_transmit(now, 4096, &mut transmit) {
                let n = transmit.len();
                link.transmitted(now, &mut transmit, n);
            }
            drain(&mut link, &mut told);
            let mut leases = VecDeque::new();
            if setup.takes > 0 && setup.consumer {
                link.take_deliveries(now, setup.takes, &mut leases);
                for Lease { sequence, received, .. } in &leases {
                    told.deliveries.push(format!("{sequence} {received:?}"));
                }
                // What was taken is done with.
                for lease in &leases {
                    link.release_delivery(lease.sequence);
                }
                link.wait_delivery(now, waiters.token());
            }
            drain(&mut link, &mut told);
            let holdings = link.holdings();
            assert!(holdings.decoder <= 10 * LIMIT as usize, "{holdings:?}");
            // One push beyond the bound, or what one read brought when the connection was lost.
            assert!(holdings.deliveries <= 16 + LIMIT as usize / 16, "{holdings:?}");
            assert!(holdings.output <= 128 * 1024, "{holdings:?}");
            if !leases.is_empty() {
                continue;
            }
            let Some(mut buffer) = link.take_read_buffer().filter(|_| at < stream.len()) else {
                break;
            };
            let place = buffer.unfilled();
            let rest = stream.get(at..).unwrap_or_default();
            let n = portion(at).clamp(1, rest.len()).min(place.len());
            place[..n].copy_from_slice(&rest[..n]);
            buffer.advance(n);
            at += n;
            link.handle_input(now, buffer);
        }
        link.handle_eof(now);
        // Whatever it waits for happens.
        now += Duration::from_secs(60);
        link.handle_timeout(now);
    }
    if let Some(Some(error)) = link.poll_consumer_end() {
        told.completions.push(format!("ended: {:?}", error.kind()));
    }
    link.abort(now);
    while let Some(action) = link.poll_action() {
        if let Action::Reroute { parcel, .. } = action {
            parcels.push(parcel);
        }
    }
    for parcel in parcels {
        assert!(link.accept(now, parcel).is_none(), "the main link takes everything");
    }
    drain(&mut link, &mut told);
    drop(link);
    waiters.finish();
    told
}

/// Something of every kind waits for an answer.
fn ask(link: &mut Link<Token>, now: Instant, waiters: &Waiters) {
    let requests = [
        Request::Heartbeat,
        Request::ListQueues,
        Request::QueueStats { queue: "queue".into() },
        Request::CreateQueue(QueueSpec::new("queue")),
        Request::GetConfig { key: "key".to_owned() },
        Request::ListApiKeys,
    ];
    for request in requests {
        link.call(now, request, None, waiters.token());
    }
    link.enqueue_many(
        now,
        vec![Message::new("queue", "1"), Message::new("other", "2")],
        None,
        waiters.token(),
    );
    let producer = link.open_producer(ProducerSettings::default());
    link.send(
        now,
        producer,
        Message::new("queue", "3"),
        None,
        waiters.token(),
        waiters.token(),
    );
    let settle = |nack: Option<&str>| Settle {
        queue: "queue".into(),
        id: "id".into(),
        nack: nack.map(str::to_owned),
        lease_deadline: Some(now),
    };
    link.settle(now, settle(None), None, waiters.token());
    link.settle_many(now, vec![settle(None), settle(Some("no"))], None, waiters.token());
    link.flush(now, producer, None, waiters.token());
}

/// Takes the completions.
fn drain(link: &mut Link<Token>, Told { completions: told, .. }: &mut Told) {
    let mut completions = Vec::new();
    link.drain_completions(&mut completions);
    for completion in completions {
        completion.token.redeem();
        match completion.reply {
            Reply::Admitted(Err(refused)) => {
                let (failed, receipt) = *refused;
                receipt.redeem();
                told.push(format!("{failed:?}"));
            }
            // Texts show the first bytes, however many those are.
            Reply::Opened(Err(error)) => told.push(format!("not opened: {:?}", error.kind())),
            Reply::Ready => {}
            reply => told.push(format!("{reply:?}")),
        }
    }
}
