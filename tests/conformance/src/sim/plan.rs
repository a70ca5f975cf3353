//! What a seed decides before a run begins.

use std::time::Duration;

use fibp_proto::config::{
    Backoff, Batching, Config, ConsumerSettings, Credit, Expired, OnFull, ProducerSettings, Reconnect, Replay,
};
use fibp_proto::simulation::{Defect, TestHooks};
use fibp_proto::tls::Tls;
use fibp_proto::{AdminRevision, Dialect, Endpoint};

use super::network::Weather;
use super::pair::random::Random;
use super::security;

/// The port of the first node; the others follow.
const FIRST_PORT: u16 = 6001;

/// A run, before it begins.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) server: Dialect,
    pub(super) client: Dialect,
    pub(super) nodes: usize,
    pub(super) queues: usize,
    pub(super) clients: usize,
    pub(super) consumers: usize,
    pub(super) key: bool,
    /// Nodes refer requests to the leader instead of passing them on, as the framed dialect allows.
    pub(super) refers: bool,
    /// When a node comes back, leaders can write nothing any more until they are restarted.
    pub(super) sticks: bool,
    pub(super) credit_loss: Option<bool>,
    pub(super) deliveries_per_frame: usize,
    pub(super) leases_kept: bool,
    pub(super) visibility: Duration,
    /// How long faults happen and users have ideas.
    pub(super) storm: Duration,
    /// Between two ideas of a user.
    pub(super) pause: usize,
    /// Between two faults, in milliseconds.
    pub(super) calm: usize,
    pub(super) messages: usize,
    pub(super) largest: usize,
    pub(super) weather: Weather,
    pub(super) tls: Option<Secure>,
    pub(super) hooks: TestHooks,
}

/// How servers speak TLS.
#[derive(Debug, Clone, Copy)]
pub(super) struct Secure {
    /// They choose the dialect by ALPN.
    pub(super) alpn: bool,
    /// They announce the end of a connection.
    pub(super) close_notify: bool,
}

impl Plan {
    pub(super) fn new(random: &mut Random, defect: Option<Defect>) -> Self {
        let server = random
            .pick(&[
                Dialect::Preamble(AdminRevision::Protobuf),
                Dialect::Preamble(AdminRevision::ProtobufRenumbered),
                Dialect::Preamble(AdminRevision::Binary),
                Dialect::Handshake,
                Dialect::HandshakeEarly,
            ])
            .unwrap_or(Dialect::Handshake);
        let crowded = random.chance(3);
        let queues = if crowded {
            random.between(18, 22)
        } else {
            random.between(1, 3)
        };
        let nodes = match crowded {
            // More leaders than a client keeps connections to.
            true => random.between(18, 22),
            false if random.chance(60) => 1,
            false => random.between(2, 3),
        };
        let largest = random.pick(&[50, 300, 3000, 30_000]).unwrap_or(50);
        let mut hooks = TestHooks::default().lowest_free_ids(random.chance(50));
        if !hooks.lowest_free_ids && random.chance(50) {
            let left = u32::try_from(random.spread(50)).unwrap_or(1);
            hooks = hooks.first_id(u32::MAX - left);
        }
        let framed = matches!(server, Dialect::Handshake | Dialect::HandshakeEarly);
        // Nothing tells one revision of the framed dialect from the other before it is too late.
        let told = server == Dialect::HandshakeEarly || random.chance(40);
        Self {
            server,
            client: if told { server } else { Dialect::Auto },
            nodes,
            queues,
            clients: random.between(1, 2),
            consumers: random.between(queues, queues + 2),
            key: nodes == 1 && random.chance(30),
            refers: framed && (crowded || random.chance(40)),
            sticks: random.chance(10),
            credit_loss: random.pick(&[None, Some(false), Some(true)]).flatten(),
            deliveries_per_frame: if random.chance(50) { 1 } else { random.spread(20) },
            leases_kept: random.chance(80),
            visibility: random.millis(1500, 6000),
            storm: random.millis(1000, 12_000),
            pause: random.pick(&[2, 20, 100, 400]).unwrap_or(20),
            calm: random.pick(&[100, 400, 1500, 6000]).unwrap_or(400),
            messages: random.between(20, 300),
            largest,
            weather: Weather {
                latency: random.millis(1, 60),
                capacity: random.pick(&[300, 4000, 64_000]).unwrap_or(4000),
                portion: random.pick(&[7, 200, 3000, 64_000]).unwrap_or(200).max(largest / 100),
            },
            tls: random.chance(25).then(|| Secure {
                alpn: random.chance(70),
                close_notify: random.chance(30),
            }),
            hooks: match defect {
                Some(defect) => hooks.defect(defect),
                None => hooks,
            },
        }
    }

