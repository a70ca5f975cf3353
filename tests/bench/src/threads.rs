//! The blocking adapter, and what its threads cost without a socket.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use fibp_proto::QueueName;
use fila_client_blocking::Client;

use crate::target::message;
use crate::{Rate, Slice, Start};

/// One call after another.
pub(super) fn sequential(client: &Client, queue: &QueueName, slice: Slice) -> Rate {
    let start = Start::now();
    let mut calls = 0;
    while !slice.is_over(start.at, calls) {
        client.enqueue(message(queue)).expect("confirmed");
        calls += 1;
    }
    start.rate(calls)
}

/// The same work from many threads at once, for one slice.
pub(super) fn concurrently(threads: usize, slice: Slice, work: impl Fn() -> u64 + Send + Sync + 'static) -> Rate {
    let (work, stop, done) = (
        Arc::new(work),
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let start = Start::now();
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let (work, stop, done) = (work.clone(), stop.clone(), done.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let done = done.fetch_add(work(), Ordering::Relaxed);
                    if slice.is_over(start.at, done) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("workers do not panic");
    }
    start.rate(done.load(Ordering::Relaxed))
}

/// What threads that wait for another thread cost by themselves: callers put themselves in line, one thread answers
/// all that are in line with one wake-up, as a client does for the calls of one frame.
#[derive(Debug, Default)]
pub(super) struct WakeUps {
    state: Mutex<Line>,
    asked: Condvar,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Line {
    next: u64,
    answered: u64,
    stop: bool,
}

impl WakeUps {
    /// With the thread that answers.
    pub(super) fn start() -> Arc<Self> {
        let line = Arc::new(Self::default());
        std::thread::spawn({
            let line = line.clone();
            move || line.answer()
        });
        line
    }

    /// One call.
    pub(super) fn call(&self) {
        let mut state = self.lock();
        state.next += 1;
        let mine = state.next;
        self.asked.notify_one();
        while state.answered < mine {
            state = self.answered.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the thread that answers.
    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.asked.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Line> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self) {
        let mut state = self.lock();
        while !state.stop {
            if state.answered == state.next {
                state = self.asked.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                state.answered = state.next;
                self.answered.notify_all();
            }
        }
    }
}
