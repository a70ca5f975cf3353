//! Everything at once, at random: whatever happens, every token comes back exactly once and nothing spins.

use std::time::Duration;

use fibp_proto::config::{Backoff, Batching, ConsumerSettings, OnFull, ProducerSettings, Reconnect, Replay};
use fibp_proto::fault::FaultKind;
use fibp_proto::machine::CallId;
use fibp_proto::requests::Settle;
use fibp_proto::response::ServerError;
use fibp_proto::typed::{GetQueueStats, ListQueues, Redrive};
use fibp_proto::{AdminRevision, Config, Dialect, ErrorKind, Message, MessageId, Response};

use crate::harness::{Mode, Sim, TestMachine, Token, config};
use crate::host::{Act, End, Host, obliging};
use crate::pair::random::Random;

const DIALECTS: [Dialect; 3] = [
    Dialect::Preamble(AdminRevision::Protobuf),
    Dialect::Preamble(AdminRevision::Binary),
    Dialect::Handshake,
];

fn any_config(rng: &mut Random, dialect: Dialect) -> Config {
    let batching = [
        Batching::Auto,
        Batching::Disabled,
        Batching::Linger {
            delay: Duration::from_millis(30),
            max_messages: 4,
        },
    ][rng.below(3)];
    let replay = [Replay::Never, Replay::SafeOps, Replay::IncludingEnqueue][rng.below(3)];
    let on_full = [OnFull::Wait, OnFull::Fail][rng.below(2)];
    let mut config = config()
        .batching(batching)
        .batch_max_messages(1 + rng.below(9))
        .replay(replay)
        .max_in_flight(1 + rng.below(8), 2_000)
        .on_full(on_full)
        .max_frame_size(4_096, 8_192)
        .request_timeout((rng.below(4) > 0).then_some(Duration::from_secs(2)))
        .heartbeat(Duration::from_secs(1), 2);
    if rng.below(2) == 0 {
        config = config.dialect(dialect);
    }
    if rng.below(2) == 0 {
        config = config.api_key("key");
    }
    if rng.below(6) == 0 {
        config = config.reconnect(Reconnect::Never);
    } else if rng.below(4) == 0 {
        config = config.reconnect(Reconnect::Backoff(Backoff {
            initial: Duration::from_millis(10),
            max: Duration::from_millis(500),
            max_attempts: Some(4),
        }));
    }
    config
}

/// A server of moods.
fn moods<M: TestMachine>(sim: &mut Sim<M>, seed: u64, dialect: Dialect) {
    let mut rng = Random::new(seed);
    sim.dialed = Box::new(move |_, _| match rng.below(12) {
        0 => Host::Refused(FaultKind::Refused),
        1 => Host::Unreachable,
        2 => Host::Raw(Vec::new(), Some(End::Reset)),
        3 => Host::Raw(b"FIBP\x01\0\0\0\0\x07\0\x01".to_vec(), None),
        _ => Host::of(dialect),
    });
    let mut rng = Random::new(seed ^ 0xABCD);
    sim.serve = Box::new(move |request, _| match rng.below(20) {
        0 => Act::Silence,
        1 => Act::Close(End::Eof),
        2 => Act::Close(End::Reset),
        3 => Act::error(ErrorKind::NotLeader, "no leader available"),
        4 => Act::error(ErrorKind::Forbidden, "permission denied"),
        5 => Act::AnswerAndClose(Response::Error(ServerError::new(ErrorKind::Server, "storage error: x"))),
        _ => obliging(request),
    });
}

fn submit(sim: &mut Sim, rng: &mut Random, calls: &mut Vec<(Token, CallId)>) {
    let timeout = [None, Some(50), Some(700)][rng.below(3)];
    let queue = ["orders", "other", "third"][rng.below(3)];
    let size = [1, 20, 600, 5_000][rng.below(4)];
    match rng.below(6) {
        0 => calls.push(sim.call_within(ListQueues {}, timeout)),
        1 => calls.push(sim.call_within(GetQueueStats { queue: queue.into() }, timeout)),
        2 => calls.push(sim.call_within(
            Redrive {
                dlq: "orders.dlq".into(),
                count: 1,
            },
            timeout,
        )),
        3 => calls.push(sim.enqueue_within(queue, &"p".repeat(size), timeout)),
        4 => {
            let token = sim.token();
            let messages = (0..rng.below(30)).map(|n| Message::new(queue, n.to_string())).collect();
            let id = sim
                .machine
                .enqueue_many(sim.now, messages, timeout.map(Duration::from_millis), token);
            calls.push((token, id));
        }
        _ => {
            let token = sim.token();
            let settles = (0..rng.below(12))
                .map(|n| {
                    let id = MessageId::from(n.to_string());
                    match n % 2 {
                        0 => Settle::ack(queue, &id),
                        _ => Settle::nack(queue, &id, "why"),
                    }
                })
                .collect();
            let id = sim
                .machine
                .settle_many(sim.now, settles, timeout.map(Duration::from_millis), token);
            calls.push((token, id));
        }
    }
}

