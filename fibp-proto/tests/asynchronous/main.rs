//! The asynchronous client on a runtime that is stepped by hand, on virtual time.

mod by_hand;
#[cfg(feature = "sink")]
mod sink;
#[cfg(feature = "tracing")]
mod spans;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use by_hand::{ByHand, P1, Stepped, advance, now};
use fibp_proto::client::Client;
use fibp_proto::{Config, ErrorKind, Message};

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_client_needs_nothing_but_its_runtime() {
    let runtime = ByHand::new();
    let client = runtime.client();
    let id = runtime.block_on(client.enqueue(Message::new("orders", "one"))).unwrap();
    assert_eq!(id.as_str(), "id");
    let Poll::Ready(Err(error)) =
        pin!(Client::<ByHand>::connect("fila://server")).poll(&mut Context::from_waker(Waker::noop()))
    else {
        panic!("no runtime was named");
    };
    assert_eq!(error.kind(), ErrorKind::Config);
}

/// A flood of tiny frames does not keep the thread from its other tasks: one poll reads about a buffer of them.
#[test]
fn a_poll_is_bounded_by_frames_as_well_as_by_bytes() {
    let runtime = ByHand::new();
    let client = runtime.client();
    let frame = runtime.server.lock().unwrap().flood();
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut polls = 0;
    let mut frames = 0;
    while frames < 100_000 {
        let before = runtime.server.lock().unwrap().read;
        runtime.turn(&waker);
        let read = (runtime.server.lock().unwrap().read - before) / frame;
        assert!(read > 0, "it goes on reading");
        assert!(
            read <= 1024 + 64 * 1024 / frame,
            "{read} frames of {frame} bytes in one poll"
        );
        polls += 1;
        frames += read;
        assert!(count.0.load(Ordering::SeqCst) >= polls, "it wants to go on");
    }
    // Nothing is starved by it either.
    runtime.server.lock().unwrap().flood = None;
    assert!(runtime.block_on(client.enqueue(Message::new("orders", "one"))).is_ok());
}

/// How often a driver is woken by a call that its caller writes.
fn wakes_of_a_write<const WAKE: bool>() -> usize {
    let runtime = Stepped::<WAKE>::new();
    let client = runtime.client();
    // From now on there is a timer that is due before later calls.
    assert!(runtime.block_on(client.enqueue(Message::new("orders", "zero"))).is_ok());
    let count = Arc::new(Count::default());
    runtime.settle();
    runtime.turn(&Waker::from(Arc::clone(&count)));
    let before = count.0.load(Ordering::SeqCst);
    let mut call = pin!(client.enqueue(Message::new("orders", "one")));
    assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(
        runtime.server.lock().unwrap().enqueued,
        [["zero"], ["one"]],
        "written at once"
    );
    let wakes = count.0.load(Ordering::SeqCst) - before;
    assert!(runtime.block_on(call).is_ok());
    wakes
}

#[test]
fn a_driver_is_woken_after_a_write_where_its_runtime_says_so() {
    assert_eq!(wakes_of_a_write::<true>(), 1);
    assert_eq!(wakes_of_a_write::<false>(), 0);
}

#[test]
fn a_runtime_that_ends_fails_its_calls() {
    let runtime = ByHand::new();
    let client = runtime.client();
    runtime.tasks.lock().unwrap().clear();
    let failed = runtime
        .block_on(client.enqueue(Message::new("orders", "one")))
        .unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Closed);
    assert_eq!(failed.message.payload.as_ref(), b"one");
}

/// The next address of a name is dialed when the first has not answered for as long as configured.
#[test]
fn addresses_are_dialed_one_after_another_as_configured() {
    let delay = Duration::from_secs(7);
    let config = || {
        let config = Config::new("server:1").dialect(P1).no_heartbeat();
        config.connect_timeout(Duration::from_secs(60))
    };
    let deaf = SocketAddr::from(([127, 0, 0, 1], 1));
    for (delay, config) in [
        (delay, config().happy_eyeballs_delay(delay)),
        (Duration::from_millis(250), config()),
    ] {
        let runtime = ByHand::new();
        runtime.dials.lock().unwrap().deaf.push(deaf);
        let mut connecting = pin!(Client::connect_on(runtime.clone(), config));
        for _ in 0..100 {
            assert!(
                connecting
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()))
                    .is_pending()
            );
            runtime.turn(Waker::noop());
        }
        let dials = runtime.dials.lock().unwrap();
        assert_eq!(dials.asked.len(), 1, "{:?}", dials.asked);
        assert!(dials.timers.contains(&(now() + delay)), "{:?}", dials.timers);
        drop(dials);
        advance(delay);
        assert!(runtime.block_on(connecting).is_ok());
        assert_eq!(runtime.dials.lock().unwrap().asked.len(), 2);
    }
}

/// Sockets are opened as configured: those of consumers with a receive buffer of their own.
#[test]
fn sockets_have_the_options_that_are_configured() {
    let runtime = ByHand::new();
    let keepalive = Duration::from_secs(7);
    let config = Config::new("server:1").dialect(P1).no_heartbeat().keepalive(keepalive);
    let client = runtime.block_on(Client::connect_on(runtime.clone(), config)).unwrap();
    let mut opening = pin!(client.consumer("orders").receive_buffer(12_345).open());
    while runtime.dials.lock().unwrap().asked.len() < 2 {
        // Nobody answers it.
        assert!(
            opening
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        runtime.turn(Waker::noop());
    }
    let dials = runtime.dials.lock().unwrap();
    let asked: Vec<_> = dials
        .asked
        .iter()
        .map(|(_, options)| (options.keepalive, options.receive_buffer))
        .collect();
    assert_eq!(asked, [(Some(keepalive), None), (Some(keepalive), Some(12_345))]);
}
