//! Lists travel as one, and are divided and joined on their way: every item gets its own result, in input order.

use std::time::Duration;

use fibp_proto::config::{Batching, Replay};
use fibp_proto::requests::Settle;
use fibp_proto::response::ServerError;
use fibp_proto::{Config, Dialect, ErrorKind, Message, MessageId, Outcome, Request, Response, SendError};

use crate::batching::{frames, mute, oblige};
use crate::calls::connected;
use crate::clusters::cluster;
use crate::harness::{Mode, P1, Sim, Token, config, in_every_mode};
use crate::host::{Act, End, Host, obliging};

/// Messages whose payloads are their places, after a name for the list.
fn list(name: &str, items: usize) -> Vec<Message> {
    (0..items)
        .map(|n| Message::new("orders", format!("{name}{n}")))
        .collect()
}

fn names(name: &str, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("{name}{n}")).collect()
}

fn enqueue_within(sim: &mut Sim, messages: Vec<Message>, ms: Option<u64>) -> (Token, fibp_proto::machine::CallId) {
    let token = sim.token();
    let timeout = ms.map(Duration::from_millis);
    let id = sim.machine.enqueue_many(sim.now, messages, timeout, token);
    (token, id)
}

/// What became of each message of a list: its id, or the error's kind and outcome. Those that failed come back themselves.
fn results(name: &str, results: Vec<Result<MessageId, SendError>>) -> Vec<Result<String, (ErrorKind, Outcome)>> {
    let result = |(n, result): (usize, Result<MessageId, SendError>)| {
        result.map(|id| id.to_string()).map_err(|failed| {
            let error = (failed.kind(), failed.outcome());
            assert_eq!(*failed.message.payload, *format!("{name}{n}").as_bytes());
            error
        })
    };
    results.into_iter().enumerate().map(result).collect()
}

fn accepted(name: &str, range: std::ops::Range<usize>) -> Vec<Result<String, (ErrorKind, Outcome)>> {
    range.map(|n| Ok(format!("of-{name}{n}"))).collect()
}

/// Nothing is charged any more.
#[track_caller]
fn check_room(sim: &Sim) {
    assert_eq!(sim.machine.gauges().queued_bytes, 0);
}

/// Answers everything so far, the last first.
fn oblige_all(sim: &mut Sim) {
    let asked = std::mem::take(&mut sim.asked);
    for asked in asked.iter().rev() {
        oblige(sim, asked);
    }
}

// ---- frames take what there is room for ----

#[test]
fn a_list_longer_than_a_frame_travels_in_several() {
    in_every_mode(|mode| {
        let mut sim = mute(config().batch_max_messages(10), mode);
        let before = sim.enqueue("orders", "before");
        let many = sim.enqueue_many(list("m", 25));
        let after = sim.enqueue("orders", "after");
        sim.settle();
        let sent = frames(&sim);
        assert_eq!(
            sent.iter().map(Vec::len).collect::<Vec<_>>(),
            [10, 10],
            "7 wait for more"
        );
        oblige_all(&mut sim);
        assert!(sim.is_open(many) && sim.is_open(after));
        let sent = [sent, frames(&sim)].concat().concat();
        let expected = [vec!["before".into()], names("m", 0..25), vec!["after".into()]];
        assert_eq!(sent, expected.concat());
        oblige_all(&mut sim);
        assert_eq!(results("m", sim.enqueued_many(many)), accepted("m", 0..25));
        assert!(sim.enqueued(before).is_ok() && sim.enqueued(after).is_ok());
        assert_eq!(sim.shared.stats().messages_confirmed, 27);
        check_room(&sim);
        sim
    });
}

