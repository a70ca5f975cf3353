//! Leaders: consumers that follow them, and requests that are handed to them.

use std::time::Duration;

use fibp_proto::config::{ConsumerSettings, ProducerSettings};
use fibp_proto::machine::ChannelId;
use fibp_proto::machine::Machine;
use fibp_proto::response::ServerError;
use fibp_proto::typed::GetQueueStats;
use fibp_proto::{Config, Dialect, Endpoint, ErrorKind, Event, Message, Outcome, Request, Response};

use crate::batching::frames;
use crate::calls::{connected, stats};
use crate::harness::{ConsumerSim, Mode, P1, Sim, TestMachine, config, in_every_mode};
use crate::host::{Act, End, Host, obliging};

/// What a preamble node says of a queue that another one leads.
fn hint(leader: &str) -> Act {
    Act::error(ErrorKind::NotLeader, &format!("leader_hint:{leader}"))
}

/// The same of a framed node; `None` during an election.
fn not_leader(leader: Option<&str>) -> Response {
    let mut error = ServerError::new(ErrorKind::NotLeader, "not the leader for this queue").with_code(0x0C);
    if let Some(leader) = leader {
        error = error.with_metadata(vec![("leader_addr".to_owned(), leader.to_owned())]);
    }
    Response::Error(error)
}

fn endpoint(text: &str) -> Endpoint {
    text.parse().unwrap()
}

fn hosts<M: TestMachine>(sim: &Sim<M>) -> Vec<String> {
    sim.dials.iter().map(|(_, endpoint)| endpoint.to_string()).collect()
}

fn consumer(config: Config, mode: Mode) -> ConsumerSim {
    Sim::consumer(config.dialect(P1).no_heartbeat(), mode, ConsumerSettings::default())
}

#[test]
fn the_driver_of_the_main_channel_wakes_for_a_channel_that_has_none() {
    let mut first = connected(config().no_heartbeat(), Mode::Whole, P1);
    first.serve = Box::new(|_, _| hint("n2:6000"));
    first.call(stats());
    first.settle();
    let mut second = first.requests_beside();
    second.settle();
    assert!(second.opened().is_ok());
    assert!(!second.machine.needs_driver(ChannelId::MAIN));
    let message = second.enqueue("orders", "m");
    assert!(second.machine.needs_driver(ChannelId::MAIN), "to start another");
    let node = second.machine.poll_new_channel().expect("the way to the leader");
    assert!(!second.machine.needs_driver(ChannelId::MAIN));
    assert!(second.machine.needs_driver(node), "to dial");
    second.settle();
    assert!(second.enqueued(message).is_ok());
    second.finish();
    first.finish();
}

// ---- consumers ----

#[test]
fn a_consumer_follows_the_leader() {
    in_every_mode(|mode| {
        let mut sim = consumer(Config::new("n1:5555").api_key("key"), mode);
        sim.serve = Box::new(|request, connection| match (request, connection) {
            (Request::Consume { .. }, 1) => hint("n2:6000"),
            _ => obliging(request),
        });
        sim.settle();
        assert!(sim.opened().is_ok());
        assert_eq!(hosts(&sim), ["n1:5555", "n2:6000"]);
        assert_eq!(sim.at(), Duration::ZERO, "at once");
        assert!(
            sim.asked
                .iter()
                .filter(|asked| matches!(asked.request, Request::Authenticate(_)))
                .count()
                == 2,
            "with the same key"
        );
        assert!(
            sim.events
                .iter()
                .any(|event| matches!(event, Event::Redirected { to, .. } if *to == endpoint("n2:6000")))
        );
        assert_eq!(sim.shared.stats().redirects, 1);
        sim.push(&["1"]);
        assert!(sim.wait_delivery());

        // When the leader is lost, the configured servers know the way.
        sim.socket().end(End::Eof);
        sim.serve = Box::new(|request, _| obliging(request));
        sim.advance_secs(1);
        assert_eq!(hosts(&sim)[2], "n1:5555", "a leader that fails is forgotten");
        sim
    });
}

