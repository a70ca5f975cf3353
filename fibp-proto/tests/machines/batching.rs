//! What shares a frame, and when it goes out.

use std::time::Duration;

use fibp_proto::config::Batching;
use fibp_proto::requests::Settle;
use fibp_proto::response::ServerError;
use fibp_proto::{Config, Dialect, ErrorKind, Message, MessageId, Outcome, Request, Response};

use crate::calls::connected;
use crate::harness::{Asked, Mode, P1, Sim, Token, config, in_every_mode};
use crate::host::{Act, obliging};

/// A server that answers when the test says so.
pub(crate) fn mute(config: Config, mode: Mode) -> Sim {
    let mut sim = connected(config.no_heartbeat(), mode, P1);
    sim.serve = Box::new(|_, _| Act::Silence);
    sim
}

/// The payloads of every enqueue frame so far.
pub(crate) fn frames(sim: &Sim) -> Vec<Vec<String>> {
    sim.asked
        .iter()
        .filter_map(|asked| match &asked.request {
            Request::Enqueue(messages) => Some(
                messages
                    .iter()
                    .map(|message| String::from_utf8_lossy(&message.payload).into_owned())
                    .collect(),
            ),
            _ => None,
        })
        .collect()
}

fn sizes(sim: &Sim) -> Vec<usize> {
    frames(sim).iter().map(Vec::len).collect()
}

pub(crate) fn oblige(sim: &mut Sim, asked: &Asked) {
    if let Act::Answer(response) = obliging(&asked.request) {
        sim.answer(asked, &response);
    }
    sim.settle();
}

fn enqueue_all(sim: &mut Sim, names: std::ops::Range<usize>) -> Vec<Token> {
    names.map(|n| sim.enqueue("orders", &n.to_string())).collect()
}

#[test]
fn auto_sends_the_first_at_once_and_gathers_while_it_is_unanswered() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        let first = sim.enqueue("orders", "0");
        sim.settle();
        assert_eq!(frames(&sim), [["0"]], "no delay when nothing is in flight");
        let rest = enqueue_all(&mut sim, 1..50);
        sim.advance_secs(1);
        assert_eq!(sizes(&sim), [1], "they gather");
        let asked = sim.last_asked();
        oblige(&mut sim, &asked);
        assert_eq!(sizes(&sim), [1, 49]);
        assert!(sim.enqueued(first).is_ok());
        let asked = sim.last_asked();
        oblige(&mut sim, &asked);
        for (n, token) in rest.into_iter().enumerate() {
            assert_eq!(sim.enqueued(token).unwrap().as_str(), format!("of-{}", n + 1));
        }
        assert_eq!(sim.shared.stats().enqueue_frames, 2);
        assert_eq!(sim.shared.stats().messages_confirmed, 50);
        sim
    });
}

/// How many messages or acks each frame had.
fn frame_sizes(sim: &Sim) -> Vec<usize> {
    let size = |asked: &Asked| match &asked.request {
        Request::Enqueue(messages) => messages.len(),
        Request::Ack(items) => items.len(),
        other => panic!("{other:?}"),
    };
    sim.asked.iter().map(size).collect()
}

/// One enqueue or ack after another, each with a turn of the driver.
fn submit_each(sim: &mut Sim, acks: bool, names: std::ops::Range<usize>) -> Vec<Token> {
    let submit = |sim: &mut Sim, name: usize| {
        let name = name.to_string();
        if acks {
            sim.ack(&name)
        } else {
            sim.enqueue("orders", &name)
        }
    };
    names
        .map(|name| {
            let token = submit(sim, name);
            sim.settle();
            token
        })
        .collect()
}

#[test]
fn few_callers_do_not_wait_for_one_another() {
    for acks in [false, true] {
        in_every_mode(|mode| {
            let mut sim = mute(config(), mode);
            submit_each(&mut sim, acks, 0..8);
            assert_eq!(frame_sizes(&sim), [1; 8], "eight are few");
            // Each asks again when it is answered, as callers do.
            for round in 0..5 {
                for caller in 0..8 {
                    let asked = sim.asked[round * 8 + caller].clone();
                    oblige(&mut sim, &asked);
                    submit_each(&mut sim, acks, 100..101);
                }
            }
            assert_eq!(frame_sizes(&sim), [1; 48]);
            sim
        });
    }
}

