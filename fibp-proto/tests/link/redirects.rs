//! Leaders: consumers that follow them, and requests that are handed to them.

use std::time::Duration;

use fibp_proto::config::{ConsumerSettings, ProducerSettings};
use fibp_proto::link::Parcel;
use fibp_proto::operation::GetQueueStats;
use fibp_proto::response::ServerError;
use fibp_proto::{Config, Dialect, Endpoint, ErrorKind, Event, Message, Outcome, Request, Response};

use crate::calls::connected;
use crate::harness::{MODES, Mode, P1, Sim, Token, config, in_every_mode};
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

fn hosts(sim: &Sim) -> Vec<String> {
    sim.dials.iter().map(|(_, endpoint)| endpoint.to_string()).collect()
}

fn consumer(config: Config, mode: Mode) -> Sim {
    Sim::consumer(config.dialect(P1).no_heartbeat(), mode, ConsumerSettings::default())
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
    let mut second =
        fibp_proto::Link::<u32>::consumer(&shared, "orders".into(), ConsumerSettings::default(), sim.now, 1, None);
    match second.poll_action() {
        Some(fibp_proto::link::Action::Dial { endpoint: dialed, .. }) => assert_eq!(dialed, endpoint("n2:6000")),
        other => panic!("{other:?}"),
    }
    let mut other_queue =
        fibp_proto::Link::<u32>::consumer(&shared, "other".into(), ConsumerSettings::default(), sim.now, 1, None);
    match other_queue.poll_action() {
        Some(fibp_proto::link::Action::Dial { endpoint: dialed, .. }) => assert_eq!(dialed, endpoint("n1:5555")),
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
    assert!(sim.link.poll_consumer_end().is_none());
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

fn framed_node(mode: Mode) -> Sim {
    connected(Config::new("n1:5555").no_heartbeat(), mode, Dialect::Framed)
}

/// Carries parcels between the main link and the links to nodes until none is left.
fn carry(main: &mut Sim, nodes: &mut Vec<(Endpoint, Sim)>, serve: impl Fn(&Request, &str) -> Act + Clone + 'static) {
    for _ in 0..100 {
        main.settle();
        let mut parcels = std::mem::take(&mut main.parcels);
        for (_, node) in nodes.iter_mut() {
            node.settle();
            parcels.append(&mut node.parcels);
        }
        if parcels.is_empty() {
            return;
        }
        for (to, parcel) in parcels {
            let Some(to) = to else {
                give(main, parcel);
                continue;
            };
            if !nodes
                .iter()
                .any(|(known, node)| *known == to && !node.link.is_terminated())
            {
                let mut node = main.node(&to);
                node.dialed = Box::new(|_, _| Host::framed());
                let (serve, name) = (serve.clone(), to.host.clone());
                node.serve = Box::new(move |request, _| serve(request, &name));
                nodes.push((to.clone(), node));
            }
            let (_, node) = nodes.iter_mut().rfind(|(known, _)| *known == to).unwrap();
            give(node, parcel);
        }
    }
    panic!("parcels without end");
}

#[track_caller]
fn give(sim: &mut Sim, parcel: Parcel<Token>) {
    assert!(sim.link.accept(sim.now, parcel).is_none());
}

fn finish_all(main: Sim, nodes: Vec<(Endpoint, Sim)>) {
    for (_, mut node) in nodes {
        node.link.abort(node.now);
        node.advance_secs(2);
        assert_eq!(node.link.poll_timeout(), None);
        assert_eq!(node.link.in_flight(), 0);
        assert!(node.link.is_terminated());
    }
    main.finish();
}

#[test]
fn a_request_goes_to_the_leader_and_completes_there() {
    for mode in MODES {
        let mut main = framed_node(mode);
        main.serve = Box::new(|_, _| Act::Answer(not_leader(Some("n2:6000"))));
        let mut nodes = Vec::new();
        let message = main.enqueue("orders", "m");
        let many = main.enqueue_many(vec![Message::new("orders", "1"), Message::new("other", "2")]);
        let stats = main.call(GetQueueStats { queue: "orders".into() });
        let ack = main.ack("id");
        carry(&mut main, &mut nodes, |request, _| obliging(request));
        assert_eq!(main.enqueued(message).unwrap().as_str(), "of-m");
        let ids: Vec<_> = main
            .enqueued_many(many)
            .into_iter()
            .map(|id| id.unwrap().to_string())
            .collect();
        assert_eq!(ids, ["of-1", "of-2"]);
        assert_eq!(main.output::<GetQueueStats>(stats).unwrap().depth, 3);
        assert!(main.settled(ack).is_ok());
        assert_eq!(nodes.len(), 1, "one link per node");
        assert_eq!(main.link.in_flight(), 0);

        // The learned leader is asked at once.
        let asked = main.asked.len();
        let next = main.enqueue("orders", "next");
        carry(&mut main, &mut nodes, |request, _| obliging(request));
        assert!(main.enqueued(next).is_ok());
        assert_eq!(main.asked.len(), asked);
        finish_all(main, nodes);
    }
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
    main.serve = Box::new(|_, _| Act::Answer(not_leader(Some("n2:1"))));
    let mut nodes = Vec::new();
    let message = main.enqueue("orders", "m");
    let stats = main.call(GetQueueStats { queue: "orders".into() });
    // Two nodes that name each other.
    carry(&mut main, &mut nodes, |_, name| {
        Act::Answer(not_leader(Some(if name == "n2" { "n3:1" } else { "n2:1" })))
    });
    let failed = main.enqueued(message).unwrap_err();
    assert_eq!(
        (failed.kind(), failed.outcome()),
        (ErrorKind::NotLeader, Outcome::Rejected)
    );
    assert_eq!(&*failed.message.payload, b"m");
    assert_eq!(main.response(stats).unwrap_err().kind(), ErrorKind::NotLeader);
    finish_all(main, nodes);
}

#[test]
fn a_node_that_fails_returns_its_work() {
    let mut main = framed_node(Mode::Whole);
    let mut first = true;
    main.serve = Box::new(move |request, _| match request {
        Request::Enqueue(_) if std::mem::take(&mut first) => Act::Answer(not_leader(Some("n2:1"))),
        _ => obliging(request),
    });
    let message = main.enqueue("orders", "m");
    main.settle();
    let (to, parcel) = main.parcels.pop().unwrap();
    let mut node = main.node(&to.unwrap());
    node.dialed = Box::new(|_, _| Host::Refused(fibp_proto::FaultKind::Refused));
    give(&mut node, parcel);
    node.advance_secs(1);
    assert!(node.link.is_terminated() || !node.parcels.is_empty());
    let (to, parcel) = node.parcels.pop().unwrap();
    assert_eq!(to, None, "to the main link");
    give(&mut main, parcel);
    main.settle();
    assert!(main.enqueued(message).is_ok());
    assert!(main.parcels.is_empty(), "the leader that failed is forgotten");
    node.check_inert();
    main.finish();
}

#[test]
fn returned_work_is_not_taken_for_a_call_that_waits() {
    let config = Config::new("n1:5555").no_heartbeat().max_in_flight(2, 1 << 20);
    let mut main = connected(config, Mode::Whole, Dialect::Framed);
    main.serve = Box::new(|_, _| Act::Answer(not_leader(Some("n2:1"))));
    let returned = main.enqueue_many(vec![Message::new("orders", "1"), Message::new("orders", "2")]);
    main.settle();
    let (to, parcel) = main.parcels.pop().unwrap();
    let mut node = main.node(&to.unwrap());
    node.dialed = Box::new(|_, _| Host::Refused(fibp_proto::FaultKind::Refused));
    give(&mut node, parcel);
    node.advance_secs(1);

    // Meanwhile nothing leaves the main link: calls take all its room, and others wait in line for that.
    main.socket().budget = Some(0);
    let stats = [(); 2].map(|()| main.call_within(GetQueueStats { queue: "orders".into() }, None));
    let (message, message_id) = main.enqueue_within("orders", "3", None);
    let later = main.enqueue("orders", "4");
    main.settle();
    give(&mut main, node.parcels.pop().unwrap().1);
    main.settle();
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
    node.check_inert();
    main.finish();
}

#[test]
fn a_node_that_is_lost_in_the_middle_returns_what_is_safe() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(|request, _| match request {
        Request::Enqueue(_) | Request::QueueStats { .. } => Act::Answer(not_leader(Some("n2:1"))),
        _ => obliging(request),
    });
    let message = main.enqueue("orders", "m");
    let stats = main.call(GetQueueStats { queue: "orders".into() });
    main.settle();
    let parcels = std::mem::take(&mut main.parcels);
    let mut node = main.node(&endpoint("n2:1"));
    node.dialed = Box::new(|_, _| Host::framed());
    node.serve = Box::new(|_, _| Act::Silence);
    for (_, parcel) in parcels {
        give(&mut node, parcel);
    }
    node.settle();
    assert_eq!(node.asked.len(), 2);
    node.socket().end(End::Reset);
    node.settle();
    main.serve = Box::new(|request, _| obliging(request));
    for (to, parcel) in std::mem::take(&mut node.parcels) {
        assert_eq!(to, None);
        give(&mut main, parcel);
    }
    main.settle();
    assert_eq!(main.enqueued(message).unwrap_err().outcome(), Outcome::Unknown);
    assert!(main.response(stats).is_ok());
    node.check_inert();
    main.finish();
}

#[test]
fn a_node_that_closes_finishes_what_other_links_send_it() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(|_, _| Act::Answer(not_leader(Some("n2:1"))));
    let messages = ["orders", "bills"].map(|queue| main.enqueue(queue, "m"));
    main.settle();
    let mut parcels = std::mem::take(&mut main.parcels).into_iter().map(|(_, parcel)| parcel);
    let mut node = main.node(&endpoint("n2:1"));
    node.dialed = Box::new(|_, _| Host::framed());
    node.serve = Box::new(|request, _| obliging(request));
    assert!(node.link.accept(node.now, parcels.next().unwrap()).is_none());
    let closed = node.close(5000);
    assert!(node.link.takes_parcels());
    assert!(node.link.accept(node.now, parcels.next().unwrap()).is_none());
    node.settle();
    assert!(!node.link.takes_parcels(), "nothing is open any more");
    assert_eq!(node.closed(closed).flushed, 2);
    for message in messages {
        assert!(main.enqueued(message).is_ok());
    }
    node.check_inert();
    main.finish();
}

