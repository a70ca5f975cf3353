//! The order of messages of one queue, on clusters that do not know the queue yet or lead it elsewhere
//! (docs/protocol/clusters.md 2).

use std::cell::RefCell;
use std::rc::Rc;

use fibp_proto::config::{Batching, ProducerSettings};
use fibp_proto::response::ServerError;
use fibp_proto::typed::ListQueues;
use fibp_proto::{Dialect, ErrorKind, Message, MessageId, Request, Response};

use crate::calls::connected;
use crate::clusters::{ABSENT, cluster, cluster_of, messages};
use crate::harness::{Mode, P3, Sim, config, in_every_mode};
use crate::host::{Act, End, obliging};

/// What servers accepted, in their order.
type Accepted = Rc<RefCell<Vec<String>>>;

/// Answers each message of a request with what `judge` says of it: `None` is Ok.
fn judged(request: &Request, accepted: &Accepted, mut judge: impl FnMut() -> Option<ServerError>) -> Act {
    let Request::Enqueue(messages) = request else {
        return obliging(request);
    };
    let one = |message: &Message| {
        if let Some(error) = judge() {
            return Err(Box::new(error));
        }
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        accepted.borrow_mut().push(text.clone());
        Ok(MessageId::from(text))
    };
    Act::Answer(Response::Enqueue(messages.iter().map(one).collect()))
}

fn not_yet(text: &str, code: u16) -> ServerError {
    let kind = if code == 0x01 {
        ErrorKind::QueueNotFound
    } else {
        ErrorKind::Server
    };
    ServerError::new(kind, text).with_code(code)
}

/// What a node says that forwards nothing.
fn led_by_n2() -> Act {
    let error = ServerError::new(ErrorKind::NotLeader, "not the leader for this queue").with_code(0x0C);
    Act::Answer(Response::Error(
        error.with_metadata(vec![("leader_addr".to_owned(), "n2:1".to_owned())]),
    ))
}

fn numbers(n: usize) -> Vec<String> {
    (0..n).map(|n| n.to_string()).collect()
}

/// A node that refuses so many messages before it knows the queue.
fn late_node(dialect: Dialect, mode: Mode, refusals: usize) -> (Sim, Accepted) {
    let config = config().batch_max_messages(7);
    let mut sim = match dialect {
        Dialect::Handshake => cluster(config, mode),
        _ => connected(config.no_heartbeat(), mode, dialect),
    };
    let accepted = Accepted::default();
    let seen = Rc::clone(&accepted);
    let mut left = refusals;
    let code = if dialect == Dialect::Handshake { 0x0C } else { 2 };
    sim.serve = Box::new(move |request, _| {
        judged(request, &seen, || {
            let refused = left > 0;
            left = left.saturating_sub(1);
            refused.then(|| not_yet("no leader available", code))
        })
    });
    (sim, accepted)
}

/// A preamble node says what it is in a list of queues.
fn get_known_as_cluster(sim: &mut Sim) {
    let serve = std::mem::replace(
        &mut sim.serve,
        Box::new(|_, _| Act::Answer(Response::ListQueues(cluster_of(3)))),
    );
    let list = sim.call(ListQueues {});
    sim.settle();
    assert!(sim.response(list).is_ok());
    sim.serve = serve;
}

#[test]
fn a_queue_that_was_just_created_gets_a_list_in_its_order() {
    for refusals in [1, 2, 3] {
        in_every_mode(|mode| {
            let (mut sim, accepted) = late_node(Dialect::Handshake, mode, refusals);
            let many = sim.enqueue_many(messages(50));
            let single = sim.enqueue("orders", "50");
            sim.advance_secs(1);
            assert!(sim.enqueued_many(many).iter().all(Result::is_ok));
            assert!(sim.enqueued(single).is_ok());
            assert_eq!(*accepted.borrow(), numbers(51), "{refusals} refusals");
            sim
        });
    }
}

#[test]
fn a_queue_that_was_just_created_gets_a_producers_messages_in_their_order() {
    for batching in [Batching::Auto, Batching::Disabled] {
        let (mut sim, accepted) = late_node(Dialect::Handshake, Mode::Whole, 1);
        let producer = sim.producer(ProducerSettings::default().batching(batching));
        let receipts: Vec<_> = (0..20).map(|n| sim.send(producer, &n.to_string()).1).collect();
        sim.advance_secs(1);
        for receipt in receipts {
            assert!(sim.enqueued(receipt).is_ok());
        }
        assert_eq!(*accepted.borrow(), numbers(20));
        sim.finish();
    }
}

#[test]
fn a_preamble_cluster_that_is_known_gets_them_in_order_too() {
    let (mut sim, accepted) = late_node(P3, Mode::Whole, 1);
    get_known_as_cluster(&mut sim);
    let many = sim.enqueue_many(messages(50));
    sim.advance_secs(1);
    assert!(sim.enqueued_many(many).iter().all(Result::is_ok));
    assert_eq!(*accepted.borrow(), numbers(50));
    sim.finish();
}

