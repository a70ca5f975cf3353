//! What becomes of requests whose connection was lost.

use std::time::Duration;

use fibp_proto::admin::{ApiKeySpec, QueueSpec};
use fibp_proto::config::{Batching, Replay};
use fibp_proto::requests::Settle;
use fibp_proto::response::ServerError;
use fibp_proto::{ErrorKind, Message, Op, Outcome, Request, Response};

use crate::calls::connected;
use crate::harness::{Mode, P2, Sim, Token, config, in_every_mode};
use crate::host::{Act, End, obliging};

/// Every operation a caller can ask for.
const OPS: [Op; 17] = [
    Op::Enqueue,
    Op::Ack,
    Op::Nack,
    Op::Heartbeat,
    Op::CreateQueue,
    Op::DeleteQueue,
    Op::QueueStats,
    Op::ListQueues,
    Op::Redrive,
    Op::SetConfig,
    Op::GetConfig,
    Op::ListConfig,
    Op::CreateApiKey,
    Op::RevokeApiKey,
    Op::ListApiKeys,
    Op::SetAcl,
    Op::GetAcl,
];

/// The table of the design: what may be repeated without harm.
fn is_safe(op: Op) -> bool {
    !matches!(op, Op::Enqueue | Op::Nack | Op::Redrive | Op::CreateApiKey)
}

fn submit(sim: &mut Sim, op: Op) -> Token {
    let text = || "x".to_owned();
    let queue = || "orders".into();
    let request = match op {
        Op::Enqueue => return sim.enqueue("orders", "m"),
        Op::Ack => return sim.ack("id"),
        Op::Nack => return sim.settle_one(Settle::nack("orders", &"id".into(), "why")),
        Op::Heartbeat => Request::Heartbeat,
        Op::CreateQueue => Request::CreateQueue(QueueSpec::new("orders")),
        Op::DeleteQueue => Request::DeleteQueue { queue: queue() },
        Op::QueueStats => Request::QueueStats { queue: queue() },
        Op::ListQueues => Request::ListQueues,
        Op::Redrive => Request::Redrive {
            dlq: "orders.dlq".into(),
            count: 1,
        },
        Op::SetConfig => Request::SetConfig {
            key: text(),
            value: text(),
        },
        Op::GetConfig => Request::GetConfig { key: text() },
        Op::ListConfig => Request::ListConfig { prefix: text() },
        Op::CreateApiKey => Request::CreateApiKey(ApiKeySpec::new("svc")),
        Op::RevokeApiKey => Request::RevokeApiKey { key_id: text() },
        Op::ListApiKeys => Request::ListApiKeys,
        Op::SetAcl => Request::SetAcl {
            key_id: text(),
            permissions: Vec::new(),
        },
        Op::GetAcl => Request::GetAcl { key_id: text() },
        other => panic!("{other:?}"),
    };
    let token = sim.token();
    sim.machine.call(sim.now, request, None, token);
    token
}

/// The outcome of a failed operation, `None` for success.
#[track_caller]
fn outcome(sim: &Sim, op: Op, token: Token) -> Option<(ErrorKind, Outcome)> {
    let error = match op {
        Op::Enqueue => sim.enqueued(token).err().map(|failed| failed.error),
        Op::Ack | Op::Nack => sim.settled(token).err(),
        _ => sim.response(token).err(),
    };
    error.map(|error| (error.kind(), error.outcome()))
}

#[test]
fn what_was_sent_is_replayed_by_the_table() {
    for policy in [Replay::Never, Replay::SafeOps, Replay::IncludingEnqueue] {
        for op in OPS {
            for end in [End::Eof, End::Reset] {
                let mut sim = connected(config().replay(policy), Mode::Whole, P2);
                sim.serve = Box::new(|request, connection| match connection {
                    1 => Act::Silence,
                    _ => obliging(request),
                });
                let token = submit(&mut sim, op);
                sim.settle();
                assert_eq!(sim.asked.len(), 1);
                sim.socket().end(end);
                sim.advance_secs(1);
                let replayed = match policy {
                    Replay::Never => false,
                    Replay::SafeOps => is_safe(op),
                    _ => is_safe(op) || op == Op::Enqueue,
                };
                let expected = (!replayed).then_some((ErrorKind::Disconnected, Outcome::Unknown));
                assert_eq!(outcome(&sim, op, token), expected, "{op:?} with {policy:?}");
                assert_eq!(sim.asked.len(), 1 + usize::from(replayed), "{op:?} with {policy:?}");
                sim.finish();
            }
        }
    }
}

