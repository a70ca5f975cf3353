//! What real clusters do (docs/protocol/clusters.md), and what a client makes of it.

use std::time::Duration;

use fibp_proto::admin::QueueList;
use fibp_proto::config::{Batching, ConsumerSettings};
use fibp_proto::machine::{ChannelId, Machine};
use fibp_proto::requests::Settle;
use fibp_proto::response::ServerError;
use fibp_proto::server::ServerConfig;
use fibp_proto::{Config, Dialect, ErrorKind, Message, Outcome, Request, Response};

use crate::batching::{frames, oblige};
use crate::calls::{connected, stats};
use crate::harness::{ConsumerSim, Mode, P1, P2, P3, Sim, config, in_every_mode};
use crate::host::{Act, End, Host, obliging};

/// Node 3 of a cluster.
fn node() -> Host {
    cluster_node(3)
}

pub(crate) fn cluster_node(id: u64) -> Host {
    let mut config = ServerConfig::new([Dialect::Handshake]);
    config.node_id = id;
    Host::Fila(config)
}

/// A main connection to a node of a cluster.
pub(crate) fn cluster(config: Config, mode: Mode) -> Sim {
    let mut sim = Sim::requests(config.dialect(Dialect::Handshake).no_heartbeat(), mode);
    sim.dialed = Box::new(|_, _| node());
    sim.settle();
    assert!(sim.opened().is_ok());
    sim
}

/// A node that knows the queue `orders`, and falls silent.
fn mute(config: Config, mode: Mode) -> Sim {
    let mut sim = cluster(config, mode);
    get_known(&mut sim);
    sim.serve = Box::new(|_, _| Act::Silence);
    sim
}

/// Has the node accept a message of `orders`, so that the following ones need not wait for each other's answers.
fn get_known(sim: &mut Sim) {
    let first = sim.enqueue("orders", "first");
    sim.settle();
    assert!(sim.enqueued(first).is_ok());
    sim.asked.clear();
}

pub(crate) fn messages(n: usize) -> Vec<Message> {
    (0..n).map(|n| Message::new("orders", n.to_string())).collect()
}

/// The ids of every ack and nack frame so far.
fn settles(sim: &Sim) -> Vec<Vec<String>> {
    sim.asked
        .iter()
        .filter_map(|asked| match &asked.request {
            Request::Ack(items) => Some(items.iter().map(|item| item.id.to_string()).collect()),
            Request::Nack(items) => Some(items.iter().map(|item| item.id.to_string()).collect()),
            _ => None,
        })
        .collect()
}

// ---- one item per queue and frame ----

#[test]
fn a_frame_to_a_cluster_holds_one_message_of_a_queue() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        let many = sim.enqueue_many(messages(50));
        let single = sim.enqueue("orders", "single");
        sim.settle();
        let sent = frames(&sim);
        assert!(sent.iter().all(|frame| frame.len() == 1), "{sent:?}");
        assert_eq!(sent.len(), 51, "all in flight at once");
        for asked in sim.asked.clone().iter().rev() {
            oblige(&mut sim, asked);
        }
        let ids: Vec<_> = sim
            .enqueued_many(many)
            .into_iter()
            .map(|id| id.unwrap().to_string())
            .collect();
        let expected: Vec<_> = (0..50).map(|n| format!("of-{n}")).collect();
        assert_eq!(ids, expected);
        assert_eq!(sim.enqueued(single).unwrap().as_str(), "of-single");
        sim
    });
}

#[test]
fn frames_of_one_item_do_not_linger() {
    let linger = Batching::Linger {
        delay: Duration::from_secs(1),
        max_messages: 100,
    };
    let mut sim = mute(config().batching(linger), Mode::Whole);
    sim.enqueue_many(messages(3));
    sim.settle();
    assert_eq!(frames(&sim).len(), 3);
    sim.finish();
}

