//! Producers as sinks.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fibp_proto::client::{Client, Producer, ProducerBuilder};
use fibp_proto::config::{Batching, OnFull};
use fibp_proto::{ErrorKind, Event, Message, Outcome, SendError};
use futures_sink::Sink;

use crate::by_hand::{ByHand, advance};

const LONG: Duration = Duration::from_secs(3600);

fn message(payload: &str) -> Message {
    Message::new("orders", payload.to_owned())
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// What one message of these tests costs in a buffer, with something to spare.
const ONE: usize = 150;

struct Sunk {
    runtime: ByHand,
    client: Client<ByHand>,
    producer: Producer<ByHand>,
}

impl Sunk {
    /// A producer that lingers for an hour, and whose buffer has room for one message.
    fn new() -> Self {
        Self::with(|producer| producer.max_bytes(ONE).buffer(ONE))
    }

    /// A producer that lingers for an hour, of a server that holds its answers.
    fn with(options: impl FnOnce(ProducerBuilder<ByHand>) -> ProducerBuilder<ByHand>) -> Self {
        let runtime = ByHand::new();
        let client = runtime.client();
        let lingering = client.producer().batching(Batching::Linger {
            delay: LONG,
            max_messages: 1000,
        });
        let producer = options(lingering).build().unwrap();
        runtime.server.lock().unwrap().hold = true;
        Self {
            runtime,
            client,
            producer,
        }
    }

    /// The same, of a server that answers at once.
    fn answered() -> Self {
        let sunk = Self::with(|producer| producer.batching(Batching::Auto).max_bytes(ONE).buffer(10 * ONE));
        sunk.runtime.server.lock().unwrap().hold = false;
        sunk
    }

    fn ready(&mut self) -> Poll<Result<(), SendError>> {
        Pin::new(&mut self.producer).poll_ready(&mut cx())
    }

    fn start(&mut self, payload: &str) -> Result<(), SendError> {
        assert_eq!(self.ready(), Poll::Ready(Ok(())));
        Pin::new(&mut self.producer).start_send(message(payload))
    }

    fn flush(&mut self) -> Poll<Result<(), SendError>> {
        let result = Pin::new(&mut self.producer).poll_flush(&mut cx());
        self.runtime.settle();
        result
    }

    fn close(&mut self) -> Poll<Result<(), SendError>> {
        let result = Pin::new(&mut self.producer).poll_close(&mut cx());
        self.runtime.settle();
        result
    }

    fn enqueued(&self) -> Vec<Vec<String>> {
        self.runtime.server.lock().unwrap().enqueued.clone()
    }
}

fn failure(result: Poll<Result<(), SendError>>) -> (ErrorKind, Message) {
    match result {
        Poll::Ready(Err(SendError { message, error })) => (error.kind(), message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_gather_until_a_flush_which_waits_for_their_answers() {
    let mut sunk = Sunk::with(|producer| producer);
    for payload in ["one", "two", "three"] {
        sunk.start(payload).unwrap();
    }
    sunk.runtime.settle();
    assert!(sunk.enqueued().is_empty(), "it lingers");
    assert!(sunk.flush().is_pending());
    assert_eq!(sunk.enqueued(), [["one", "two", "three"]], "one frame, at once");
    assert!(sunk.flush().is_pending(), "not confirmed");
    sunk.runtime.answer();
    assert_eq!(sunk.flush(), Poll::Ready(Ok(())));
    // The next one lingers again, and the next flush sends it.
    sunk.start("four").unwrap();
    sunk.runtime.settle();
    assert_eq!(sunk.enqueued().len(), 1);
    assert!(sunk.flush().is_pending());
    assert_eq!(sunk.enqueued().len(), 2);
}

#[test]
fn a_full_buffer_makes_the_sink_wait_and_loses_nothing() {
    let mut sunk = Sunk::new();
    sunk.start("one").unwrap();
    sunk.start("two").unwrap();
    assert!(sunk.ready().is_pending(), "the second has no room yet");
    let Err(refused) = Pin::new(&mut sunk.producer).start_send(message("three")) else {
        panic!("there is no place for it");
    };
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert_eq!(refused.message, message("three"));
    assert!(sunk.flush().is_pending());
    assert_eq!(sunk.enqueued(), [["one"]]);
    sunk.runtime.answer();
    assert_eq!(sunk.ready(), Poll::Ready(Ok(())), "the answer made room");
    assert!(sunk.flush().is_pending(), "the second lingers no more");
    assert_eq!(sunk.enqueued(), [["one"], ["two"]]);
    sunk.runtime.answer();
    assert_eq!(sunk.flush(), Poll::Ready(Ok(())));
}

#[test]
fn on_full_fail_gives_the_message_back() {
    let mut sunk = Sunk::with(|producer| producer.max_bytes(ONE).buffer(ONE).on_full(OnFull::Fail));
    sunk.start("one").unwrap();
    let refused = sunk.start("two").unwrap_err();
    assert_eq!(
        (refused.kind(), refused.message),
        (ErrorKind::Overloaded, message("two"))
    );
    assert!(sunk.flush().is_pending());
    sunk.runtime.answer();
    assert_eq!(sunk.flush(), Poll::Ready(Ok(())));
}

#[test]
fn failures_come_back_from_flushes_one_by_one_and_never_cost_another_message() {
    let mut sunk = Sunk::with(|producer| producer);
    for payload in ["bad 1", "good", "bad 2"] {
        sunk.start(payload).unwrap();
    }
    assert!(sunk.flush().is_pending());
    sunk.runtime.answer();
    // A combinator that holds a message here would drop it if `poll_ready` failed.
    sunk.start("later").unwrap();
    assert_eq!(failure(sunk.flush()), (ErrorKind::QueueNotFound, message("bad 1")));
    assert_eq!(failure(sunk.flush()), (ErrorKind::QueueNotFound, message("bad 2")));
    assert!(sunk.flush().is_pending(), "the later one is under way");
    sunk.runtime.answer();
    assert_eq!(sunk.flush(), Poll::Ready(Ok(())));
    assert_eq!(sunk.enqueued().concat(), ["bad 1", "good", "bad 2", "later"]);
}

#[test]
fn a_message_without_an_answer_comes_back_when_its_time_is_up() {
    let mut sunk = Sunk::new();
    sunk.start("sent").unwrap();
    assert!(sunk.flush().is_pending());
    sunk.start("waits for room").unwrap();
    assert!(sunk.flush().is_pending());
    advance(Duration::from_secs(11));
    sunk.runtime.settle();
    let Poll::Ready(Err(failed)) = sunk.flush() else {
        panic!()
    };
    assert_eq!(
        (failed.kind(), failed.outcome()),
        (ErrorKind::Timeout, Outcome::NotSent)
    );
    assert_eq!(failed.message, message("waits for room"));
    let Poll::Ready(Err(failed)) = sunk.flush() else {
        panic!()
    };
    assert_eq!(
        (failed.kind(), failed.outcome()),
        (ErrorKind::Timeout, Outcome::Unknown)
    );
    assert_eq!(failed.message, message("sent"));
    assert_eq!(sunk.flush(), Poll::Ready(Ok(())));
}

#[test]
fn failures_that_nobody_fetches_are_bounded() {
    let mut sunk = Sunk::answered();
    let mut taken = 0;
    let refused = loop {
        assert!(taken < 1000, "it takes on and on");
        match sunk.start("bad") {
            Ok(()) => taken += 1,
            Err(refused) => break refused,
        }
        sunk.runtime.settle();
    };
    assert_eq!(
        (refused.kind(), refused.message),
        (ErrorKind::Overloaded, message("bad"))
    );
    assert!(
        refused.error.to_string().contains("flush the sink"),
        "{}",
        refused.error
    );
    for _ in 0..taken {
        assert_eq!(failure(sunk.flush()), (ErrorKind::QueueNotFound, message("bad")));
    }
    assert_eq!(sunk.flush(), Poll::Ready(Ok(())));
    sunk.start("good").unwrap();
}

#[test]
fn receipts_that_are_ready_do_not_pile_up() {
    let mut sunk = Sunk::answered();
    for n in 0..1_000 {
        sunk.start(&n.to_string()).unwrap();
        sunk.runtime.settle();
    }
    let shown = format!("{:?}", sunk.producer);
    let (_, under_way) = shown.split_once("under_way: ").unwrap();
    let (under_way, _) = under_way.split_once(',').unwrap();
    let under_way: usize = under_way.parse().unwrap();
    assert!(under_way <= 64, "{under_way} receipts are held");
    assert_eq!(sunk.flush(), Poll::Ready(Ok(())));
}

#[test]
fn a_closed_sink_takes_nothing_more_and_its_clones_do() {
    let mut sunk = Sunk::with(|producer| producer);
    sunk.start("bad").unwrap();
    sunk.start("good").unwrap();
    assert!(sunk.close().is_pending());
    sunk.runtime.answer();
    assert_eq!(failure(sunk.close()), (ErrorKind::QueueNotFound, message("bad")));
    assert_eq!(sunk.close(), Poll::Ready(Ok(())));
    let refused = sunk.start("late").unwrap_err();
    assert_eq!((refused.kind(), refused.message), (ErrorKind::Closed, message("late")));
    let mut clone = sunk.producer.clone();
    assert!(Pin::new(&mut clone).start_send(message("another")).is_ok());
}

#[test]
fn what_a_dropped_sink_leaves_behind_goes_or_is_an_event() {
    let unconfirmed = |sunk: Sunk| {
        let Sunk {
            runtime,
            client,
            producer,
        } = sunk;
        let mut events = client.events();
        drop(producer);
        let event = runtime.block_on(events.next()).unwrap();
        runtime.settle();
        let enqueued = runtime.server.lock().unwrap().enqueued.concat();
        match event {
            Event::Unconfirmed { queue, error } if &*queue == "orders" => (error.kind(), error.outcome(), enqueued),
            other => panic!("{other}"),
        }
    };

    let mut sunk = Sunk::new();
    sunk.start("one").unwrap();
    sunk.start("without room").unwrap();
    let (kind, outcome, enqueued) = unconfirmed(sunk);
    assert_eq!((kind, outcome), (ErrorKind::Closed, Outcome::NotSent));
    assert_eq!(enqueued, ["one"], "what had room goes");

    let mut sunk = Sunk::with(|producer| producer);
    sunk.start("bad").unwrap();
    assert!(sunk.flush().is_pending());
    sunk.runtime.answer();
    sunk.start("lingers").unwrap();
    let (kind, _, enqueued) = unconfirmed(sunk);
    assert_eq!(kind, ErrorKind::QueueNotFound);
    assert_eq!(enqueued, ["bad", "lingers"]);
}