#[test]
fn beyond_eight_messages_callers_share_frames() {
    for acks in [false, true] {
        in_every_mode(|mode| {
            let mut sim = mute(config(), mode);
            submit_each(&mut sim, acks, 0..64);
            assert_eq!(frame_sizes(&sim), [1; 8], "the others gather");
            let first: Vec<_> = sim.asked.clone();
            for asked in &first[..7] {
                oblige(&mut sim, asked);
            }
            assert_eq!(sim.asked.len(), 8, "one is still unanswered");
            oblige(&mut sim, &first[7]);
            assert_eq!(frame_sizes(&sim)[8..], [56]);
            submit_each(&mut sim, acks, 64..72);
            assert_eq!(sim.asked.len(), 9, "with many in flight nobody hurries");
            let asked = sim.last_asked();
            oblige(&mut sim, &asked);
            assert_eq!(frame_sizes(&sim)[9..], [8], "few are left");
            submit_each(&mut sim, acks, 72..73);
            assert_eq!(sim.asked.len(), 10);
            let asked = sim.last_asked();
            oblige(&mut sim, &asked);
            assert_eq!(frame_sizes(&sim)[10..], [1]);
            sim
        });
    }
}

#[test]
fn those_who_gathered_go_when_enough_of_them_leave() {
    let mut sim = mute(config(), Mode::Whole);
    submit_each(&mut sim, false, 0..8);
    let (token, id) = sim.enqueue_within("orders", "gone", None);
    sim.enqueue("orders", "kept");
    sim.settle();
    assert_eq!(sizes(&sim), [1; 8]);
    sim.abandon(token, id);
    sim.settle();
    assert_eq!(sizes(&sim), [1; 8], "nine are left");
    let asked = sim.asked[3].clone();
    oblige(&mut sim, &asked);
    assert_eq!(frames(&sim)[8..], [["kept"]]);
    sim.finish();
}

#[test]
fn calls_of_one_turn_share_a_frame() {
    let mut sim = mute(config(), Mode::Whole);
    enqueue_all(&mut sim, 0..64);
    sim.settle();
    assert_eq!(sizes(&sim), [64]);
    sim.finish();
}

#[test]
fn a_full_frame_never_waits() {
    in_every_mode(|mode| {
        let mut sim = mute(config().batch_max_messages(10), mode);
        sim.enqueue("orders", "x");
        sim.settle();
        enqueue_all(&mut sim, 0..25);
        sim.settle();
        assert_eq!(sizes(&sim), [1, 10, 10], "the partial one waits");
        sim
    });
}

#[test]
fn bytes_fill_a_frame_too() {
    let mut sim = mute(config().batch_max_bytes(1_000), Mode::Whole);
    sim.enqueue("orders", "x");
    sim.settle();
    for _ in 0..6 {
        sim.enqueue("orders", &"y".repeat(400));
    }
    sim.settle();
    assert!(sizes(&sim).len() > 1, "{:?}", sizes(&sim));
    assert!(sizes(&sim).iter().all(|size| *size <= 2), "{:?}", sizes(&sim));
    let large = sim.enqueue("large", &"z".repeat(50_000));
    sim.settle();
    assert_eq!(
        sizes(&sim).last(),
        Some(&1),
        "one larger message has a frame of its own"
    );
    let asked = sim.last_asked();
    oblige(&mut sim, &asked);
    assert!(sim.enqueued(large).is_ok());
    sim.finish();
}

#[test]
fn frames_hold_128_kib_unless_told_otherwise() {
    let mut sim = mute(config(), Mode::Whole);
    sim.enqueue("orders", "x");
    sim.settle();
    for _ in 0..300 {
        sim.enqueue("orders", &"y".repeat(1_024));
    }
    sim.settle();
    let full = &sizes(&sim)[1..];
    assert_eq!(full.len(), 2, "{full:?}");
    assert!(full.iter().all(|size| (110..=128).contains(size)), "{full:?}");
    sim.finish();
}