#[test]
fn the_learned_leader_is_remembered_for_the_next_consumer() {
    let mut sim = consumer(Config::new("n1:5555"), Mode::Whole);
    sim.serve = Box::new(|request, connection| match connection {
        1 => hint("n2:6000"),
        _ => obliging(request),
    });
    sim.settle();
    assert!(sim.opened().is_ok());
    let shared = sim.shared.clone();
    let mut second = fibp_proto::consumer::Consumer::<u32>::new(
        &shared,
        "orders".into(),
        ConsumerSettings::default(),
        sim.now,
        1,
        None,
    );
    match second.poll_action(ChannelId::MAIN) {
        Some(fibp_proto::machine::Action::Dial { endpoint: dialed, .. }) => assert_eq!(dialed, endpoint("n2:6000")),
        other => panic!("{other:?}"),
    }
    let mut other_queue = fibp_proto::consumer::Consumer::<u32>::new(
        &shared,
        "other".into(),
        ConsumerSettings::default(),
        sim.now,
        1,
        None,
    );
    match other_queue.poll_action(ChannelId::MAIN) {
        Some(fibp_proto::machine::Action::Dial { endpoint: dialed, .. }) => assert_eq!(dialed, endpoint("n1:5555")),
        other => panic!("{other:?}"),
    }
    sim.finish();
}

#[test]
fn a_hint_that_only_the_server_can_use_means_its_own_host() {
    let mut sim = consumer(Config::new("n1:5555"), Mode::Whole);
    sim.serve = Box::new(|request, connection| match connection {
        1 => hint("0.0.0.0:6000"),
        _ => obliging(request),
    });
    sim.settle();
    assert!(sim.opened().is_ok());
    assert_eq!(hosts(&sim), ["n1:5555", "n1:6000"]);
    sim.finish();
}

#[test]
fn redirects_are_bounded_and_not_followed_in_circles() {
    let mut sim = consumer(Config::new("n0:1").max_redirects(3), Mode::Whole);
    sim.serve = Box::new(|_, connection| hint(&format!("n{connection}:1")));
    sim.advance_secs(30);
    assert_eq!(sim.opened().unwrap_err().kind(), ErrorKind::NotLeader);
    assert_eq!(hosts(&sim), ["n0:1", "n1:1", "n2:1", "n3:1"]);
    sim.finish();

    let mut sim = consumer(Config::new("a:1").max_redirects(10), Mode::Whole);
    sim.serve = Box::new(|_, connection| hint(if connection % 2 == 1 { "b:1" } else { "a:1" }));
    sim.advance_secs(30);
    assert_eq!(sim.opened().unwrap_err().kind(), ErrorKind::NotLeader);
    assert!(sim.dials.len() <= 4, "{:?}", hosts(&sim));
    sim.finish();

    let mut sim = consumer(Config::new("a:1").max_redirects(0), Mode::Whole);
    sim.serve = Box::new(|_, _| hint("b:1"));
    sim.advance_secs(30);
    assert_eq!(sim.opened().unwrap_err().kind(), ErrorKind::NotLeader);
    assert_eq!(hosts(&sim), ["a:1"]);
    sim.finish();
}

#[test]
fn an_open_consumer_outlives_nodes_that_name_each_other() {
    let mut sim = consumer(Config::new("a:1"), Mode::Whole);
    sim.settle();
    assert!(sim.opened().is_ok());
    sim.serve = Box::new(|request, connection| match connection {
        2..30 => hint(if connection % 2 == 1 { "b:1" } else { "a:1" }),
        _ => obliging(request),
    });
    sim.socket().end(End::Eof);
    sim.advance_secs(600);
    assert!(sim.machine.poll_end().is_none());
    sim.push(&["m"]);
    assert!(sim.wait_delivery());
    sim.finish();
}