#[test]
fn two_lists_in_one_frame_hear_of_their_own_messages() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        let first = sim.enqueue("orders", "first");
        sim.settle();
        let a = sim.enqueue_many(list("a", 3));
        let alone = sim.enqueue("orders", "alone");
        let b = sim.enqueue_many(list("b", 4));
        let c = sim.enqueue_many(list("c", 4));
        oblige_all(&mut sim);
        assert!(sim.enqueued(first).is_ok());
        let expected = [
            names("a", 0..3),
            vec!["alone".into()],
            names("b", 0..4),
            names("c", 0..4),
        ]
        .concat();
        assert_eq!(frames(&sim), std::slice::from_ref(&expected));
        // The last of one and the first of another are refused, and what is between them is not.
        let verdict = |name: &String| match name.as_str() {
            "a2" | "b0" | "b3" => Err(Box::new(ServerError::queue_not_found("orders"))),
            _ => Ok(MessageId::from(format!("of-{name}"))),
        };
        let asked = sim.last_asked();
        sim.answer(&asked, &Response::Enqueue(expected.iter().map(verdict).collect()));
        sim.settle();
        let refused = || vec![Err((ErrorKind::QueueNotFound, Outcome::Rejected))];
        let expected = [accepted("a", 0..2), refused()].concat();
        assert_eq!(results("a", sim.enqueued_many(a)), expected);
        assert_eq!(sim.enqueued(alone).unwrap().as_str(), "of-alone");
        let expected = [refused(), accepted("b", 1..3), refused()].concat();
        assert_eq!(results("b", sim.enqueued_many(b)), expected);
        assert_eq!(results("c", sim.enqueued_many(c)), accepted("c", 0..4));
        assert_eq!(sim.shared.stats().messages_confirmed, 10);
        check_room(&sim);
        sim
    });
}

#[test]
fn a_list_of_several_queues_is_joined_again() {
    for dialect in [P1, Dialect::Handshake] {
        in_every_mode(|mode| {
            let mut sim = connected(config(), mode, dialect);
            // Stretches of one and of several messages, and a queue that comes twice.
            let queues = ["a", "a", "a", "b", "c", "c", "a", "b", "b"];
            let message = |(n, queue): (usize, &&str)| Message::new(*queue, format!("m{n}"));
            let many = sim.enqueue_many(queues.iter().enumerate().map(message).collect());
            sim.settle();
            assert_eq!(results("m", sim.enqueued_many(many)), accepted("m", 0..queues.len()));
            let mut sent = frames(&sim);
            sent.sort();
            assert_eq!(
                sent,
                [vec!["m0", "m1", "m2", "m6"], vec!["m3", "m7", "m8"], vec!["m4", "m5"]]
            );
            check_room(&sim);
            sim
        });
    }
}

#[test]
fn a_list_takes_the_room_of_its_messages_however_it_is_divided() {
    let queued = |messages: Vec<Message>, answered: usize| {
        let mut sim = mute(config().batch_max_messages(2), Mode::Whole);
        sim.enqueue_many(messages);
        sim.settle();
        let asked: Vec<_> = sim.asked.drain(..answered).collect();
        asked.iter().for_each(|asked| oblige(&mut sim, asked));
        let queued = sim.machine.gauges().queued_bytes;
        sim.finish();
        queued
    };
    let message = |queue: &str| Message::new(queue, "x".repeat(1_000));
    let one = queued(vec![message("a")], 0);
    let of = |queues: &[&str]| queues.iter().map(|queue| message(queue)).collect::<Vec<_>>();
    assert_eq!(queued(of(&["a"; 6]), 0), 6 * one);
    assert_eq!(queued(of(&["a", "a", "b", "c", "c", "a"]), 0), 6 * one);
    assert_eq!(queued(of(&["a"; 6]), 2), 2 * one);
    assert_eq!(queued(of(&["a", "a", "b", "b", "b", "a"]), 1), 4 * one);
}

#[test]
fn without_batching_a_list_shares_no_frame() {
    in_every_mode(|mode| {
        let mut sim = mute(config().batching(Batching::Disabled).batch_max_messages(4), mode);
        let a = sim.enqueue_many(list("a", 6));
        let b = sim.enqueue_many(list("b", 3));
        sim.settle();
        assert_eq!(frames(&sim), [names("a", 0..4), names("a", 4..6), names("b", 0..3)]);
        oblige_all(&mut sim);
        assert_eq!(results("a", sim.enqueued_many(a)), accepted("a", 0..6));
        assert_eq!(results("b", sim.enqueued_many(b)), accepted("b", 0..3));
        sim
    });
}