#[test]
fn lingering_waits_for_its_delay_or_enough_company() {
    in_every_mode(|mode| {
        let linger = Batching::Linger {
            delay: Duration::from_millis(20),
            max_messages: 5,
        };
        let mut sim = mute(config().batching(linger), mode);
        enqueue_all(&mut sim, 0..2);
        sim.advance_ms(19);
        assert_eq!(sizes(&sim), Vec::<usize>::new());
        enqueue_all(&mut sim, 2..3);
        sim.advance_ms(1);
        assert_eq!(sizes(&sim), [3], "by the first one's delay");
        enqueue_all(&mut sim, 3..8);
        sim.settle();
        assert_eq!(sizes(&sim), [3, 5], "enough company");
        sim
    });
}

#[test]
fn lingering_for_longer_than_clocks_go_waits_for_company() {
    let linger = Batching::Linger {
        delay: Duration::from_secs(3_600),
        max_messages: 3,
    };
    let mut sim = mute(config().batching(linger).request_timeout(None), Mode::Whole);
    enqueue_all(&mut sim, 0..2);
    sim.advance_secs(60);
    assert!(sim.asked.is_empty());
    enqueue_all(&mut sim, 2..3);
    sim.settle();
    assert_eq!(sizes(&sim), [3]);
    sim.finish();
}

#[test]
fn without_batching_each_call_has_its_frame() {
    in_every_mode(|mode| {
        let mut sim = mute(config().batching(Batching::Disabled), mode);
        enqueue_all(&mut sim, 0..3);
        let messages = (0..4).map(|n| Message::new("orders", n.to_string())).collect();
        sim.enqueue_many(messages);
        sim.settle();
        assert_eq!(sizes(&sim), [1, 1, 1, 4]);
        sim
    });
}

#[test]
fn order_per_queue_is_kept() {
    in_every_mode(|mode| {
        let mut sim = connected(config().batch_max_messages(7), mode, P1);
        for round in 0..5 {
            for n in 0..10 {
                sim.enqueue(["a", "b"][n % 2], &format!("{round}{n}"));
            }
            if round % 2 == 0 {
                sim.settle();
            }
        }
        sim.settle();
        for queue in ["a", "b"] {
            let order: Vec<_> = sim
                .asked
                .iter()
                .filter_map(|asked| match &asked.request {
                    Request::Enqueue(messages) => Some(messages.clone()),
                    _ => None,
                })
                .flatten()
                .filter(|message| &*message.queue == queue)
                .map(|message| message.payload)
                .collect();
            assert_eq!(order.len(), 25);
            assert!(order.is_sorted(), "{queue}: {order:?}");
        }
        sim
    });
}

#[test]
fn one_queues_failure_touches_no_other() {
    in_every_mode(|mode| {
        let mut sim = connected(config(), mode, P1);
        sim.serve = Box::new(|request, _| match request {
            Request::Enqueue(messages) if &*messages[0].queue == "missing" => Act::Answer(Response::Enqueue(
                messages
                    .iter()
                    .map(|_| {
                        Err(Box::new(
                            ServerError::new(ErrorKind::QueueNotFound, "missing").with_code(1),
                        ))
                    })
                    .collect(),
            )),
            Request::Enqueue(messages) if &*messages[0].queue == "forbidden" => Act::error(
                ErrorKind::Forbidden,
                "permission denied: key does not have produce permission on queue \"forbidden\"",
            ),
            _ => obliging(request),
        });
        let missing = sim.enqueue("missing", "m");
        let fine = sim.enqueue("orders", "o");
        let forbidden = [sim.enqueue("forbidden", "f1"), sim.enqueue("forbidden", "f2")];
        sim.settle();
        assert_eq!(sim.enqueued(fine).unwrap().as_str(), "of-o");
        let failed = sim.enqueued(missing).unwrap_err();
        assert_eq!(
            (failed.kind(), failed.outcome()),
            (ErrorKind::QueueNotFound, Outcome::Rejected)
        );
        assert_eq!(failed.error.server_code(), Some(1));
        for (token, payload) in forbidden.into_iter().zip(["f1", "f2"]) {
            let failed = sim.enqueued(token).unwrap_err();
            assert_eq!(
                (failed.kind(), failed.outcome()),
                (ErrorKind::Forbidden, Outcome::Rejected)
            );
            assert_eq!(&*failed.message.payload, payload.as_bytes(), "the message comes back");
        }
        sim
    });
}