#[test]
fn an_election_is_waited_for() {
    for text in [
        "invalid payload: no leader available for queue",
        "invalid payload: node not ready for this queue",
        "leader_hint:not an address at all",
    ] {
        let mut sim = consumer(Config::new("n1:5555"), Mode::Whole);
        sim.serve = Box::new(move |request, connection| match connection {
            1..4 => Act::error(ErrorKind::NotLeader, text),
            _ => obliging(request),
        });
        sim.advance_secs(5);
        assert!(sim.opened().is_ok(), "{text}");
        assert_eq!(sim.dials.len(), 4);
        sim.finish();
    }
}

#[test]
fn a_leader_that_cannot_be_reached_is_forgotten() {
    let mut sim = consumer(Config::new("n1:5555"), Mode::Whole);
    sim.dialed = Box::new(|endpoint, _| {
        if endpoint.host == "gone" {
            Host::Refused(fibp_proto::FaultKind::Refused)
        } else {
            Host::p1()
        }
    });
    sim.serve = Box::new(|request, connection| match connection {
        1 => hint("gone:1"),
        _ => obliging(request),
    });
    sim.advance_secs(5);
    assert!(sim.opened().is_ok());
    assert_eq!(hosts(&sim), ["n1:5555", "gone:1", "n1:5555"]);
    sim.finish();
}

// ---- requests ----

/// A client whose configured server is n1, of a framed cluster that does not say so.
fn framed_node(mode: Mode) -> Sim {
    let mut sim = connected(Config::new("n1:5555").no_heartbeat(), mode, Dialect::Handshake);
    sim.dialed = Box::new(|_, _| Host::framed());
    sim
}

/// A server that sends every request to n2.
fn names_n2(_: &Request, _: usize) -> Act {
    Act::Answer(not_leader(Some("n2:6000")))
}

#[test]
fn a_request_goes_to_the_leader_and_completes_there() {
    in_every_mode(|mode| {
        let mut main = framed_node(mode);
        main.serve = Box::new(names_n2);
        let message = main.enqueue("orders", "m");
        let many = main.enqueue_many(vec![Message::new("orders", "1"), Message::new("other", "2")]);
        let stats = main.call(GetQueueStats { queue: "orders".into() });
        let ack = main.ack("id");
        main.settle();
        assert_eq!(main.enqueued(message).unwrap().as_str(), "of-m");
        let ids: Vec<_> = main
            .enqueued_many(many)
            .into_iter()
            .map(|id| id.unwrap().to_string())
            .collect();
        assert_eq!(ids, ["of-1", "of-2"]);
        assert_eq!(main.output::<GetQueueStats>(stats).unwrap().depth, 3);
        assert!(main.settled(ack).is_ok());
        assert_eq!(hosts(&main), ["n1:5555", "n2:6000"], "one channel per node");
        assert_eq!(main.in_flight(), 0);

        // The learned leader is asked at once.
        let asked = main.asked.len();
        let next = main.enqueue("orders", "next");
        main.settle();
        assert!(main.enqueued(next).is_ok());
        assert_eq!(main.asked.len(), asked);
        main
    });
}

#[test]
fn items_of_one_frame_go_where_each_belongs() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(|request, _| match request {
        Request::Enqueue(messages) => Act::Answer(Response::Enqueue(
            messages
                .iter()
                .map(|message| match &*message.payload {
                    b"moved" => Err(Box::new(ServerError::new(ErrorKind::NotLeader, "").with_code(0x0C))),
                    _ => Ok("here".into()),
                })
                .collect(),
        )),
        _ => obliging(request),
    });
    // An item's refusal names no leader: it is asked again here.
    let many = main.enqueue_many(vec![Message::new("orders", "stays"), Message::new("orders", "moved")]);
    main.settle();
    assert!(main.is_open(many));
    main.serve = Box::new(|request, _| obliging(request));
    main.advance_secs(1);
    let results = main.enqueued_many(many);
    assert_eq!(results[0].as_ref().unwrap().as_str(), "here");
    assert_eq!(results[1].as_ref().unwrap().as_str(), "of-moved");
    main.finish();
}