#[test]
fn what_was_not_sent_is_sent_whatever_the_policy() {
    for policy in [Replay::Never, Replay::SafeOps, Replay::IncludingEnqueue] {
        for op in OPS {
            let mut sim = connected(config().replay(policy).no_heartbeat(), Mode::Whole, P2);
            // The socket takes nothing: the first request is with the writer, this one behind it.
            sim.socket().budget = Some(0);
            let blocker = submit(&mut sim, Op::ListQueues);
            sim.settle();
            let token = submit(&mut sim, op);
            sim.settle();
            sim.socket().end(End::Reset);
            sim.advance_secs(1);
            assert_eq!(outcome(&sim, op, token), None, "{op:?} with {policy:?}");
            let _ = outcome(&sim, Op::ListQueues, blocker);
            sim.finish();
        }
    }
}

#[test]
fn order_is_kept_across_a_replay() {
    in_every_mode(|mode| {
        let mut sim = connected(
            config().replay(Replay::IncludingEnqueue).batch_max_messages(3),
            mode,
            P2,
        );
        sim.serve = Box::new(|request, connection| match connection {
            1 => Act::Silence,
            _ => obliging(request),
        });
        let mut tokens: Vec<_> = (0..10).map(|n| sim.enqueue("orders", &n.to_string())).collect();
        sim.settle();
        tokens.extend((10..20).map(|n| sim.enqueue("orders", &n.to_string())));
        let many = sim.enqueue_many((20..30).map(|n| Message::new("orders", n.to_string())).collect());
        sim.settle();
        sim.socket().end(End::Reset);
        sim.asked.clear();
        sim.advance_secs(1);
        let order: Vec<_> = sim
            .asked
            .iter()
            .flat_map(|asked| match &asked.request {
                Request::Enqueue(messages) => messages.clone(),
                _ => Vec::new(),
            })
            .map(|message| String::from_utf8_lossy(&message.payload).into_owned())
            .collect();
        let expected: Vec<_> = (0..30).map(|n| n.to_string()).collect();
        assert_eq!(order, expected);
        for token in tokens {
            assert!(sim.enqueued(token).is_ok());
        }
        assert!(sim.enqueued_many(many).iter().all(Result::is_ok));
        sim
    });
}

#[test]
fn an_ack_that_is_repeated_finds_no_lease_and_is_done() {
    in_every_mode(|mode| {
        let mut sim = connected(config(), mode, P2);
        let no_lease = || ServerError::new(ErrorKind::MessageNotFound, "message not found").with_code(1);
        sim.serve = Box::new(move |request, connection| match (request, connection) {
            (_, 1) => Act::Silence,
            (Request::Ack(items), _) => {
                Act::Answer(Response::Ack(items.iter().map(|_| Err(Box::new(no_lease()))).collect()))
            }
            _ => obliging(request),
        });
        let repeated = sim.ack("a");
        sim.settle();
        sim.socket().end(End::Reset);
        sim.advance_secs(1);
        assert!(sim.settled(repeated).is_ok());
        let first = sim.ack("b");
        sim.settle();
        assert_eq!(
            sim.settled(first).unwrap_err().kind(),
            ErrorKind::MessageNotFound,
            "the first time it is told"
        );
        sim
    });
}