#[test]
fn what_was_due_with_the_probe_lingers_no_longer() {
    let linger = Batching::Linger {
        delay: std::time::Duration::MAX,
        max_messages: 5,
    };
    let (mut sim, accepted) = late_node(P3, Mode::Whole, 0);
    get_known_as_cluster(&mut sim);
    let producer = sim.producer(ProducerSettings::default().batching(linger));
    let receipts: Vec<_> = (0..5).map(|n| sim.send(producer, &n.to_string()).1).collect();
    sim.advance_secs(1);
    for receipt in receipts {
        assert!(sim.enqueued(receipt).is_ok());
    }
    assert_eq!(*accepted.borrow(), numbers(5));
    sim.finish();
}

#[test]
fn what_is_refused_for_good_holds_nothing_up() {
    let patience = config().settings().queue_ready_timeout;
    let mut sim = cluster(config(), Mode::Whole);
    sim.serve = Box::new(|request, _| judged(request, &Accepted::default(), || Some(not_yet(ABSENT, 0x01))));
    let many = sim.enqueue_many(messages(100));
    sim.advance(patience + std::time::Duration::from_millis(1));
    for failed in sim.enqueued_many(many) {
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::QueueNotFound);
    }
    sim.finish();
}

#[test]
fn once_a_queue_is_known_frames_do_not_wait_for_answers() {
    let (mut sim, _) = late_node(Dialect::Handshake, Mode::Whole, 0);
    let first = sim.enqueue("orders", "first");
    sim.settle();
    assert!(sim.enqueued(first).is_ok());
    sim.serve = Box::new(|_, _| Act::Silence);
    let other = sim.enqueue("others", "other");
    sim.enqueue_many(messages(50));
    sim.settle();
    assert_eq!(sim.asked.len(), 52);
    assert!(sim.is_open(other));
    sim.enqueue("others", "waits");
    sim.settle();
    assert_eq!(sim.asked.len(), 52, "each queue has to be known");
    sim.finish();
}

#[test]
fn a_list_follows_its_first_message_to_the_leader() {
    let accepted = Accepted::default();
    let mut main = cluster(config(), Mode::Whole);
    let mut refused = false;
    let seen = Rc::clone(&accepted);
    // The main server takes over what it refused at first, as a new leader does.
    main.serve = Box::new(move |request, _| match std::mem::replace(&mut refused, true) {
        false => led_by_n2(),
        true => judged(request, &seen, || None),
    });
    let seen = Rc::clone(&accepted);
    main.serve_node = Box::new(move |request, _| judged(request, &seen, || None));
    let many = main.enqueue_many(messages(20));
    main.settle();
    let later = main.enqueue("orders", "20");
    main.advance_secs(1);
    assert!(main.enqueued_many(many).iter().all(Result::is_ok));
    assert!(main.enqueued(later).is_ok());
    assert_eq!(*accepted.borrow(), numbers(21));
    assert_eq!(main.asked_nodes.len(), 21, "all of them at the leader");
    main.finish();
}

#[test]
fn a_list_comes_back_from_a_stale_leader_in_order() {
    let accepted = Accepted::default();
    let mut main = cluster(config(), Mode::Whole);
    let mut refused = false;
    let seen = Rc::clone(&accepted);
    main.serve = Box::new(move |request, _| match std::mem::replace(&mut refused, true) {
        false => led_by_n2(),
        true => judged(request, &seen, || None),
    });
    let mut first = true;
    let seen = Rc::clone(&accepted);
    main.serve_node = Box::new(move |request, _| {
        judged(request, &seen, || {
            let error = ServerError::new(ErrorKind::NotLeader, "not the leader for this queue").with_code(0x0C);
            std::mem::take(&mut first).then_some(error)
        })
    });
    let many = main.enqueue_many(messages(20));
    main.advance_secs(1);
    assert!(main.enqueued_many(many).iter().all(Result::is_ok));
    assert_eq!(*accepted.borrow(), numbers(20));
    main.finish();
}

#[test]
fn a_new_connection_has_to_show_that_it_knows_the_queue() {
    let (mut sim, accepted) = late_node(Dialect::Handshake, Mode::Whole, 0);
    let first = sim.enqueue("orders", "first");
    sim.settle();
    assert!(sim.enqueued(first).is_ok());
    sim.socket().end(End::Eof);
    sim.settle();
    let seen = Rc::clone(&accepted);
    let mut refusals = 1;
    sim.serve = Box::new(move |request, _| {
        judged(request, &seen, || {
            let refused = refusals > 0;
            refusals = 0;
            refused.then(|| not_yet(ABSENT, 0x01))
        })
    });
    let many = sim.enqueue_many(messages(20));
    sim.advance_secs(2);
    assert!(sim.enqueued_many(many).iter().all(Result::is_ok));
    assert_eq!(accepted.borrow()[1..], numbers(20));
    sim.finish();
}