#[test]
fn an_election_is_asked_again_after_a_pause_until_the_deadline() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(|_, _| Act::Answer(not_leader(None)));
    let message = main.enqueue("orders", "m");
    let stats = main.call(GetQueueStats { queue: "orders".into() });
    main.advance_ms(9_900);
    assert!(main.is_open(message) && main.is_open(stats), "elections use up no hops");
    assert!((40..200).contains(&main.asked.len()), "{}", main.asked.len());
    main.advance_secs(1);
    assert_eq!(main.enqueued(message).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(main.response(stats).unwrap_err().kind(), ErrorKind::Timeout);
    main.finish();

    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(|_, _| Act::Answer(not_leader(None)));
    let message = main.enqueue("orders", "m");
    let (abandoned, id) = main.call_within(GetQueueStats { queue: "orders".into() }, None);
    main.advance_secs(3);
    main.abandon(abandoned, id);
    main.serve = Box::new(|request, _| obliging(request));
    main.advance_secs(1);
    assert!(main.enqueued(message).is_ok());
    main.finish();
}

#[test]
fn hops_are_bounded() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(names_n2);
    let message = main.enqueue("orders", "m");
    let stats = main.call(GetQueueStats { queue: "orders".into() });
    // Two nodes that name each other.
    main.serve_node =
        Box::new(|_, node| Act::Answer(not_leader(Some(if node.host == "n2" { "n3:1" } else { "n2:1" }))));
    main.settle();
    let failed = main.enqueued(message).unwrap_err();
    assert_eq!(
        (failed.kind(), failed.outcome()),
        (ErrorKind::NotLeader, Outcome::Rejected)
    );
    assert_eq!(&*failed.message.payload, b"m");
    assert_eq!(main.response(stats).unwrap_err().kind(), ErrorKind::NotLeader);
    main.finish();
}

#[test]
fn a_node_that_fails_returns_its_work() {
    let mut main = framed_node(Mode::Whole);
    let mut first = true;
    main.serve = Box::new(move |request, _| match request {
        Request::Enqueue(_) if std::mem::take(&mut first) => Act::Answer(not_leader(Some("n2:1"))),
        _ => obliging(request),
    });
    main.dialed = Box::new(|endpoint, _| match &*endpoint.host {
        "n2" => Host::Refused(fibp_proto::FaultKind::Refused),
        _ => Host::framed(),
    });
    let message = main.enqueue("orders", "m");
    main.settle();
    assert!(main.enqueued(message).is_ok());
    assert_eq!(hosts(&main), ["n1:5555", "n2:1"], "the leader that failed is forgotten");
    assert!(main.nodes.is_empty(), "and its channel is gone");
    main.finish();
}

#[test]
fn returned_work_is_not_taken_for_a_call_that_waits() {
    let config = Config::new("n1:5555").no_heartbeat().max_in_flight(2, 1 << 20);
    let mut main = connected(config, Mode::Whole, Dialect::Handshake);
    main.serve = Box::new(names_n2);
    main.dialed = Box::new(|endpoint, _| match &*endpoint.host {
        "n2" => Host::Unreachable,
        _ => Host::framed(),
    });
    let returned = main.enqueue_many(vec![Message::new("orders", "1"), Message::new("orders", "2")]);
    main.settle();

    // Meanwhile nothing leaves the main channel: calls take all its room, and others wait in line for that.
    main.socket().budget = Some(0);
    let stats = [(); 2].map(|()| main.call_within(GetQueueStats { queue: "orders".into() }, None));
    let (message, message_id) = main.enqueue_within("bills", "3", None);
    let later = main.enqueue("bills", "4");
    main.settle();
    // The dial of the node is given up, and its work comes back.
    main.advance_secs(6);
    for (token, id) in stats {
        main.abandon(token, id);
    }
    main.settle();
    main.abandon(message, message_id);

    main.serve = Box::new(|request, _| obliging(request));
    main.socket().budget = None;
    main.settle();
    let ids = main
        .enqueued_many(returned)
        .into_iter()
        .map(|id| id.unwrap().to_string());
    assert_eq!(ids.collect::<Vec<_>>(), ["of-1", "of-2"]);
    assert!(main.enqueued(later).is_ok());
    main.finish();
}