#[test]
fn many_queues_at_once_with_results_in_input_order() {
    for dialect in [P1, Dialect::Handshake] {
        in_every_mode(|mode| {
            let mut sim = connected(config(), mode, dialect);
            let messages = (0..300)
                .map(|n| Message::new(format!("q{}", n % 7), n.to_string()))
                .collect();
            let many = sim.enqueue_many(messages);
            sim.settle();
            for (n, result) in sim.enqueued_many(many).into_iter().enumerate() {
                assert_eq!(result.unwrap().as_str(), format!("of-{n}"));
            }
            sim
        });
    }
}

#[test]
fn queues_do_not_wait_for_one_another() {
    let mut sim = mute(config(), Mode::Whole);
    let messages = (0..20).map(|n| Message::new(format!("q{n}"), "m")).collect();
    let many = sim.enqueue_many(messages);
    sim.settle();
    assert_eq!(sim.asked.len(), 20, "all are on their way before one is answered");
    let asked = std::mem::take(&mut sim.asked);
    for asked in asked.iter().rev() {
        assert!(sim.is_open(many));
        oblige(&mut sim, asked);
    }
    assert!(sim.enqueued_many(many).iter().all(Result::is_ok));
    sim.finish();
}

#[test]
fn an_empty_list_is_done_at_once() {
    let mut sim = mute(config(), Mode::Whole);
    let many = sim.enqueue_many(Vec::new());
    let settles = sim.token();
    sim.machine.settle_many(sim.now, Vec::new(), None, settles);
    sim.settle();
    assert!(sim.enqueued_many(many).is_empty());
    assert!(sim.settled_many(settles).is_empty());
    sim.finish();
}

#[test]
fn fewer_results_than_messages() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        let many = sim.enqueue_many((0..3).map(|n| Message::new("orders", n.to_string())).collect());
        sim.settle();
        let asked = sim.last_asked();
        sim.answer(&asked, &Response::Enqueue(vec![Ok("id".into())]));
        sim.settle();
        let results = sim.enqueued_many(many);
        assert_eq!(results[0].as_ref().unwrap().as_str(), "id");
        for (n, result) in results.iter().enumerate().skip(1) {
            let failed = result.as_ref().unwrap_err();
            assert_eq!(
                (failed.kind(), failed.outcome()),
                (ErrorKind::Protocol, Outcome::Unknown)
            );
            assert_eq!(*failed.message.payload, *n.to_string().as_bytes());
        }
        sim
    });
}

#[test]
fn one_refusal_for_a_whole_frame() {
    // How real servers answer an empty queue name.
    let mut sim = mute(config(), Mode::Whole);
    let many = sim.enqueue_many(vec![Message::new("", "1"), Message::new("", "2")]);
    sim.settle();
    let asked = sim.last_asked();
    let refusal = ServerError::new(ErrorKind::InvalidArgument, "queue name must not be empty").with_code(1);
    sim.answer(&asked, &Response::Enqueue(vec![Err(Box::new(refusal))]));
    sim.settle();
    for result in sim.enqueued_many(many) {
        let failed = result.unwrap_err();
        assert_eq!(
            (failed.kind(), failed.outcome()),
            (ErrorKind::InvalidArgument, Outcome::Rejected)
        );
    }
    sim.finish();
}

