//! Acks that a preamble server answers with "message not found", by a client that has not learned whether it is on a
//! cluster (docs/protocol/clusters.md 4): it asks for the list of queues, once per connection.

use std::time::Duration;

use fibp_proto::admin::{QueueInfo, QueueList};
use fibp_proto::response::ServerError;
use fibp_proto::typed::{ListQueues, SetConfig};
use fibp_proto::{Config, Dialect, ErrorKind, Outcome, Request, Response};

use crate::calls::{connected, stats};
use crate::clusters::{cluster_node, cluster_of, leased, no_lease};
use crate::harness::{Asked, Mode, P1, P2, P3, Sim, Token, config, in_every_mode};
use crate::host::{Act, End, Host};

/// A client that has to find out everything, on a server that finds no lease for anything. `list`: what it does when it
/// is asked for its queues.
fn unaware(dialect: Dialect, mode: Mode, list: impl Fn() -> Act + 'static) -> Sim {
    configured(config(), dialect, mode, list)
}

fn configured(config: Config, dialect: Dialect, mode: Mode, list: impl Fn() -> Act + 'static) -> Sim {
    let mut sim = Sim::requests(config.no_heartbeat(), mode);
    sim.dialed = Box::new(move |_, _| Host::of(dialect));
    sim.settle();
    assert!(sim.opened().is_ok());
    sim.serve = Box::new(move |request, _| match request {
        Request::ListQueues => list(),
        _ => no_lease(request),
    });
    sim
}

fn lists(nodes: u32) -> Act {
    Act::Answer(Response::ListQueues(cluster_of(nodes)))
}

/// How often queues were listed.
fn lists_asked(sim: &Sim) -> usize {
    let is_list = |asked: &&Asked| matches!(asked.request, Request::ListQueues);
    sim.asked.iter().filter(is_list).count()
}

/// Acks inside the lease.
fn ack(sim: &mut Sim, id: &str) -> Token {
    let ack = leased(sim, id, Some(5_000));
    sim.settle_one(ack)
}

fn ack_within(sim: &mut Sim, id: &str, ms: u64) -> Token {
    let (ack, token) = (leased(sim, id, Some(60_000)), sim.token());
    sim.machine.settle(sim.now, ack, Some(Duration::from_millis(ms)), token);
    token
}

fn not_found(sim: &Sim, token: Token) -> Outcome {
    let error = sim.settled(token).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MessageNotFound, "{error}");
    assert_eq!(error.server_text(), Some("no lease for message id in queue orders"));
    error.outcome()
}

#[test]
fn an_ack_that_a_preamble_cluster_did_is_done_for_a_client_that_had_not_learned_of_it() {
    for dialect in [P1, P2, P3] {
        in_every_mode(|mode| {
            let mut sim = unaware(dialect, mode, || lists(3));
            let [first, second] = ["a", "b"].map(|id| ack(&mut sim, id));
            sim.settle();
            assert!(sim.settled(first).is_ok() && sim.settled(second).is_ok());
            let later = ack(&mut sim, "c");
            sim.settle();
            assert!(sim.settled(later).is_ok());
            assert_eq!(lists_asked(&sim), 1);
            assert_eq!(sim.shared.stats().settled, 3);
            // The next connection need not ask: it is the same client.
            sim.socket().end(End::Eof);
            sim.advance_secs(1);
            let later = ack(&mut sim, "d");
            sim.settle();
            assert!(sim.settled(later).is_ok());
            assert_eq!(lists_asked(&sim), 1);
            sim
        });
    }
}

#[test]
fn a_single_node_is_asked_once_per_connection_and_believed() {
    for (dialect, nodes) in [(P1, 0), (P2, 0), (P3, 0), (P3, 1)] {
        in_every_mode(|mode| {
            let mut sim = unaware(dialect, mode, move || lists(nodes));
            for connection in 1..=2 {
                let flood: Vec<_> = (0..200).map(|n| ack(&mut sim, &n.to_string())).collect();
                let list = (0..50).map(|n| leased(&sim, &n.to_string(), Some(5_000))).collect();
                let list = sim.settle_many(list);
                sim.settle();
                for token in flood {
                    assert_eq!(not_found(&sim, token), Outcome::Rejected);
                }
                for result in sim.settled_many(list) {
                    let error = result.unwrap_err();
                    assert_eq!(
                        (error.kind(), error.outcome()),
                        (ErrorKind::MessageNotFound, Outcome::Rejected)
                    );
                }
                let later = ack(&mut sim, "later");
                sim.settle();
                assert_eq!(not_found(&sim, later), Outcome::Rejected);
                assert_eq!(lists_asked(&sim), connection);
                sim.socket().end(End::Eof);
                sim.advance_secs(1);
            }
            assert_eq!(sim.shared.stats().settled, 0);
            sim
        });
    }
}