/// A consumer that was sent to n2.
fn follow_to_n2(main: &Sim) -> Sim {
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
    let mut nodes = Vec::new();
    let refuse_items = |request: &Request, _: &str| match request {
        Request::Enqueue(items) => {
            let refusal = ServerError::new(ErrorKind::NotLeader, "no leader available").with_code(0x0C);
            Act::Answer(Response::Enqueue(vec![Err(Box::new(refusal)); items.len()]))
        }
        _ => Act::Answer(not_leader(None)),
    };
    // The main server refuses once, as nodes do while a leader is elected; n2 leads no more.
    let mut refusals = 2;
    main.serve = Box::new(move |request, _| {
        if refusals > 0 {
            refusals -= 1;
            return refuse_items(request, "");
        }
        obliging(request)
    });
    let message = main.enqueue("orders", "m");
    let stats = main.call(GetQueueStats { queue: "orders".into() });
    carry(&mut main, &mut nodes, refuse_items);
    assert!(main.enqueued(message).is_ok());
    assert!(main.response(stats).is_ok());
    assert_eq!(nodes[0].1.asked.len(), 2, "each was asked for once there");

    let later = main.enqueue("orders", "later");
    main.settle();
    assert!(main.enqueued(later).is_ok(), "the leader that is none is forgotten");
    consumer.link.abort(consumer.now);
    consumer.settle();
    finish_all(main, nodes);
}