#[test]
fn a_frame_to_a_cluster_holds_one_ack_or_nack() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        let settles_of = |nack: bool| {
            (0..20).map(move |n| match nack {
                false => Settle::ack("orders", &format!("a{n}").into()),
                true => Settle::nack("orders", &format!("n{n}").into(), "why"),
            })
        };
        let many = sim.settle_many(settles_of(false).chain(settles_of(true)).collect());
        sim.settle();
        let sent = settles(&sim);
        assert!(sent.iter().all(|frame| frame.len() == 1), "{sent:?}");
        assert_eq!(sent.len(), 40);
        for asked in sim.asked.clone() {
            oblige(&mut sim, &asked);
        }
        assert!(sim.settled_many(many).iter().all(Result::is_ok));
        sim
    });
}

#[test]
fn frames_in_flight_to_a_cluster_are_bounded() {
    let mut sim = mute(config().max_in_flight(4, 1 << 20), Mode::Whole);
    let many = sim.enqueue_many(messages(10));
    sim.settle();
    assert_eq!(frames(&sim).len(), 4);
    assert!(
        !sim.machine.wants_write(ChannelId::MAIN),
        "nothing to write until an answer makes room"
    );
    for n in 0..10 {
        assert_eq!(frames(&sim).len(), (n + 4).min(10));
        let asked = sim.asked[n].clone();
        oblige(&mut sim, &asked);
    }
    assert!(sim.enqueued_many(many).iter().all(Result::is_ok));
    assert_eq!(
        frames(&sim).concat(),
        (0..10).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    sim.finish();
}

#[test]
fn what_each_connection_announces_decides_how_items_share_frames() {
    let mut sim = Sim::requests(config().dialect(Dialect::Handshake).no_heartbeat(), Mode::Whole);
    sim.dialed = Box::new(|_, dial| if dial == 2 { node() } else { Host::framed() });
    sim.settle();
    for (connection, expected) in [(1, 1), (2, 5), (3, 1)] {
        let before = frames(&sim).len();
        let many = sim.enqueue_many(messages(5));
        sim.settle();
        assert!(sim.enqueued_many(many).iter().all(Result::is_ok));
        assert_eq!(frames(&sim).len() - before, expected, "connection {connection}");
        sim.socket().end(End::Eof);
        sim.advance_secs(1);
    }
    sim.finish();
}

#[test]
fn messages_asked_again_one_by_one_keep_their_order() {
    let mut sim = cluster(config(), Mode::Whole);
    get_known(&mut sim);
    let mut refusals = 10;
    sim.serve = Box::new(move |request, _| {
        if refusals == 0 {
            return obliging(request);
        }
        refusals -= 1;
        refuse(0x0C, "no leader available", request)
    });
    let many = sim.enqueue_many(messages(10));
    sim.advance_secs(1);
    assert!(sim.enqueued_many(many).iter().all(Result::is_ok));
    let sent = frames(&sim).concat();
    let in_order: Vec<_> = (0..10).map(|n| n.to_string()).collect();
    assert_eq!(sent, [in_order.clone(), in_order].concat());
    sim.finish();
}

// ---- a queue that nodes do not know yet ----

pub(crate) const ABSENT: &str = "queue raft group not found";

/// What nodes say of a queue that was just created, and the code: of an item, and of the same in an Error frame.
fn refusals(dialect: Dialect) -> [(u16, &'static str); 3] {
    let (absent, other) = if dialect == Dialect::Handshake {
        (0x01, 0x0C)
    } else {
        (2, 2)
    };
    [
        (absent, ABSENT),
        (other, "node not ready for this queue — retry on another node or wait"),
        (other, "no leader available"),
    ]
}

fn node_of(config: Config, mode: Mode, dialect: Dialect) -> Sim {
    if dialect == Dialect::Handshake {
        cluster(config, mode)
    } else {
        connected(config.no_heartbeat(), mode, dialect)
    }
}

#[test]
fn a_new_queue_is_asked_for_until_every_node_knows_it() {
    for dialect in [P3, Dialect::Handshake] {
        for (code, text) in refusals(dialect) {
            in_every_mode(|mode| {
                let mut sim = node_of(config(), mode, dialect);
                let mut left = 4;
                sim.serve = Box::new(move |request, _| {
                    if left > 0 {
                        left -= 1;
                        return refuse(code, text, request);
                    }
                    obliging(request)
                });
                let message = sim.enqueue("orders", "m");
                let stats = sim.call(stats());
                let ack = sim.ack("id");
                sim.advance_secs(1);
                assert!(sim.enqueued(message).is_ok(), "{text}");
                assert!(sim.response(stats).is_ok(), "{text}");
                assert!(sim.settled(ack).is_ok(), "{text}");
                sim
            });
        }
    }
}

#[test]
fn a_queue_that_does_not_exist_is_asked_for_as_long_as_configured() {
    for dialect in [P3, Dialect::Handshake] {
        let (code, text) = refusals(dialect)[0];
        for (patience, config) in [
            (2_000, config()),
            (300, config().queue_ready_timeout(Duration::from_millis(300))),
            (0, config().queue_ready_timeout(Duration::ZERO)),
        ] {
            let mut sim = node_of(config, Mode::Whole, dialect);
            sim.serve = Box::new(move |request, _| refuse(code, text, request));
            let message = sim.enqueue("orders", "m");
            let stats = sim.call(stats());
            if patience > 0 {
                sim.advance_ms(patience - 100);
                assert!(sim.is_open(message) && sim.is_open(stats));
                sim.advance_ms(200);
            }
            sim.settle();
            let failed = sim.enqueued(message).unwrap_err();
            assert_eq!(failed.kind(), ErrorKind::QueueNotFound);
            assert_eq!(failed.error.server_text(), Some(text));
            assert_eq!(sim.response(stats).unwrap_err().kind(), ErrorKind::QueueNotFound);
            assert!(sim.asked.len() < 100, "{}", sim.asked.len());
            sim.finish();
        }
        // The server's answer says more than a timeout.
        let mut sim = node_of(config().request_timeout(Duration::from_secs(1)), Mode::Whole, dialect);
        sim.serve = Box::new(move |request, _| refuse(code, text, request));
        let message = sim.enqueue("orders", "m");
        sim.advance_secs(1);
        assert_eq!(sim.enqueued(message).unwrap_err().kind(), ErrorKind::QueueNotFound);
        sim.finish();
    }
}

#[test]
fn a_single_node_that_does_not_know_a_queue_is_believed() {
    for (dialect, code, text) in [
        (P3, 1, "orders"),
        (P3, 1, ABSENT),
        (P1, 1, "orders"),
        (Dialect::Handshake, 0x01, ""),
    ] {
        let mut sim = connected(config().no_heartbeat(), Mode::Whole, dialect);
        sim.serve = Box::new(move |request, _| match request {
            Request::QueueStats { .. } => {
                Act::error(ErrorKind::QueueNotFound, "invalid payload: queue not found: orders")
            }
            _ => refuse(code, text, request),
        });
        let message = sim.enqueue("orders", "m");
        let stats = sim.call(stats());
        sim.settle();
        assert_eq!(sim.enqueued(message).unwrap_err().kind(), ErrorKind::QueueNotFound);
        assert_eq!(sim.response(stats).unwrap_err().kind(), ErrorKind::QueueNotFound);
        sim.finish();
    }
}

fn consumer(dialect: Dialect) -> ConsumerSim {
    let config = Config::new("n1:1,n2:1,n3:1").dialect(dialect).no_heartbeat();
    let mut sim = Sim::consumer(config, Mode::Whole, ConsumerSettings::default());
    sim.dialed = Box::new(move |_, _| {
        if dialect == Dialect::Handshake {
            node()
        } else {
            Host::of(dialect)
        }
    });
    sim
}

#[test]
fn a_consumer_waits_for_a_new_queue() {
    for dialect in [P3, Dialect::Handshake] {
        for (code, text) in refusals(dialect) {
            let mut sim = consumer(dialect);
            sim.serve = Box::new(move |request, connection| {
                if connection < 5 {
                    return consume_error(dialect, code, text);
                }
                obliging(request)
            });
            sim.advance_secs(2);
            assert!(sim.opened().is_ok(), "{text}");
            sim.finish();
        }
        let (code, text) = refusals(dialect)[0];
        let mut sim = consumer(dialect);
        sim.serve = Box::new(move |_, _| consume_error(dialect, code, text));
        sim.advance_ms(1_500);
        assert!(sim.is_open(sim.opened), "it may be new");
        sim.advance_ms(3_000);
        assert_eq!(sim.opened().unwrap_err().kind(), ErrorKind::QueueNotFound);
        sim.finish();
    }
}

// ---- acks ----

/// An ack whose lease has `ms` left, if any is known.
pub(crate) fn leased(sim: &Sim, id: &str, ms: Option<u64>) -> Settle {
    let mut settle = Settle::ack("orders", &id.into());
    settle.lease_deadline = ms.map(|ms| sim.now + Duration::from_millis(ms));
    settle
}

/// Refuses acks and nacks as the leader of a queue does.
pub(crate) fn no_lease(request: &Request) -> Act {
    match request {
        Request::Ack(_) | Request::Nack(_) => {
            let error = || {
                let text = "no lease for message id in queue orders";
                Err(Box::new(ServerError::new(ErrorKind::MessageNotFound, text)))
            };
            Act::Answer(match request {
                Request::Ack(items) => Response::Ack(items.iter().map(|_| error()).collect()),
                Request::Nack(items) => Response::Nack(items.iter().map(|_| error()).collect()),
                _ => unreachable!(),
            })
        }
        _ => obliging(request),
    }
}

#[test]
fn an_ack_that_a_cluster_answers_not_found_inside_its_lease_is_done() {
    in_every_mode(|mode| {
        let mut sim = cluster(config(), mode);
        sim.serve = Box::new(|request, _| no_lease(request));
        let settles = [Some(1), Some(0), None].map(|ms| leased(&sim, "id", ms));
        let [held, over, unknown] = settles.clone().map(|settle| sim.settle_one(settle));
        let nack = Settle {
            nack: Some("why".to_owned()),
            ..settles[0].clone()
        };
        let nack = sim.settle_one(nack);
        let many = sim.settle_many(settles[..2].to_vec());
        sim.settle();
        assert!(sim.settled(held).is_ok());
        assert_eq!(sim.settled(over).unwrap_err().kind(), ErrorKind::LeaseLost);
        assert_eq!(sim.settled(unknown).unwrap_err().kind(), ErrorKind::MessageNotFound);
        assert_eq!(sim.settled(nack).unwrap_err().kind(), ErrorKind::MessageNotFound);
        let many = sim.settled_many(many);
        assert!(many[0].is_ok());
        assert_eq!(many[1].as_ref().unwrap_err().kind(), ErrorKind::LeaseLost);
        assert_eq!(sim.shared.stats().settled, 2, "those that are done");
        sim
    });
}

#[test]
fn a_preamble_cluster_is_known_by_what_its_nodes_say() {
    for says in [
        ServerError::new(ErrorKind::NotLeader, "leader_hint:n2:1"),
        ServerError::new(ErrorKind::Server, ABSENT),
    ] {
        let mut sim = connected(config().no_heartbeat(), Mode::Whole, P3);
        sim.serve = Box::new(move |request, _| match request {
            Request::QueueStats { .. } => Act::Answer(Response::Error(says.clone())),
            _ => no_lease(request),
        });
        let before = leased(&sim, "id", Some(1_000));
        let before = sim.settle_one(before);
        sim.settle();
        assert_eq!(
            sim.settled(before).unwrap_err().kind(),
            ErrorKind::MessageNotFound,
            "its list of queues speaks of no cluster"
        );
        sim.call(stats());
        sim.settle();
        let after = leased(&sim, "id", Some(1_000));
        let after = sim.settle_one(after);
        sim.settle();
        assert!(sim.settled(after).is_ok());
    }
}

pub(crate) fn cluster_of(nodes: u32) -> QueueList {
    QueueList::default().cluster_node_count(nodes)
}

#[test]
fn an_ack_after_its_lease_is_lost_in_every_dialect() {
    for dialect in [P1, P2, P3, Dialect::Handshake, Dialect::HandshakeEarly] {
        let mut sim = connected(config().no_heartbeat(), Mode::Whole, dialect);
        sim.serve = Box::new(|request, _| no_lease(request));
        let settles = [Some(0), Some(1)].map(|ms| leased(&sim, "id", ms));
        let [over, held] = settles.map(|settle| sim.settle_one(settle));
        sim.settle();
        let lost = sim.settled(over).unwrap_err();
        assert_eq!((lost.kind(), lost.outcome()), (ErrorKind::LeaseLost, Outcome::Rejected));
        assert_eq!(sim.settled(held).unwrap_err().kind(), ErrorKind::MessageNotFound);
        assert_eq!(sim.shared.stats().settled, 0);
        sim.finish();
    }
}

#[test]
fn a_repeated_ack_is_done_only_inside_its_lease() {
    for (lease, done) in [(5_000, true), (500, false)] {
        let mut sim = connected(config().no_heartbeat(), Mode::Whole, P1);
        sim.serve = Box::new(|request, connection| match connection {
            1 => Act::Silence,
            _ => no_lease(request),
        });
        let ack = leased(&sim, "id", Some(lease));
        let ack = sim.settle_one(ack);
        sim.advance_ms(600);
        sim.socket().end(End::Reset);
        sim.advance_secs(1);
        match sim.settled(ack) {
            Ok(()) => assert!(done),
            Err(error) => {
                assert!(!done, "{error}");
                assert_eq!(
                    (error.kind(), error.outcome()),
                    (ErrorKind::LeaseLost, Outcome::Unknown)
                );
            }
        }
        sim.finish();
    }
}

#[test]
fn acks_stay_on_the_main_link_whatever_leader_was_learned() {
    let mut main = cluster(config(), Mode::Whole);
    main.serve = Box::new(|request, _| match request {
        Request::Enqueue(_) => Act::Answer(Response::Error(
            ServerError::new(ErrorKind::NotLeader, "not the leader for this queue")
                .with_code(0x0C)
                .with_metadata(vec![("leader_addr".to_owned(), "n2:1".to_owned())]),
        )),
        _ => obliging(request),
    });
    main.serve_node = Box::new(|_, _| Act::Silence);
    let message = main.enqueue("orders", "m");
    main.settle();
    assert_eq!(main.asked_nodes.len(), 1, "the message goes to its leader");
    let ack = main.ack("id");
    let nack = main.settle_one(Settle::nack("orders", &"id".into(), "why"));
    let many = main.settle_many(vec![Settle::ack("orders", &"a".into())]);
    main.settle();
    assert_eq!(main.asked_nodes.len(), 1, "the others do not");
    assert!(main.settled(ack).is_ok() && main.settled(nack).is_ok());
    assert!(main.settled_many(many)[0].is_ok());
    assert!(main.is_open(message));
}

/// Refuses every item, or the whole request where it has none.
fn refuse(code: u16, text: &str, request: &Request) -> Act {
    let kind = match code {
        0x01 => ErrorKind::QueueNotFound,
        _ => ErrorKind::Server,
    };
    let error = || Box::new(ServerError::new(kind, text).with_code(code));
    Act::Answer(match request {
        Request::Enqueue(items) => Response::Enqueue(items.iter().map(|_| Err(error())).collect()),
        Request::Ack(items) => Response::Ack(items.iter().map(|_| Err(error())).collect()),
        Request::Nack(items) => Response::Nack(items.iter().map(|_| Err(error())).collect()),
        _ => Response::Error(*error()),
    })
}

fn consume_error(dialect: Dialect, code: u16, text: &str) -> Act {
    let error = ServerError::new(ErrorKind::Server, text);
    let code = (dialect == Dialect::Handshake).then_some(code);
    Act::Answer(Response::Error(match code {
        Some(code) => error.with_code(code),
        None => error,
    }))
}