#[test]
fn a_server_that_does_not_say_is_a_single_node() {
    let refusals: [fn() -> Act; 2] = [
        || {
            Act::error(
                ErrorKind::Forbidden,
                "permission denied: key does not have admin permission",
            )
        },
        || Act::error(ErrorKind::Server, "unknown operation 0x13"),
    ];
    for refusal in refusals {
        in_every_mode(|mode| {
            let mut sim = unaware(P3, mode, refusal);
            for _ in 0..3 {
                let ack = ack(&mut sim, "a");
                sim.settle();
                assert_eq!(not_found(&sim, ack), Outcome::Rejected);
            }
            assert_eq!(lists_asked(&sim), 1);
            sim
        });
    }
}

#[test]
fn a_server_whose_revision_stays_unknown_is_a_single_node() {
    in_every_mode(|mode| {
        let mut sim = unaware(P2, mode, || lists(3));
        sim.serve = Box::new(|request, _| match request {
            Request::Redrive { .. } => Act::error(ErrorKind::Forbidden, "permission lookup failed"),
            _ => no_lease(request),
        });
        for _ in 0..2 {
            let ack = ack(&mut sim, "a");
            sim.settle();
            assert_eq!(not_found(&sim, ack), Outcome::Rejected);
        }
        assert_eq!(lists_asked(&sim), 0, "nobody could read the answer");
        assert_eq!(sim.asked.len(), 3, "two acks, one probe: {:?}", sim.asked_ops());
        sim
    });
}

#[test]
fn a_list_of_queues_that_is_too_long_ends_no_connection() {
    in_every_mode(|mode| {
        let mut sim = configured(config().max_frame_size(4096, 4096), P3, mode, || lists(0));
        let queue = |n: usize| QueueInfo::default().name(format!("queue-{n}"));
        let long = QueueList::default().queues((0..500).map(queue).collect::<Vec<_>>());
        sim.serve = Box::new(move |request, _| match request {
            Request::ListQueues => Act::Answer(Response::ListQueues(long.clone())),
            _ => no_lease(request),
        });
        for _ in 0..2 {
            let ack = ack(&mut sim, "a");
            sim.settle();
            assert_eq!(not_found(&sim, ack), Outcome::Rejected);
        }
        assert_eq!((sim.dials.len(), lists_asked(&sim)), (1, 1));
        sim
    });
}

#[test]
fn nothing_is_asked_where_the_answer_would_change_nothing() {
    in_every_mode(|mode| {
        let mut sim = unaware(P3, mode, || lists(3));
        let over = leased(&sim, "a", Some(0));
        let over = sim.settle_one(over);
        let unknown = leased(&sim, "b", None);
        let unknown = sim.settle_one(unknown);
        sim.settle();
        assert_eq!(sim.settled(over).unwrap_err().kind(), ErrorKind::LeaseLost);
        assert_eq!(not_found(&sim, unknown), Outcome::Rejected);
        assert_eq!(lists_asked(&sim), 0);
        sim
    });
    // One that was sent twice is its own witness.
    let mut sim = unaware(P3, Mode::Whole, || lists(3));
    sim.serve = Box::new(|request, connection| match connection {
        1 => Act::Silence,
        _ => no_lease(request),
    });
    let repeated = ack(&mut sim, "a");
    sim.settle();
    sim.socket().end(End::Reset);
    sim.advance_secs(1);
    assert!(sim.settled(repeated).is_ok());
    assert_eq!(lists_asked(&sim), 0);
    sim.finish();
    // The handshake tells.
    let mut sim = connected(config().no_heartbeat(), Mode::Whole, Dialect::Handshake);
    sim.serve = Box::new(|request, _| no_lease(request));
    let single = ack(&mut sim, "a");
    sim.settle();
    assert_eq!(sim.settled(single).unwrap_err().kind(), ErrorKind::MessageNotFound);
    assert_eq!(lists_asked(&sim), 0);
    sim.finish();
}