#[test]
fn what_no_frame_can_hold_leaves_its_list() {
    // One at an end, one in the middle, and several together.
    for large in [
        vec![0],
        vec![2],
        vec![5],
        vec![0, 1, 5],
        vec![1, 2, 4],
        vec![0, 1, 2, 3, 4, 5],
    ] {
        in_every_mode(|mode| {
            let mut sim = connected(config().max_frame_size(4096, 8192), mode, P1);
            let message = |n: usize| match large.contains(&n) {
                true => Message::new("orders", "x".repeat(5_000)),
                false => Message::new("orders", format!("m{n}")),
            };
            let many = sim.enqueue_many((0..6).map(message).collect());
            let after = sim.enqueue("orders", "after");
            sim.settle();
            let left = (0..6).filter(|n| !large.contains(n)).map(|n| format!("m{n}"));
            assert_eq!(frames(&sim), [left.chain(["after".into()]).collect::<Vec<_>>()]);
            for (n, result) in sim.enqueued_many(many).into_iter().enumerate() {
                match result {
                    Ok(id) => assert_eq!(id.as_str(), format!("of-m{n}")),
                    Err(failed) => {
                        assert!(large.contains(&n));
                        let error = (failed.kind(), failed.outcome());
                        assert_eq!(error, (ErrorKind::TooLarge, Outcome::NotSent));
                        assert_eq!(failed.message.payload.len(), 5_000);
                    }
                }
            }
            assert!(sim.enqueued(after).is_ok());
            check_room(&sim);
            sim
        });
    }
}

#[test]
fn a_list_that_waits_for_room_comes_in_whole() {
    in_every_mode(|mode| {
        let mut sim = mute(config().max_in_flight(1, 1 << 20).replay(Replay::Never), mode);
        let first = sim.enqueue_many(list("a", 3));
        let second = sim.enqueue_many(list("b", 3));
        let third = sim.enqueue("orders", "third");
        sim.settle();
        assert_eq!(frames(&sim), [names("a", 0..3)], "one call at a time");
        oblige_all(&mut sim);
        assert_eq!(frames(&sim), [names("b", 0..3)]);
        assert_eq!(results("a", sim.enqueued_many(first)), accepted("a", 0..3));
        oblige_all(&mut sim);
        assert_eq!(results("b", sim.enqueued_many(second)), accepted("b", 0..3));
        oblige_all(&mut sim);
        assert!(sim.enqueued(third).is_ok());
        check_room(&sim);
        sim
    });
}

// ---- lost connections ----

#[test]
fn the_rest_of_a_list_is_replayed() {
    for replay in [Replay::IncludingEnqueue, Replay::SafeOps] {
        in_every_mode(|mode| {
            let mut sim = mute(config().batch_max_messages(10).replay(replay), mode);
            let many = sim.enqueue_many(list("m", 28));
            sim.settle();
            assert_eq!(frames(&sim).concat(), names("m", 0..20));
            let second = sim.last_asked();
            oblige(&mut sim, &second);
            sim.socket().end(End::Eof);
            sim.serve = Box::new(|request, _| obliging(request));
            sim.asked.clear();
            sim.advance_secs(1);
            // The first frame was sent and not answered, the second was answered, the rest was never sent.
            let (again, first) = match replay {
                Replay::IncludingEnqueue => ([names("m", 0..10), names("m", 20..28)].concat(), accepted("m", 0..10)),
                _ => (
                    names("m", 20..28),
                    vec![Err((ErrorKind::Disconnected, Outcome::Unknown)); 10],
                ),
            };
            assert_eq!(frames(&sim).concat(), again);
            let expected = [first, accepted("m", 10..28)].concat();
            assert_eq!(results("m", sim.enqueued_many(many)), expected);
            check_room(&sim);
            sim
        });
    }
}

#[test]
fn a_lost_frame_of_several_lists_is_replayed_as_it_was() {
    in_every_mode(|mode| {
        let config = config().batch_max_messages(7).replay(Replay::IncludingEnqueue);
        let mut sim = mute(config, mode);
        let first = sim.enqueue("orders", "first");
        sim.settle();
        let a = sim.enqueue_many(list("a", 5));
        let alone = sim.enqueue("orders", "alone");
        let b = sim.enqueue_many(list("b", 5));
        sim.settle();
        assert_eq!(frames(&sim).len(), 2);
        sim.socket().end(End::Reset);
        sim.serve = Box::new(|request, _| obliging(request));
        sim.asked.clear();
        sim.advance_secs(1);
        let expected = [
            vec!["first".into()],
            names("a", 0..5),
            vec!["alone".into()],
            names("b", 0..5),
        ];
        assert_eq!(frames(&sim).concat(), expected.concat());
        assert_eq!(frames(&sim).len(), 2, "in as few frames as there may be");
        assert!(sim.enqueued(first).is_ok() && sim.enqueued(alone).is_ok());
        assert_eq!(results("a", sim.enqueued_many(a)), accepted("a", 0..5));
        assert_eq!(results("b", sim.enqueued_many(b)), accepted("b", 0..5));
        check_room(&sim);
        sim
    });
}