#[test]
fn an_election_that_the_main_server_knows_nothing_of_is_waited_for() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(|_, _| Act::Answer(not_leader(Some("n2:1"))));
    let message = main.enqueue("orders", "m");
    let stats = main.call(GetQueueStats { queue: "orders".into() });
    let mut nodes = Vec::new();
    for _ in 0..30 {
        carry(&mut main, &mut nodes, |_, _| Act::Answer(not_leader(None)));
        assert!(main.is_open(message) && main.is_open(stats));
        main.advance_ms(100);
        for (_, node) in &mut nodes {
            node.now = main.now;
            node.settle();
        }
    }
    assert!(nodes[0].1.asked.len() < 50, "not without pauses");
    nodes[0].1.serve = Box::new(|request, _| obliging(request));
    main.advance_ms(200);
    carry(&mut main, &mut nodes, |request, _| obliging(request));
    assert!(main.enqueued(message).is_ok());
    assert!(main.response(stats).is_ok());
    finish_all(main, nodes);
}

#[test]
fn deadlines_travel_with_the_work() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(|_, _| Act::Answer(not_leader(Some("n2:1"))));
    let message = main.enqueue("orders", "m");
    main.settle();
    let (to, parcel) = main.parcels.pop().unwrap();
    let mut node = main.node(&to.unwrap());
    node.dialed = Box::new(|_, _| Host::framed());
    node.serve = Box::new(|_, _| Act::Silence);
    give(&mut node, parcel);
    node.advance_ms(9_999);
    assert!(main.is_open(message));
    node.advance_ms(1);
    assert_eq!(main.enqueued(message).unwrap_err().kind(), ErrorKind::Timeout);
    finish_all(main, vec![(endpoint("n2:1"), node)]);
}