    pub(super) fn endpoint(node: usize) -> Endpoint {
        Endpoint {
            host: "127.0.0.1".to_owned(),
            port: FIRST_PORT.saturating_add(u16::try_from(node).unwrap_or(0)),
        }
    }

    /// A client's settings.
    pub(super) fn config(&self, random: &mut Random) -> Config {
        let listed = random.between(1, self.nodes);
        let addresses: Vec<String> = (0..listed).map(|node| Self::endpoint(node).to_string()).collect();
        let max_bytes = random.pick(&[200, 3000, 100_000]).unwrap_or(3000);
        let initial = random.millis(1, 100);
        let mut config = Config::new(addresses.join(","))
            .dialect(self.client)
            .connect_timeout(random.millis(300, 5000))
            .request_timeout(random.millis(100, 8000))
            .reconnect(if random.chance(95) {
                Reconnect::Backoff(Backoff {
                    initial,
                    max: initial * 10,
                    max_attempts: random.chance(10).then(|| attempts(random)),
                })
            } else {
                Reconnect::Never
            })
            .max_in_flight(random.spread(64), random.between(500, 100_000))
            .on_full(if random.chance(80) { OnFull::Wait } else { OnFull::Fail })
            .replay(
                random
                    .pick(&[Replay::Never, Replay::SafeOps, Replay::IncludingEnqueue])
                    .unwrap_or_default(),
            )
            .batching(batching(random))
            .batch_max_messages(random.spread(100))
            .batch_max_bytes(max_bytes)
            .buffer(max_bytes + random.below(100_000))
            .max_redirects(u32::try_from(random.between(3, 8)).unwrap_or(3));
        config = if random.chance(80) {
            config.heartbeat(
                random.millis(300, 3000),
                u32::try_from(random.between(1, 3)).unwrap_or(1),
            )
        } else {
            config.no_heartbeat()
        };
        if self.tls.is_some() {
            config = config.tls(Tls::ca_pem(security::authority().unwrap_or_default()));
        }
        if random.chance(10) {
            config = config.request_timeout(None);
        }
        if random.chance(20) {
            // Longer requests are refused, or go on in further frames.
            let send = u32::try_from(random.between(1000, 20_000)).unwrap_or(1000);
            config = config.max_frame_size(send, 64 * 1024 * 1024);
        }
        if self.key {
            config = config.api_key("simulated-key");
        }
        config
    }

    pub(super) fn producer(random: &mut Random) -> ProducerSettings {
        let max_bytes = random.pick(&[200, 3000, 100_000]).unwrap_or(3000);
        ProducerSettings::default()
            .batching(batching(random))
            .max_messages(random.spread(100))
            .max_bytes(max_bytes)
            .buffer(random.spread(20_000))
            .on_full(if random.chance(80) { OnFull::Wait } else { OnFull::Fail })
    }

    pub(super) fn consumer(&self, random: &mut Random) -> ConsumerSettings {
        // A leader that goes away without a word is noticed by silence alone.
        let silence = (self.nodes > 1 || random.chance(50)).then(|| random.millis(1500, 8000));
        ConsumerSettings::default()
            .prefetch(random.spread(200))
            .credit(
                random
                    .pick(&[Credit::Auto, Credit::Standing, Credit::Window])
                    .unwrap_or_default(),
            )
            .visibility_timeout(self.visibility)
            // What was received is followed to its delivery.
            .expired(Expired::Deliver)
            .idle_resubscribe(silence)
            .resubscribe(random.chance(90))
    }
}

fn attempts(random: &mut Random) -> u32 {
    u32::try_from(random.between(1, 6)).unwrap_or(1)
}

fn batching(random: &mut Random) -> Batching {
    match random.below(3) {
        0 => Batching::Auto,
        1 => Batching::Disabled,
        _ => Batching::Linger {
            delay: random.millis(1, 300),
            max_messages: random.spread(50),
        },
    }
}