#[test]
fn what_was_lost_in_frames_of_one_item_each_shares_a_frame_again() {
    in_every_mode(|mode| {
        let config = config().dialect(Dialect::Handshake).no_heartbeat();
        let mut sim = Sim::requests(config.replay(Replay::IncludingEnqueue), mode);
        let mut node = fibp_proto::server::ServerConfig::new([Dialect::Handshake]);
        node.node_id = 3;
        sim.dialed = Box::new(move |_, dial| {
            if dial == 1 {
                Host::Fila(node.clone())
            } else {
                Host::framed()
            }
        });
        sim.settle();
        let known = sim.enqueue("orders", "known");
        sim.settle();
        assert!(sim.enqueued(known).is_ok());
        sim.asked.clear();
        sim.serve = Box::new(|_, _| Act::Silence);
        let many = sim.enqueue_many(list("m", 9));
        sim.settle();
        assert_eq!(frames(&sim).len(), 9);
        let fourth = sim.asked[3].clone();
        oblige(&mut sim, &fourth);
        sim.socket().end(End::Eof);
        sim.serve = Box::new(|request, _| obliging(request));
        sim.asked.clear();
        sim.advance_secs(1);
        assert_eq!(frames(&sim), [[names("m", 0..3), names("m", 4..9)].concat()]);
        assert_eq!(results("m", sim.enqueued_many(many)), accepted("m", 0..9));
        check_room(&sim);
        sim
    });
}

// ---- callers that leave, deadlines that pass ----

#[test]
fn what_was_not_sent_of_an_abandoned_list_is_withdrawn() {
    in_every_mode(|mode| {
        let mut sim = mute(config().batch_max_messages(10), mode);
        let first = sim.enqueue_many(list("a", 12));
        let (gone, id) = enqueue_within(&mut sim, list("b", 13), None);
        let last = sim.enqueue_many(list("c", 3));
        sim.settle();
        let sent = frames(&sim).concat();
        assert_eq!(sent, [names("a", 0..12), names("b", 0..8)].concat());
        sim.abandon(gone, id);
        sim.settle();
        oblige_all(&mut sim);
        assert_eq!(frames(&sim), [names("c", 0..3)]);
        oblige_all(&mut sim);
        assert_eq!(results("a", sim.enqueued_many(first)), accepted("a", 0..12));
        assert_eq!(results("c", sim.enqueued_many(last)), accepted("c", 0..3));
        check_room(&sim);
        sim
    });
}

#[test]
fn a_list_expires_with_what_is_known_of_each_message() {
    in_every_mode(|mode| {
        let mut sim = mute(config().batch_max_messages(10).request_timeout(None), mode);
        let (many, _) = enqueue_within(&mut sim, list("m", 24), Some(500));
        let kept = sim.enqueue("orders", "kept");
        sim.settle();
        let asked = sim.asked.clone();
        assert_eq!(frames(&sim).concat(), names("m", 0..20));
        oblige(&mut sim, &asked[0]);
        sim.advance_ms(499);
        assert!(sim.is_open(many));
        sim.advance_ms(1);
        let expected = [
            accepted("m", 0..10),
            vec![Err((ErrorKind::Timeout, Outcome::Unknown)); 10],
            vec![Err((ErrorKind::Timeout, Outcome::NotSent)); 4],
        ];
        assert_eq!(results("m", sim.enqueued_many(many)), expected.concat());
        assert_eq!(sim.shared.stats().timeouts, 14);
        // The answer that comes too late frees the way, and is counted for nobody.
        oblige(&mut sim, &asked[1]);
        assert_eq!(frames(&sim)[2..], [["kept"]]);
        let asked = sim.last_asked();
        oblige(&mut sim, &asked);
        assert!(sim.enqueued(kept).is_ok());
        assert_eq!(sim.shared.stats().messages_confirmed, 11);
        check_room(&sim);
        sim
    });
}