#[test]
fn a_list_that_the_program_asks_for_answers_the_question() {
    for (nodes, expected) in [(0, Some(Outcome::Rejected)), (3, None)] {
        in_every_mode(|mode| {
            let mut sim = unaware(P3, mode, move || lists(nodes));
            sim.call(ListQueues {});
            sim.settle();
            let ack = ack(&mut sim, "a");
            sim.settle();
            match expected {
                Some(outcome) => assert_eq!(not_found(&sim, ack), outcome),
                None => assert!(sim.settled(ack).is_ok()),
            }
            assert_eq!(lists_asked(&sim), 1);
            sim
        });
    }
}

#[test]
fn the_question_waits_for_the_admin_revision_that_the_program_needs_too() {
    for dialect in [P1, P2, P3] {
        in_every_mode(|mode| {
            let mut sim = unaware(dialect, mode, || lists(3));
            let held = ack(&mut sim, "a");
            let set = sim.call(SetConfig {
                key: "k".to_owned(),
                value: "v".to_owned(),
            });
            sim.settle();
            assert!(sim.settled(held).is_ok());
            assert!(sim.output::<SetConfig>(set).is_ok());
            sim
        });
    }
}

#[test]
fn a_nack_in_doubt_fails_with_what_is_known_of_its_effect() {
    for (nodes, outcome) in [(0, Outcome::Rejected), (3, Outcome::Unknown)] {
        in_every_mode(|mode| {
            let mut sim = unaware(P3, mode, move || lists(nodes));
            let nack = leased(&sim, "a", Some(5_000)).into_nack("why");
            let nack = sim.settle_one(nack);
            sim.settle();
            assert_eq!(not_found(&sim, nack), outcome);
            assert_eq!(lists_asked(&sim), 1);
            sim
        });
    }
}

#[test]
fn a_lease_is_judged_by_when_the_ack_was_answered() {
    in_every_mode(|mode| {
        let mut sim = unaware(P3, mode, || Act::Silence);
        let held = leased(&sim, "a", Some(1_000));
        let held = sim.settle_one(held);
        sim.advance_ms(3_000);
        assert!(sim.is_open(held));
        let question = sim.last_asked();
        sim.answer(&question, &Response::ListQueues(cluster_of(3)));
        sim.settle();
        assert!(sim.settled(held).is_ok(), "it was done inside its lease");
        sim
    });
}

#[test]
fn items_of_one_call_end_each_in_its_own_way() {
    in_every_mode(|mode| {
        let mut sim = unaware(P3, mode, || Act::Silence);
        sim.serve = Box::new(|request, _| match request {
            Request::Ack(items) => {
                let answer = |id: &str| match id {
                    "done" => Ok(()),
                    _ => Err(Box::new(ServerError::new(ErrorKind::MessageNotFound, "no lease"))),
                };
                Act::Answer(Response::Ack(
                    items.iter().map(|item| answer(item.id.as_str())).collect(),
                ))
            }
            Request::ListQueues => Act::Silence,
            request => crate::host::obliging(request),
        });
        let settles = [("x", 5_000), ("done", 5_000), ("y", 5_000), ("over", 0)]
            .map(|(id, ms)| leased(&sim, id, Some(ms)))
            .to_vec();
        let many = sim.settle_many(settles);
        sim.settle();
        assert!(sim.is_open(many));
        let question = sim.last_asked();
        sim.answer(&question, &Response::ListQueues(cluster_of(3)));
        sim.settle();
        let results = sim.settled_many(many);
        let kinds: Vec<_> = results
            .iter()
            .map(|result| result.as_ref().err().map(fibp_proto::Error::kind))
            .collect();
        assert_eq!(kinds, [None, None, None, Some(ErrorKind::LeaseLost)]);
        assert_eq!(sim.shared.stats().settled, 3);
        sim
    });
}

// ---- what comes between the question and its answer ----

