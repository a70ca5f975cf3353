//! How callers wait.
//!
//! A caller polls what it waits for on its own thread. In between it does what its [`Worker`] says: it reads the
//! socket if nobody else does, and sleeps otherwise. Calls that travel together are answered together, so their callers
//! share a [`Notifier`]: sixty callers of one frame are then woken by one system call instead of sixty.

use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use fibp_proto::client::{self, Cell, Clients, Driven, Input, Job, News, Worker};
use fibp_proto::{Error, TypedRequest};

use crate::connect::Stream;

/// Locks, whatever another thread's panic left behind: the data is valid between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes everybody who sleeps by it.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    state: Mutex<Notices>,
    condition: Condvar,
}

#[derive(Debug, Default)]
struct Notices {
    count: u64,
    sleepers: usize,
}

impl Notifier {
    pub(crate) fn count(&self) -> u64 {
        lock(&self.state).count
    }

    /// Sleeps while there was no notice since the count was `seen`, until `until` at the latest.
    pub(crate) fn sleep(&self, seen: u64, until: Option<Instant>) {
        let mut state = lock(&self.state);
        state.sleepers += 1;
        while state.count == seen {
            state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.condition.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => {
                    let result = self.condition.wait_timeout(state, left);
                    result.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.sleepers -= 1;
    }

    /// Polls, and sleeps until that is worth trying again.
    pub(crate) fn poll<T>(
        self: &Arc<Self>,
        until: Option<Instant>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let seen = self.count();
        let result = poll(&mut Context::from_waker(&Waker::from(Arc::clone(self))));
        if result.is_pending() {
            self.sleep(seen, until);
        }
        result
    }
}

impl Wake for Notifier {
    fn wake(self: Arc<Self>) {
        let mut state = lock(&self.state);
        state.count = state.count.wrapping_add(1);
        let is_heard = state.sleepers > 0;
        drop(state);
        if is_heard {
            self.condition.notify_all();
        }
    }
}

/// Polls until there is a result, or until `until`, and works for the machine meanwhile.
pub(crate) fn wait_until<M: Driven, T>(
    clients: &Arc<Clients<Stream>>,
    cell: &Arc<Cell<M, Stream>>,
    input: Input,
    until: Option<Instant>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    let mut worker = Worker::caller(clients, cell, input, until);
    // Kept even if it wakes others too: later ones are for later frames.
    let mut notifier: Option<Arc<Notifier>> = None;
    let mut job: Job<Stream> = Job::Look;
    loop {
        let news = match job {
            Job::Look | Job::End => {
                // This thread is awake: nobody has to wake it.
                match poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(result) => return Some(result),
                    Poll::Pending if matches!(job, Job::End) => return None,
                    Poll::Pending => News::Nothing,
                }
            }
            Job::Wait { socket, until } => {
                let next = || socket.map_or_else(Arc::default, |stream| stream.callers());
                let notifier = notifier.get_or_insert_with(next);
                if let Poll::Ready(result) = notifier.poll(until, &mut poll) {
                    return Some(result);
                }
                job = Job::Look;
                continue;
            }
            job => Stream::perform(job),
        };
        job = worker.step(Instant::now(), news);
    }
}

/// What every handle has of its client.
pub(crate) type Handle = client::Handle<Stream>;

/// Makes a call and waits for its answer.
pub(crate) fn call<O: TypedRequest>(handle: &Handle, request: O) -> Result<O::Output, Error> {
    wait(handle, handle.call(request))
}

/// Waits for the end of a future that the client's requests complete.
pub(crate) fn wait<T>(handle: &Handle, future: impl Future<Output = T>) -> T {
    wait_on(handle.clients(), handle.main(), future)
}

/// Waits for the end of a future that a machine completes.
pub(crate) fn wait_on<M: Driven, T>(
    clients: &Arc<Clients<Stream>>,
    cell: &Arc<Cell<M, Stream>>,
    future: impl Future<Output = T>,
) -> T {
    let mut future = pin!(future);
    loop {
        if let Some(result) = wait_until(clients, cell, Input::Answer, None, |cx| future.as_mut().poll(cx)) {
            return result;
        }
    }
}