#[test]
fn one_of_the_lists_in_a_frame_expires() {
    for refused in [false, true] {
        in_every_mode(|mode| {
            let mut sim = mute(config().request_timeout(None), mode);
            let first = sim.enqueue("orders", "first");
            sim.settle();
            let a = sim.enqueue_many(list("a", 2));
            let (b, _) = enqueue_within(&mut sim, list("b", 3), Some(500));
            let c = sim.enqueue_many(list("c", 2));
            oblige_all(&mut sim);
            assert!(sim.enqueued(first).is_ok());
            let sent = [names("a", 0..2), names("b", 0..3), names("c", 0..2)].concat();
            assert_eq!(frames(&sim), std::slice::from_ref(&sent));
            sim.advance_ms(500);
            assert_eq!(
                results("b", sim.enqueued_many(b)),
                vec![Err((ErrorKind::Timeout, Outcome::Unknown)); 3]
            );
            let verdict = |name: &String| match name.as_str() {
                "b1" | "c1" if refused => Err(Box::new(ServerError::queue_not_found("orders"))),
                _ => Ok(MessageId::from(format!("of-{name}"))),
            };
            let asked = sim.last_asked();
            sim.answer(&asked, &Response::Enqueue(sent.iter().map(verdict).collect()));
            sim.settle();
            assert_eq!(results("a", sim.enqueued_many(a)), accepted("a", 0..2));
            let mut expected = accepted("c", 0..2);
            if refused {
                expected[1] = Err((ErrorKind::QueueNotFound, Outcome::Rejected));
            }
            assert_eq!(results("c", sim.enqueued_many(c)), expected);
            check_room(&sim);
            sim
        });
    }
}

#[test]
fn closing_reports_every_message_of_a_list() {
    in_every_mode(|mode| {
        let mut sim = mute(config().batch_max_messages(10), mode);
        let many = sim.enqueue_many(list("m", 25));
        sim.settle();
        let closed = sim.close(1_000);
        sim.settle();
        assert_eq!(frames(&sim).len(), 3, "a close waits for no more company");
        let asked = sim.asked[0].clone();
        oblige(&mut sim, &asked);
        sim.advance_secs(1);
        let report = sim.closed(closed);
        assert_eq!((report.flushed, report.failed, report.unknown), (10, 0, 15));
        let expected = [
            accepted("m", 0..10),
            vec![Err((ErrorKind::Closed, Outcome::Unknown)); 15],
        ];
        assert_eq!(results("m", sim.enqueued_many(many)), expected.concat());
        sim
    });
}

// ---- clusters ----

fn not_leader(leader: Option<&str>) -> Response {
    let mut error = ServerError::new(ErrorKind::NotLeader, "not the leader for this queue").with_code(0x0C);
    if let Some(leader) = leader {
        error = error.with_metadata(vec![("leader_addr".to_owned(), leader.to_owned())]);
    }
    Response::Error(error)
}