fn requests(seed: u64) {
    let mut rng = Random::new(seed);
    let dialect = DIALECTS[rng.below(3)];
    let config = any_config(&mut rng, dialect);
    let mut sim = Sim::requests(config, Mode::Chunks(seed));
    moods(&mut sim, seed, dialect);
    let producer = sim.producer(ProducerSettings::default().buffer(700));
    let mut calls = Vec::new();
    for _ in 0..60 {
        match rng.below(14) {
            0..5 => submit(&mut sim, &mut rng, &mut calls),
            5 => {
                let (admitted, _, id) = sim.send(producer, "m");
                calls.push((admitted, id));
            }
            6 => {
                sim.flush(producer);
            }
            7 => {
                if !calls.is_empty() {
                    let (token, id) = calls.swap_remove(rng.below(calls.len()));
                    if let Some(back) = sim.machine.abandon(id) {
                        // Of a send, it may be the receipt.
                        assert!(back == token || back == token + 1);
                        sim.give_back(back);
                        if let Some(sender) = sim.senders.remove(&token) {
                            sim.give_back(sender.receipt);
                        }
                    }
                }
            }
            8 => {
                if let Some(socket) = &mut sim.socket {
                    socket.budget = [None, Some(0), Some(13)][rng.below(3)];
                }
            }
            9 => {
                if let Some(socket) = &mut sim.socket {
                    socket.cut_at = Some(socket.received + rng.below(40));
                    socket.cut_end = [End::Eof, End::Reset][rng.below(2)];
                }
            }
            10 => {
                let noise: Vec<u8> = (0..rng.below(9))
                    .map(|_| u8::try_from(rng.below(256)).unwrap())
                    .collect();
                if let Some(socket) = &mut sim.socket
                    && rng.below(4) == 0
                {
                    socket.say(&noise);
                }
            }
            11 => {
                sim.settle();
            }
            _ => {
                let ms = [0, 1, 40, 500, 3_000][rng.below(5)];
                sim.advance_ms(ms);
            }
        }
    }
    if rng.below(2) == 0 {
        let closing = sim.close([0, 100, 5_000][rng.below(3)]);
        sim.advance_secs(6);
        assert!(!sim.is_open(closing), "closed by its deadline");
    }
    if rng.below(2) == 0 {
        sim.machine.close_producer(producer);
    }
    sim.finish();
}

fn consumer(seed: u64) {
    let mut rng = Random::new(seed);
    let dialect = DIALECTS[rng.below(3)];
    let settings = ConsumerSettings::default()
        .prefetch(1 + rng.below(6))
        .idle_resubscribe(Duration::from_secs(3))
        .resubscribe(rng.below(4) > 0);
    let mut sim = Sim::consumer(any_config(&mut rng, dialect), Mode::Chunks(seed), settings);
    moods(&mut sim, seed, dialect);
    let mut last = 0;
    for n in 0..80 {
        match rng.below(10) {
            0..4 => {
                let consuming = sim.in_flight() == 0 && sim.socket.as_ref().is_some_and(|socket| socket.is_open());
                if consuming {
                    let payloads: Vec<_> = (0..1 + rng.below(4)).map(|k| format!("{n}-{k}")).collect();
                    sim.push(&payloads.iter().map(String::as_str).collect::<Vec<_>>());
                }
            }
            4 | 5 => {
                let max = 1 + rng.below(4);
                for lease in sim.take(max) {
                    assert_eq!(lease.sequence, last + 1, "none is skipped");
                    last = lease.sequence;
                }
            }
            6 => {
                sim.wait_delivery();
            }
            7 => {
                if let Some(socket) = &mut sim.socket {
                    socket.cut_at = Some(socket.received + rng.below(60));
                }
            }
            _ => {
                let ms = [0, 10, 400, 4_000][rng.below(4)];
                sim.advance_ms(ms);
            }
        }
    }
    if rng.below(2) == 0 {
        let drained = sim.token();
        sim.machine.stop_consuming(sim.now, drained);
        sim.advance_secs(2);
        assert!(!sim.is_open(drained));
        while let [lease, ..] = &sim.take(1)[..] {
            assert_eq!(lease.sequence, last + 1);
            last = lease.sequence;
        }
        assert!(sim.machine.poll_end().is_some(), "it has ended");
    }
    sim.finish();
}

#[test]
fn requests_under_every_mishap() {
    for seed in 0..400 {
        let result = std::panic::catch_unwind(|| requests(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}

#[test]
fn consumers_under_every_mishap() {
    for seed in 0..400 {
        let result = std::panic::catch_unwind(|| consumer(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}