#[test]
fn a_node_that_is_lost_in_the_middle_returns_what_is_safe() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(|request, _| match request {
        Request::Enqueue(_) | Request::QueueStats { .. } => Act::Answer(not_leader(Some("n2:1"))),
        _ => obliging(request),
    });
    main.serve_node = Box::new(|_, _| Act::Silence);
    let message = main.enqueue("orders", "m");
    let stats = main.call(GetQueueStats { queue: "orders".into() });
    main.settle();
    assert_eq!(main.asked_nodes.len(), 2);
    main.serve = Box::new(|request, _| obliging(request));
    main.node_socket().end(End::Reset);
    main.settle();
    assert_eq!(main.enqueued(message).unwrap_err().outcome(), Outcome::Unknown);
    assert!(main.response(stats).is_ok());
    assert!(main.nodes.is_empty());
    main.finish();
}

#[test]
fn closing_finishes_what_other_nodes_were_asked() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(names_n2);
    main.serve_node = Box::new(|_, _| Act::Silence);
    let messages = ["orders", "bills"].map(|queue| main.enqueue(queue, "m"));
    main.settle();
    let closed = main.close(5000);
    main.settle();
    assert!(main.is_open(closed), "two messages are unanswered");
    // The node answers at last.
    for (id, response) in main.node_answers() {
        main.node_socket().server().respond(id, &response).expect("encodes");
    }
    main.settle();
    for message in messages {
        assert!(main.enqueued(message).is_ok());
    }
    assert_eq!(main.closed(closed).flushed, 2);
    main.advance_secs(2);
    main.check_inert();
    main.finish();
}

#[test]
fn a_call_that_went_to_a_node_is_withdrawn_there() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(names_n2);
    main.dialed = Box::new(|endpoint, n| match &*endpoint.host {
        "n2" if n < 3 => Host::Unreachable,
        _ => Host::framed(),
    });
    let (message, message_id) = main.enqueue_within("orders", "withdrawn", None);
    let (stats, stats_id) = main.call_within(GetQueueStats { queue: "orders".into() }, None);
    main.settle();
    assert_eq!(main.nodes.len(), 1, "both wait for the node's connection");
    main.abandon(message, message_id);
    main.abandon(stats, stats_id);
    let kept = main.enqueue("orders", "kept");
    main.serve = Box::new(|request, _| obliging(request));
    main.advance_secs(6);
    assert!(main.enqueued(kept).is_ok());
    let sent: Vec<_> = main
        .asked
        .iter()
        .map(|asked| asked.request.clone())
        .chain(main.asked_nodes.iter().map(|(_, request)| request.clone()))
        .filter(|request| match request {
            Request::Enqueue(messages) => messages.iter().any(|message| &message.payload[..] == b"withdrawn"),
            _ => false,
        })
        .collect();
    assert_eq!(sent.len(), 1, "only what the main server refused: {sent:?}");
    main.finish();
}

/// A consumer that was sent to n2.
fn follow_to_n2(main: &Sim) -> ConsumerSim {
    let mut consumer = main.consumer_beside(ConsumerSettings::default());
    consumer.dialed = Box::new(|_, _| Host::framed());
    consumer.serve = Box::new(|request, connection| match connection {
        1 => Act::Answer(not_leader(Some("n2:1"))),
        _ => obliging(request),
    });
    consumer.settle();
    assert!(consumer.opened().is_ok());
    consumer
}