#[test]
fn more_results_than_messages() {
    let mut sim = mute(config(), Mode::Whole);
    let one = sim.enqueue("orders", "m");
    let ack = sim.ack("id");
    sim.settle();
    let asked = std::mem::take(&mut sim.asked);
    for asked in &asked {
        let response = match &asked.request {
            Request::Enqueue(_) => Response::Enqueue(vec![Ok("first".into()), Ok("extra".into())]),
            _ => Response::Ack(vec![Ok(()), Ok(()), Ok(())]),
        };
        sim.answer(asked, &response);
    }
    sim.settle();
    assert_eq!(sim.enqueued(one).unwrap().as_str(), "first");
    assert!(sim.settled(ack).is_ok());
    sim.finish();
}

#[test]
fn no_results_at_all() {
    let mut sim = mute(config(), Mode::Whole);
    let one = sim.enqueue("orders", "m");
    let ack = sim.ack("id");
    sim.settle();
    let asked = std::mem::take(&mut sim.asked);
    sim.answer(&asked[0], &Response::Enqueue(Vec::new()));
    sim.answer(&asked[1], &Response::Ack(Vec::new()));
    sim.settle();
    assert_eq!(sim.enqueued(one).unwrap_err().outcome(), Outcome::Unknown);
    assert_eq!(sim.settled(ack).unwrap_err().outcome(), Outcome::Unknown);
    sim.finish();
}

#[test]
fn acks_and_nacks_share_frames_of_their_own_kind() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        let first = sim.ack("0");
        sim.settle();
        let rest: Vec<_> = (1..20)
            .map(|n| {
                let id = MessageId::from(n.to_string());
                sim.settle_one(if n % 4 == 0 {
                    Settle::nack("orders", &id, format!("why {n}"))
                } else {
                    Settle::ack("orders", &id)
                })
            })
            .collect();
        sim.settle();
        // The first nack finds nothing of its kind in flight.
        assert_eq!(sim.asked_ops(), ["Ack", "Nack"]);
        for n in 0..2 {
            let asked = sim.asked[n].clone();
            oblige(&mut sim, &asked);
        }
        assert_eq!(sim.asked_ops(), ["Ack", "Nack", "Ack"]);
        let asked = sim.last_asked();
        oblige(&mut sim, &asked);
        assert!(sim.settled(first).is_ok());
        for token in rest {
            assert!(sim.settled(token).is_ok());
        }
        let Request::Nack(nacks) = &sim.asked[1].request else {
            panic!()
        };
        assert_eq!(nacks[0].error, "why 4");
        assert_eq!(sim.shared.stats().settle_frames, 3);
        sim
    });
}

#[test]
fn settling_many_keeps_the_order_of_the_list() {
    in_every_mode(|mode| {
        let mut sim = connected(config(), mode, P1);
        sim.serve = Box::new(|request, _| {
            let verdict = |id: &MessageId| {
                if id.as_str().ends_with('3') {
                    Err(Box::new(
                        ServerError::new(ErrorKind::MessageNotFound, "no lease").with_code(1),
                    ))
                } else {
                    Ok(())
                }
            };
            Act::Answer(match request {
                Request::Ack(items) => Response::Ack(items.iter().map(|item| verdict(&item.id)).collect()),
                Request::Nack(items) => Response::Nack(items.iter().map(|item| verdict(&item.id)).collect()),
                other => panic!("{other:?}"),
            })
        });
        let settles = (0..40)
            .map(|n| {
                let id = MessageId::from(format!("{n}"));
                match n % 3 {
                    0 => Settle::nack("a", &id, "why"),
                    1 => Settle::ack("a", &id),
                    _ => Settle::ack("b", &id),
                }
            })
            .collect();
        let token = sim.token();
        sim.machine.settle_many(sim.now, settles, None, token);
        sim.settle();
        for (n, result) in sim.settled_many(token).into_iter().enumerate() {
            match result {
                Ok(()) => assert!(!n.to_string().ends_with('3')),
                Err(error) => {
                    assert!(n.to_string().ends_with('3'));
                    assert_eq!(error.kind(), ErrorKind::MessageNotFound);
                }
            }
        }
        sim
    });
}

