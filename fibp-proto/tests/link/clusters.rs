//! What real clusters do (docs/protocol/clusters.md), and what a link makes of it.

use std::time::Duration;

use fibp_proto::config::Batching;
use fibp_proto::link::Settle;
use fibp_proto::response::ServerError;
use fibp_proto::server::ServerConfig;
use fibp_proto::{Config, Dialect, ErrorKind, Message, Request, Response};

use crate::batching::{frames, oblige};
use crate::harness::{Mode, Sim, config, in_every_mode};
use crate::host::{Act, Host, obliging};

/// Node 3 of a cluster.
fn node() -> Host {
    let mut config = ServerConfig::new([Dialect::Framed]);
    config.node_id = 3;
    Host::Fila(config)
}

/// A main link to a node of a cluster.
fn cluster(config: Config, mode: Mode) -> Sim {
    let mut sim = Sim::requests(config.dialect(Dialect::Framed).no_heartbeat(), mode);
    sim.dialed = Box::new(|_, _| node());
    sim.settle();
    assert!(sim.opened().is_ok());
    sim
}

fn mute(config: Config, mode: Mode) -> Sim {
    let mut sim = cluster(config, mode);
    sim.serve = Box::new(|_, _| Act::Silence);
    sim
}

fn messages(n: usize) -> Vec<Message> {
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
    assert!(!sim.link.wants_write(), "nothing to write until an answer makes room");
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
    let mut sim = Sim::requests(config().dialect(Dialect::Framed).no_heartbeat(), Mode::Whole);
    sim.dialed = Box::new(|_, dial| if dial == 2 { node() } else { Host::framed() });
    sim.settle();
    for (connection, expected) in [(1, 1), (2, 5), (3, 1)] {
        let before = frames(&sim).len();
        let many = sim.enqueue_many(messages(5));
        sim.settle();
        assert!(sim.enqueued_many(many).iter().all(Result::is_ok));
        assert_eq!(frames(&sim).len() - before, expected, "connection {connection}");
        sim.socket().end(crate::host::End::Eof);
        sim.advance_secs(1);
    }
    sim.finish();
}

#[test]
fn messages_asked_again_one_by_one_keep_their_order() {
    let mut sim = cluster(config(), Mode::Whole);
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

/// Refuses every item.
fn refuse(code: u16, text: &str, request: &Request) -> Act {
    let error = || Box::new(ServerError::new(ErrorKind::Server, text).with_code(code));
    Act::Answer(match request {
        Request::Enqueue(items) => Response::Enqueue(items.iter().map(|_| Err(error())).collect()),
        Request::Ack(items) => Response::Ack(items.iter().map(|_| Err(error())).collect()),
        Request::Nack(items) => Response::Nack(items.iter().map(|_| Err(error())).collect()),
        _ => Response::Error(*error()),
    })
}