#[test]
fn what_a_stale_leader_refuses_goes_back_to_the_main_server() {
    let mut main = framed_node(Mode::Whole);
    let mut consumer = follow_to_n2(&main);
    fn refuse_items(request: &Request) -> Act {
        match request {
            Request::Enqueue(items) => {
                let refusal = ServerError::new(ErrorKind::NotLeader, "no leader available").with_code(0x0C);
                Act::Answer(Response::Enqueue(vec![Err(Box::new(refusal)); items.len()]))
            }
            _ => Act::Answer(not_leader(None)),
        }
    }
    // The main server refuses once, as nodes do while a leader is elected; n2 leads no more.
    let mut refusals = 2;
    main.serve = Box::new(move |request, _| {
        if refusals > 0 {
            refusals -= 1;
            return refuse_items(request);
        }
        obliging(request)
    });
    main.serve_node = Box::new(|request, _| refuse_items(request));
    let message = main.enqueue("orders", "m");
    let stats = main.call(GetQueueStats { queue: "orders".into() });
    main.settle();
    assert!(main.enqueued(message).is_ok());
    assert!(main.response(stats).is_ok());
    assert_eq!(main.asked_nodes.len(), 2, "each was asked for once there");

    let later = main.enqueue("orders", "later");
    main.settle();
    assert!(main.enqueued(later).is_ok(), "the leader that is none is forgotten");
    consumer.machine.abort(consumer.now);
    consumer.settle();
    main.finish();
}

#[test]
fn an_election_that_the_main_server_knows_nothing_of_is_waited_for() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(names_n2);
    main.serve_node = Box::new(|_, _| Act::Answer(not_leader(None)));
    let message = main.enqueue("orders", "m");
    let stats = main.call(GetQueueStats { queue: "orders".into() });
    main.advance_secs(3);
    assert!(main.is_open(message) && main.is_open(stats));
    assert!(main.asked_nodes.len() < 50, "not without pauses");
    main.serve_node = Box::new(|request, _| obliging(request));
    main.advance_ms(300);
    assert!(main.enqueued(message).is_ok());
    assert!(main.response(stats).is_ok());
    main.finish();
}

#[test]
fn deadlines_travel_with_the_work() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(names_n2);
    main.serve_node = Box::new(|_, _| Act::Silence);
    let message = main.enqueue("orders", "m");
    main.advance_ms(9_999);
    assert!(main.is_open(message));
    main.advance_ms(1);
    assert_eq!(main.enqueued(message).unwrap_err().kind(), ErrorKind::Timeout);
    main.finish();
}

#[test]
fn a_flush_waits_for_what_went_to_another_node() {
    for answered in [true, false] {
        let mut main = framed_node(Mode::Whole);
        main.serve = Box::new(names_n2);
        main.serve_node = Box::new(|_, _| Act::Silence);
        let producer = main.producer(ProducerSettings::default());
        let (_, receipt, _) = main.send(producer, "m");
        main.settle();
        let flush = main.flush(producer);
        main.settle();
        assert!(main.is_open(flush), "the message is still under way");
        if answered {
            for (id, response) in main.node_answers() {
                main.node_socket().server().respond(id, &response).expect("encodes");
            }
            main.settle();
        } else {
            main.advance_secs(10);
        }
        assert_eq!(main.enqueued(receipt).is_ok(), answered);
        assert_eq!(main.flushed(flush).is_ok(), answered);
        main.finish();
    }
}

#[test]
fn a_flush_does_not_outlive_its_client() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(names_n2);
    main.serve_node = Box::new(|_, _| Act::Silence);
    let producer = main.producer(ProducerSettings::default());
    let (_, receipt, _) = main.send(producer, "m");
    main.settle();
    let flush = main.flush(producer);
    main.machine.abort(main.now);
    main.settle();
    for error in [
        main.flushed(flush).unwrap_err(),
        main.enqueued(receipt).unwrap_err().error,
    ] {
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::Unknown));
    }
    main.finish();
}