#[test]
fn deletions_that_are_repeated_find_nothing_and_are_done() {
    let mut sim = connected(config(), Mode::Whole, P2);
    sim.serve = Box::new(|request, connection| match (request, connection) {
        (_, 1) => Act::Silence,
        (Request::DeleteQueue { .. }, _) => {
            Act::error(ErrorKind::QueueNotFound, "invalid payload: queue not found: orders")
        }
        (Request::RevokeApiKey { .. }, _) => {
            Act::error(ErrorKind::ApiKeyNotFound, "invalid payload: api key not found: x")
        }
        (Request::CreateQueue(_), _) => {
            Act::error(ErrorKind::QueueExists, "invalid payload: queue already exists: orders")
        }
        _ => obliging(request),
    });
    let delete = submit(&mut sim, Op::DeleteQueue);
    let revoke = submit(&mut sim, Op::RevokeApiKey);
    let create = submit(&mut sim, Op::CreateQueue);
    sim.settle();
    sim.socket().end(End::Reset);
    sim.advance_secs(1);
    assert_eq!(outcome(&sim, Op::DeleteQueue, delete), None);
    assert_eq!(outcome(&sim, Op::RevokeApiKey, revoke), None);
    assert_eq!(
        outcome(&sim, Op::CreateQueue, create),
        Some((ErrorKind::QueueExists, Outcome::Unknown)),
        "reported; whether the first attempt made it, nobody knows"
    );
    let again = submit(&mut sim, Op::DeleteQueue);
    sim.settle();
    assert_eq!(
        outcome(&sim, Op::DeleteQueue, again),
        Some((ErrorKind::QueueNotFound, Outcome::Rejected))
    );
    sim.finish();
}

#[test]
fn what_may_have_been_executed_never_claims_otherwise() {
    // Sent, lost, and never sent again in time.
    let mut sim = connected(config().replay(Replay::IncludingEnqueue), Mode::Whole, P2);
    sim.serve = Box::new(|_, _| Act::Silence);
    let ack = sim.ack("a");
    let message = sim.enqueue("orders", "m");
    let stats = submit(&mut sim, Op::QueueStats);
    sim.settle();
    sim.dialed = Box::new(|_, _| crate::host::Host::Refused(fibp_proto::FaultKind::Refused));
    sim.socket().end(End::Reset);
    // With few acks in flight a further one does not wait for their answers: it is made when there is no connection.
    sim.settle();
    let fresh = sim.ack("b");
    sim.advance_secs(11);
    for (op, token) in [(Op::Ack, ack), (Op::Enqueue, message), (Op::QueueStats, stats)] {
        assert_eq!(outcome(&sim, op, token), Some((ErrorKind::Timeout, Outcome::Unknown)));
    }
    assert_eq!(
        outcome(&sim, Op::Ack, fresh),
        Some((ErrorKind::Timeout, Outcome::NotSent))
    );
    sim.finish();
}

#[test]
fn an_abandoned_call_is_not_replayed() {
    let mut sim = connected(config(), Mode::Whole, P2);
    sim.serve = Box::new(|_, _| Act::Silence);
    let (token, id) = sim.call_within(fibp_proto::typed::ListQueues {}, None);
    sim.settle();
    sim.abandon(token, id);
    sim.socket().end(End::Reset);
    sim.advance_secs(1);
    assert_eq!(sim.asked.len(), 1);
    sim.finish();
}

#[test]
fn a_call_can_be_abandoned_while_it_waits_for_its_replay() {
    let mut sim = connected(config(), Mode::Whole, P2);
    sim.serve = Box::new(|_, _| Act::Silence);
    let (token, id) = sim.call_within(fibp_proto::typed::ListQueues {}, None);
    let (message, message_id) = sim.enqueue_within("orders", "m", None);
    sim.socket().budget = Some(0);
    sim.settle();
    sim.socket().end(End::Reset);
    sim.dialed = Box::new(|_, _| crate::host::Host::Unreachable);
    sim.settle();
    sim.abandon(token, id);
    // It was with the writer, who may have written it.
    assert_eq!(sim.enqueued(message).unwrap_err().outcome(), Outcome::Unknown);
    assert_eq!(sim.machine.abandon(message_id), None);
    sim.finish();
}

#[test]
fn what_is_replayed_lingers_no_second_time() {
    let linger = Batching::Linger {
        delay: Duration::from_secs(60),
        max_messages: 100,
    };
    let config = config()
        .replay(Replay::IncludingEnqueue)
        .batching(linger)
        .request_timeout(None)
        .no_heartbeat();
    let mut sim = connected(config, Mode::Whole, P2);
    sim.serve = Box::new(|request, connection| match connection {
        1 => Act::Silence,
        _ => obliging(request),
    });
    let message = sim.enqueue("orders", "m");
    sim.advance_secs(60);
    assert_eq!(sim.asked.len(), 1);
    sim.socket().end(End::Reset);
    sim.advance_secs(1);
    assert!(sim.enqueued(message).is_ok());
    sim.finish();
}