#[test]
fn a_deadline_ends_the_wait_with_what_the_server_said() {
    in_every_mode(|mode| {
        let mut sim = unaware(P3, mode, || Act::Silence);
        let short = ack_within(&mut sim, "a", 300);
        let long = ack_within(&mut sim, "b", 2_000);
        sim.advance_ms(299);
        assert!(sim.is_open(short));
        sim.advance_ms(1);
        assert_eq!(not_found(&sim, short), Outcome::Unknown);
        assert!(sim.is_open(long));
        assert_eq!(sim.shared.stats().timeouts, 0, "it was answered");
        sim.advance_ms(1_699);
        assert!(sim.is_open(long));
        sim.advance_ms(1);
        assert_eq!(not_found(&sim, long), Outcome::Unknown);
        // Late, but not too late for others.
        let question = sim.last_asked();
        sim.answer(&question, &Response::ListQueues(cluster_of(3)));
        let later = ack(&mut sim, "c");
        sim.settle();
        assert!(sim.settled(later).is_ok());
        assert_eq!(lists_asked(&sim), 1);
        sim
    });
}

#[test]
fn a_connection_lost_while_asking_leaves_the_question_to_the_next() {
    for (nodes, expected) in [(0, Some(Outcome::Rejected)), (3, None)] {
        in_every_mode(|mode| {
            let mut sim = unaware(P3, mode, || Act::Silence);
            let held = ack(&mut sim, "a");
            sim.settle();
            assert_eq!(lists_asked(&sim), 1);
            sim.serve = Box::new(move |request, _| match request {
                Request::ListQueues => lists(nodes),
                _ => no_lease(request),
            });
            sim.socket().end(End::Reset);
            sim.settle();
            assert!(sim.is_open(held));
            sim.advance_secs(1);
            match expected {
                Some(outcome) => assert_eq!(not_found(&sim, held), outcome),
                None => assert!(sim.settled(held).is_ok()),
            }
            assert_eq!(lists_asked(&sim), 2);
            let acks = sim.asked_ops().iter().filter(|op| *op == "Ack").count();
            assert_eq!(acks, 1, "it is not sent again");
            sim
        });
    }
    // Where there is no other connection, its deadline ends it, or the end of all attempts.
    let mut sim = unaware(P3, Mode::Whole, || Act::Close(End::Reset));
    sim.dialed = Box::new(|_, _| Host::Unreachable);
    let held = ack_within(&mut sim, "a", 700);
    sim.advance_ms(699);
    assert!(sim.is_open(held));
    sim.advance_ms(1);
    assert_eq!(not_found(&sim, held), Outcome::Unknown);
    sim.finish();
}

#[test]
fn a_framed_server_at_the_next_connection_tells_by_its_handshake() {
    let mut sim = unaware(P3, Mode::Whole, || Act::Silence);
    let held = ack(&mut sim, "a");
    sim.settle();
    sim.dialed = Box::new(|_, _| cluster_node(2));
    sim.socket().end(End::Reset);
    sim.advance_secs(5);
    assert!(sim.settled(held).is_ok());
    sim.finish();
}

#[test]
fn what_is_in_doubt_at_a_node_that_is_lost_is_decided_at_the_main_server() {
    let mut sim = Sim::requests(config().no_heartbeat(), Mode::Whole);
    sim.dialed = Box::new(|endpoint, _| match endpoint.host.as_str() {
        "n2" => Host::of(P3),
        _ => cluster_node(1),
    });
    sim.settle();
    assert!(sim.opened().is_ok());
    sim.serve = Box::new(|_, _| {
        let hint = ServerError::new(ErrorKind::NotLeader, "not the leader for this queue")
            .with_code(0x0C)
            .with_metadata(vec![("leader_addr".to_owned(), "n2:1".to_owned())]);
        Act::Answer(Response::Error(hint))
    });
    sim.serve_node = Box::new(|request, _| match request {
        Request::ListQueues => Act::Silence,
        _ => no_lease(request),
    });
    let held = ack(&mut sim, "a");
    sim.settle();
    assert!(sim.is_open(held));
    let asked = sim.asked_nodes.iter().map(|(_, request)| request.op());
    assert_eq!(asked.filter(|op| *op == fibp_proto::request::Op::ListQueues).count(), 1);
    sim.node_socket().end(End::Reset);
    sim.settle();
    assert!(sim.settled(held).is_ok());
    sim.finish();
}