#[test]
fn what_went_to_another_node_takes_up_room_until_it_is_over() {
    let config = Config::new("n1:5555").no_heartbeat().max_in_flight(2, 1 << 20);
    let mut main = connected(config, Mode::Whole, Dialect::Handshake);
    main.dialed = Box::new(|_, _| Host::framed());
    main.serve = Box::new(names_n2);
    main.serve_node = Box::new(|_, _| Act::Silence);
    let away = main.enqueue("orders", "m");
    let stats = main.call(GetQueueStats { queue: "orders".into() });
    main.settle();
    main.serve = Box::new(|request, _| obliging(request));
    let waits = main.enqueue("other", "w");
    main.settle();
    assert!(main.is_open(waits), "there is no room");
    for (id, response) in main.node_answers() {
        main.node_socket().server().respond(id, &response).expect("encodes");
    }
    main.settle();
    assert!(main.enqueued(away).is_ok());
    assert!(main.response(stats).is_ok());
    assert!(main.enqueued(waits).is_ok());
    main.finish();
}

/// Sends each queue's messages to a node of its own.
fn a_node_per_queue(request: &Request, _: usize) -> Act {
    match request {
        Request::Enqueue(messages) => {
            let leader = format!("{}:1", messages[0].queue);
            Act::Answer(not_leader(Some(&leader)))
        }
        _ => obliging(request),
    }
}

fn ask(main: &mut Sim, n: usize) {
    let message = main.enqueue(&format!("q{n}"), "m");
    main.settle();
    assert!(main.enqueued(message).is_ok());
}

#[test]
fn the_least_recently_chosen_node_makes_room() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(a_node_per_queue);
    for n in 1..=256 {
        ask(&mut main, n);
        main.advance_ms(1);
    }
    assert_eq!(main.nodes.len(), 256);
    ask(&mut main, 1);
    ask(&mut main, 300);
    main.advance_secs(2);
    assert_eq!(main.nodes.len(), 256);
    assert!(
        main.nodes.values().all(|(node, _)| node.host != "q2"),
        "the one not used for longest"
    );
    main.finish();
}

#[test]
fn nodes_that_are_in_use_stay_and_idle_ones_go() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(a_node_per_queue);
    // Requests for a hundred leaders in turn.
    for n in 0..1_000 {
        ask(&mut main, n % 100);
        main.advance_ms(1);
    }
    assert_eq!(main.dials.len(), 101, "one dial per node");
    // Then for one only, and much later for another.
    main.advance_secs(11);
    ask(&mut main, 50);
    ask(&mut main, 500);
    main.advance_secs(2);
    assert_eq!(main.nodes.len(), 16, "a few stay, however idle");
    assert!(main.nodes.values().any(|(node, _)| node.host == "q50"));
    main.finish();
}

#[test]
fn a_preamble_item_without_a_leader_is_asked_again() {
    for text in ["no leader available", "node not ready for this queue"] {
        let mut sim = connected(config(), Mode::Whole, P1);
        let mut refusals = 3;
        sim.serve = Box::new(move |request, _| match request {
            Request::Enqueue(messages) if refusals > 0 => {
                refusals -= 1;
                let refusal = ServerError::new(ErrorKind::NotLeader, text).with_code(2);
                Act::Answer(Response::Enqueue(vec![Err(Box::new(refusal)); messages.len()]))
            }
            _ => obliging(request),
        });
        let first = sim.enqueue("orders", "1");
        sim.settle();
        let second = sim.enqueue("orders", "2");
        sim.advance_secs(1);
        assert!(sim.enqueued(first).is_ok() && sim.enqueued(second).is_ok());
        assert_eq!(frames(&sim).concat(), ["1", "1", "1", "1", "2"], "order is kept");
        sim.finish();
    }
}