#[test]
fn a_list_moves_to_another_node_and_stays_one() {
    in_every_mode(|mode| {
        let config = Config::new("n1:5555").no_heartbeat().batch_max_messages(10);
        let mut sim = connected(config, mode, Dialect::Handshake);
        sim.dialed = Box::new(|_, _| Host::framed());
        let mut first = true;
        sim.serve = Box::new(move |request, _| match std::mem::take(&mut first) {
            true => obliging(request),
            false => Act::Answer(not_leader(Some("n2:6000"))),
        });
        let many = sim.enqueue_many(list("m", 25));
        sim.settle();
        assert_eq!(results("m", sim.enqueued_many(many)), accepted("m", 0..25));
        let moved: Vec<_> = sim
            .asked_nodes
            .iter()
            .map(|(_, request)| match request {
                Request::Enqueue(messages) => messages.len(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(moved.iter().sum::<usize>(), 15);
        assert!(moved.len() <= 3, "{moved:?}");
        check_room(&sim);
        sim
    });
}

#[test]
fn a_list_for_a_queue_that_is_not_known_yet_is_asked_for_as_one() {
    in_every_mode(|mode| {
        let mut sim = connected(config(), mode, P1);
        let mut refusals = 2;
        sim.serve = Box::new(move |request, _| {
            let Request::Enqueue(messages) = request else {
                return obliging(request);
            };
            if refusals == 0 {
                return obliging(request);
            }
            refusals -= 1;
            let absent = || ServerError::new(ErrorKind::Server, "queue raft group not found: orders").with_code(2);
            Act::Answer(Response::Enqueue(
                messages.iter().map(|_| Err(Box::new(absent()))).collect(),
            ))
        });
        let many = sim.enqueue_many(list("m", 12));
        let after = sim.enqueue("orders", "after");
        sim.advance_secs(2);
        assert_eq!(results("m", sim.enqueued_many(many)), accepted("m", 0..12));
        assert!(sim.enqueued(after).is_ok());
        // Whole, then probes of one message, then the rest.
        let sent = frames(&sim);
        let sizes: Vec<_> = sent.iter().map(Vec::len).collect();
        assert_eq!(sizes, [13, 1, 1, 12], "{sent:?}");
        assert_eq!(sent[2..].concat(), [names("m", 0..12), vec!["after".into()]].concat());
        check_room(&sim);
        sim
    });
}

#[test]
fn a_long_list_in_frames_of_one_message_each() {
    let config = config().max_in_flight(64, 1 << 30);
    let mut sim = cluster(config, Mode::Whole);
    let many = sim.enqueue_many(list("m", 3_000));
    sim.settle();
    assert_eq!(results("m", sim.enqueued_many(many)), accepted("m", 0..3_000));
    assert_eq!(frames(&sim).concat(), names("m", 0..3_000));
    check_room(&sim);
    sim.finish();
}

// ---- acks and nacks ----

/// Acks and nacks whose ids are their places.
fn settles(items: usize, is_nack: impl Fn(usize) -> bool) -> Vec<Settle> {
    (0..items)
        .map(|n| {
            let id = MessageId::from(n.to_string());
            match is_nack(n) {
                true => Settle::nack("orders", &id, "why"),
                false => Settle::ack("orders", &id),
            }
        })
        .collect()
}

/// The ids of every ack and nack frame so far.
fn settled(sim: &Sim) -> Vec<Vec<String>> {
    let ids = |request: &Request| match request {
        Request::Ack(items) => items.iter().map(|item| item.id.to_string()).collect(),
        Request::Nack(items) => items.iter().map(|item| item.id.to_string()).collect(),
        other => panic!("{other:?}"),
    };
    sim.asked.iter().map(|asked| ids(&asked.request)).collect()
}

#[test]
fn a_list_of_acks_is_divided_replayed_and_joined() {
    in_every_mode(|mode| {
        let mut sim = mute(config().batch_max_messages(10), mode);
        let many = sim.settle_many(settles(28, |_| false));
        sim.settle();
        assert_eq!(settled(&sim).concat(), names("", 0..20));
        let first = sim.asked[0].clone();
        let verdict = |n: usize| match n {
            3 => Err(Box::new(ServerError::message_not_found("orders", "3"))),
            _ => Ok(()),
        };
        sim.answer(&first, &Response::Ack((0..10).map(verdict).collect()));
        sim.settle();
        sim.socket().end(End::Eof);
        sim.serve = Box::new(|request, _| obliging(request));
        sim.asked.clear();
        sim.advance_secs(1);
        assert_eq!(settled(&sim).concat(), names("", 10..28), "acks are safe to repeat");
        for (n, result) in sim.settled_many(many).into_iter().enumerate() {
            assert_eq!(
                result.err().map(|error| error.kind()),
                (n == 3).then_some(ErrorKind::MessageNotFound)
            );
        }
        assert_eq!(sim.shared.stats().settled, 27);
        check_room(&sim);
        sim
    });
}

#[test]
fn acks_and_nacks_of_one_list_go_in_stretches() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        let many = sim.settle_many(settles(9, |n| (3..5).contains(&n)));
        sim.settle();
        let mut sent = settled(&sim);
        sent.sort();
        assert_eq!(sent, [[names("", 0..3), names("", 5..9)].concat(), names("", 3..5)]);
        oblige_all(&mut sim);
        assert!(sim.settled_many(many).iter().all(Result::is_ok));
        check_room(&sim);
        sim
    });
}

#[test]
fn abandoned_and_expired_lists_of_acks() {
    in_every_mode(|mode| {
        let mut sim = mute(config().batch_max_messages(10).request_timeout(None), mode);
        let (gone, expires) = (sim.token(), sim.token());
        let id = sim.machine.settle_many(sim.now, settles(15, |_| false), None, gone);
        let timeout = Some(Duration::from_millis(500));
        sim.machine
            .settle_many(sim.now, settles(12, |_| false), timeout, expires);
        sim.settle();
        assert_eq!(settled(&sim).concat(), [names("", 0..15), names("", 0..5)].concat());
        sim.abandon(gone, id);
        sim.advance_ms(500);
        let results = sim.settled_many(expires);
        let outcomes: Vec<_> = results
            .into_iter()
            .map(|result| result.unwrap_err().outcome())
            .collect();
        let expected = [vec![Outcome::Unknown; 5], vec![Outcome::NotSent; 7]];
        assert_eq!(outcomes, expected.concat());
        oblige_all(&mut sim);
        assert!(sim.asked.is_empty());
        check_room(&sim);
        sim
    });
}