#[test]
fn a_hint_ends_the_wait() {
    in_every_mode(|mode| {
        let mut sim = unaware(P3, mode, || Act::Silence);
        let held = ack(&mut sim, "a");
        sim.settle();
        assert!(sim.is_open(held));
        sim.serve = Box::new(|request, _| match request {
            Request::QueueStats { .. } => Act::error(ErrorKind::NotLeader, "leader_hint:n2:1"),
            _ => no_lease(request),
        });
        sim.call(stats());
        sim.settle();
        assert!(sim.settled(held).is_ok());
        sim
    });
}

#[test]
fn a_close_waits_for_the_answer_as_long_as_it_may() {
    in_every_mode(|mode| {
        let mut sim = unaware(P3, mode, || Act::Silence);
        let held = ack(&mut sim, "a");
        sim.settle();
        let closed = sim.close(1_000);
        sim.advance_ms(500);
        assert!(sim.is_open(closed) && sim.is_open(held));
        let question = sim.last_asked();
        sim.answer(&question, &Response::ListQueues(cluster_of(3)));
        sim.settle();
        assert!(sim.settled(held).is_ok());
        let report = sim.closed(closed);
        assert_eq!((report.flushed, report.failed, report.unknown), (1, 0, 0));
        sim
    });
    in_every_mode(|mode| {
        let mut sim = unaware(P3, mode, || Act::Silence);
        let held = ack(&mut sim, "a");
        sim.settle();
        let closed = sim.close(1_000);
        sim.advance_ms(999);
        assert!(sim.is_open(closed) && sim.is_open(held));
        sim.advance_ms(1);
        assert_eq!(not_found(&sim, held), Outcome::Unknown);
        let report = sim.closed(closed);
        assert_eq!((report.flushed, report.failed, report.unknown), (0, 0, 1));
        sim
    });
}

#[test]
fn a_client_that_is_gone_while_asking_leaves_nobody_waiting() {
    in_every_mode(|mode| {
        let mut sim = unaware(P3, mode, || Act::Silence);
        let held = ack(&mut sim, "a");
        sim.settle();
        sim.machine.abort(sim.now);
        sim.settle();
        assert_eq!(not_found(&sim, held), Outcome::Unknown);
        sim
    });
}

#[test]
fn a_caller_that_goes_away_takes_its_token_with_it() {
    in_every_mode(|mode| {
        let mut sim = unaware(P3, mode, || Act::Silence);
        let (settle, alone) = (leased(&sim, "a", Some(5_000)), sim.token());
        let call = sim.machine.settle(sim.now, settle, None, alone);
        let (settles, many) = (vec![leased(&sim, "b", Some(5_000)); 2], sim.token());
        let calls = sim.machine.settle_many(sim.now, settles, None, many);
        sim.settle();
        for (call, token) in [(call, alone), (calls, many)] {
            assert_eq!(sim.machine.abandon(call), Some(token));
            sim.give_back(token);
            assert_eq!(sim.machine.abandon(call), None);
        }
        let question = sim.last_asked();
        sim.answer(&question, &Response::ListQueues(cluster_of(3)));
        sim.settle();
        assert_eq!(sim.shared.stats().settled, 3, "they are done all the same");
        sim
    });
}

#[test]
fn acks_in_doubt_keep_their_room() {
    in_every_mode(|mode| {
        let mut sim = configured(config().max_in_flight(2, 1 << 20), P3, mode, || Act::Silence);
        let held = ["a", "b"].map(|id| ack(&mut sim, id));
        sim.settle();
        let next = ack(&mut sim, "c");
        sim.settle();
        let acks = sim.asked_ops().iter().filter(|op| *op == "Ack").count();
        assert!(acks <= 2, "the third waits for room");
        let question = sim.last_asked();
        sim.answer(&question, &Response::ListQueues(cluster_of(3)));
        sim.settle();
        assert!(held.iter().all(|ack| sim.settled(*ack).is_ok()));
        assert!(sim.settled(next).is_ok());
        sim
    });
}