#[test]
fn a_link_that_is_over_gives_parcels_back() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(|_, _| Act::Answer(not_leader(Some("n2:1"))));
    let message = main.enqueue("orders", "m");
    let stats = main.call(GetQueueStats { queue: "orders".into() });
    main.settle();
    let mut node = main.node(&endpoint("n2:1"));
    node.dialed = Box::new(|_, _| Host::Refused(fibp_proto::FaultKind::Refused));
    node.advance_secs(1);
    node.check_inert();
    main.serve = Box::new(|request, _| obliging(request));
    for (_, parcel) in std::mem::take(&mut main.parcels) {
        let parcel = node.link.accept(node.now, parcel).expect("it has ended");
        give(&mut main, parcel);
    }
    main.settle();
    assert!(main.enqueued(message).is_ok());
    assert!(main.response(stats).is_ok());
    assert!(node.parcels.is_empty());

    // Not for ever: once the main link is closed, what comes back fails.
    main.serve = Box::new(|_, _| Act::Answer(not_leader(Some("n2:1"))));
    let message = main.enqueue("orders", "m");
    let stats = main.call(GetQueueStats { queue: "orders".into() });
    main.settle();
    main.link.abort(main.now);
    for (_, parcel) in std::mem::take(&mut main.parcels) {
        let parcel = node.link.accept(node.now, parcel).expect("it has ended");
        give(&mut main, parcel);
    }
    main.settle();
    assert_eq!(main.enqueued(message).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(main.response(stats).unwrap_err().kind(), ErrorKind::Closed);
    main.finish();
}

#[test]
fn a_flush_waits_for_what_went_to_another_node() {
    for answered in [true, false] {
        let mut main = framed_node(Mode::Whole);
        main.serve = Box::new(|_, _| Act::Answer(not_leader(Some("n2:1"))));
        let producer = main.producer(ProducerSettings::default());
        let (admitted, receipt, _) = main.send(producer, "m");
        main.settle();
        assert!(main.admitted(admitted).is_ok());
        let flush = main.flush(producer);
        main.settle();
        let (to, parcel) = main.parcels.pop().unwrap();
        let mut node = main.node(&to.unwrap());
        node.dialed = Box::new(|_, _| Host::framed());
        node.serve = Box::new(move |request, _| if answered { obliging(request) } else { Act::Silence });
        give(&mut node, parcel);
        assert!(main.is_open(flush), "the message is still under way");
        node.advance_secs(if answered { 0 } else { 10 });
        assert_eq!(main.enqueued(receipt).is_ok(), answered);
        let (to, over) = node.parcels.pop().unwrap();
        assert_eq!(to, None);
        give(&mut main, over);
        main.settle();
        assert_eq!(main.flushed(flush).is_ok(), answered);
        finish_all(main, vec![(endpoint("n2:1"), node)]);
    }
}

#[test]
fn a_flush_does_not_outlive_its_link() {
    let mut main = framed_node(Mode::Whole);
    main.serve = Box::new(|_, _| Act::Answer(not_leader(Some("n2:1"))));
    let producer = main.producer(ProducerSettings::default());
    let (_, receipt, _) = main.send(producer, "m");
    main.settle();
    let flush = main.flush(producer);
    let (to, parcel) = main.parcels.pop().unwrap();
    let mut node = main.node(&to.unwrap());
    node.dialed = Box::new(|_, _| Host::framed());
    node.serve = Box::new(|_, _| Act::Silence);
    give(&mut node, parcel);
    node.settle();
    main.link.abort(main.now);
    main.settle();
    let error = main.flushed(flush).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::Unknown));
    assert!(main.is_open(receipt), "the node may still answer");
    finish_all(main, vec![(endpoint("n2:1"), node)]);
}

#[test]
fn what_went_to_another_node_takes_up_room_until_it_is_over() {
    let config = Config::new("n1:5555").no_heartbeat().max_in_flight(2, 1 << 20);
    let mut main = connected(config, Mode::Whole, Dialect::Framed);
    main.serve = Box::new(|_, _| Act::Answer(not_leader(Some("n2:1"))));
    let away = main.enqueue("orders", "m");
    let stats = main.call(GetQueueStats { queue: "orders".into() });
    main.settle();
    main.serve = Box::new(|request, _| obliging(request));
    let waits = main.enqueue("other", "w");
    main.settle();
    assert!(main.is_open(waits), "there is no room");
    let mut nodes = Vec::new();
    carry(&mut main, &mut nodes, |request, _| obliging(request));
    assert!(main.enqueued(away).is_ok());
    assert!(main.response(stats).is_ok());
    assert!(main.enqueued(waits).is_ok());
    finish_all(main, nodes);
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
        let order: Vec<_> = sim
            .asked
            .iter()
            .filter_map(|asked| match &asked.request {
                Request::Enqueue(messages) => messages.first().map(|message| message.payload.clone()),
                _ => None,
            })
            .collect();
        assert!(
            order.iter().all(|payload| &payload[..] == b"1"),
            "order is kept: {order:?}"
        );
        sim.finish();
    }
}