#[test]
fn lists_beyond_a_frames_count_are_split() {
    let config = config()
        .batch_max_messages(100_000)
        .batch_max_bytes(1 << 30)
        .buffer(1 << 30)
        .max_in_flight(4096, 1 << 30);
    let mut sim = connected(config, Mode::Whole, P1);
    let many = sim.enqueue_many(vec![Message::new("orders", "m"); 70_000]);
    let settles = sim.token();
    let acks = (0..70_000)
        .map(|n| Settle::ack("orders", &MessageId::from(n.to_string())))
        .collect();
    sim.machine.settle_many(sim.now, acks, None, settles);
    sim.settle();
    assert_eq!(sizes(&sim), [65_535, 4_465]);
    let results = sim.enqueued_many(many);
    assert_eq!(results.len(), 70_000);
    assert!(results.iter().all(Result::is_ok));
    let results = sim.settled_many(settles);
    assert!(results.len() == 70_000 && results.iter().all(Result::is_ok));
    sim.finish();
}

#[test]
fn lists_beyond_a_frames_bytes_are_split() {
    let config = config()
        .batch_max_bytes(1 << 30)
        .buffer(1 << 30)
        .max_in_flight(4096, 1 << 30);
    let mut sim = connected(config, Mode::Whole, P1);
    let payload = "x".repeat(1 << 20);
    let many = sim.enqueue_many(vec![Message::new("orders", payload); 40]);
    sim.settle();
    assert_eq!(sizes(&sim), [15, 15, 10], "16 MiB each at most");
    assert!(sim.enqueued_many(many).iter().all(Result::is_ok));
    sim.finish();
}

#[test]
fn a_message_over_the_frame_limit_comes_back() {
    let mut sim = connected(config().max_frame_size(4096, 8192), Mode::Whole, P1);
    let fits = sim.enqueue("orders", &"x".repeat(4_000));
    let large = sim.enqueue("orders", &"x".repeat(4_200));
    let after = sim.enqueue("orders", "after");
    let many = sim.enqueue_many(vec![
        Message::new("orders", "1"),
        Message::new("orders", "y".repeat(5_000)),
        Message::new("orders", "3"),
    ]);
    sim.settle();
    assert!(sim.enqueued(fits).is_ok() && sim.enqueued(after).is_ok());
    let failed = sim.enqueued(large).unwrap_err();
    assert_eq!(
        (failed.kind(), failed.outcome()),
        (ErrorKind::TooLarge, Outcome::NotSent)
    );
    assert_eq!(failed.message.payload.len(), 4_200);
    let results = sim.enqueued_many(many);
    assert!(results[0].is_ok() && results[2].is_ok());
    assert_eq!(results[1].as_ref().unwrap_err().kind(), ErrorKind::TooLarge);
    sim.finish();

    // The exact edge: the frame's length field says 6 + body.
    let edge = 4096 - 6 - (2 + "orders".len()) - 2 - (1 + 4);
    for (len, ok) in [(edge, true), (edge + 1, false)] {
        let mut sim = connected(config().max_frame_size(4096, 8192), Mode::Whole, P1);
        let token = sim.enqueue("orders", &"x".repeat(len));
        sim.settle();
        assert_eq!(sim.enqueued(token).is_ok(), ok, "{len}");
        sim.finish();
    }
}

#[test]
fn framed_frames_continue() {
    in_every_mode(|mode| {
        let mut sim = connected(config().max_frame_size(4096, 8192), mode, Dialect::Handshake);
        let large = sim.enqueue("orders", &"x".repeat(20_000));
        sim.settle();
        let large = sim.enqueued(large);
        assert!(large.is_ok(), "{large:?}");
        sim
    });
}

#[test]
fn a_thousand_queues_leave_nothing_behind() {
    let mut sim = connected(config(), Mode::Whole, P1);
    for round in 0..3 {
        let tokens: Vec<_> = (0..1_000).map(|n| sim.enqueue(&format!("q{n}"), "m")).collect();
        sim.settle();
        for token in tokens {
            assert!(sim.enqueued(token).is_ok());
        }
        assert_eq!(sim.asked.len(), 1_000 * (round + 1));
        assert_eq!(sim.in_flight(), 0);
    }
    sim.finish();
}
