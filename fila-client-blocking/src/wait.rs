//! How callers wait.
//!
//! A caller polls what it waits for on its own thread. In between it reads the socket if nobody else does, and
//! sleeps otherwise. Calls that travel together are answered together, so their callers share a [`Bell`]: sixty
//! callers of one frame are then woken by one system call instead of sixty.

use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use fibp_proto::Error;
use fibp_proto::link::Reply;
use fibp_proto::task::{Call, Waiter};

use crate::client::Client;
use crate::connect::SLICE;
use crate::driver::{Driver, Line, Port, Read};

/// Locks, whatever another thread's panic left behind: the data is valid between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification, until `until` at the latest.
pub(crate) fn sleep<'a, T>(bell: &Condvar, guard: MutexGuard<'a, T>, until: Option<Instant>) -> MutexGuard<'a, T> {
    match until {
        None => bell.wait(guard).unwrap_or_else(PoisonError::into_inner),
        Some(until) => {
            let time = until.saturating_duration_since(Instant::now());
            bell.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

/// Wakes everybody who sleeps by it.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    state: Mutex<Rings>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Rings {
    count: u64,
    sleepers: usize,
}

impl Bell {
    fn count(&self) -> u64 {
        lock(&self.state).count
    }

    /// Sleeps while nothing has rung since the count was `seen`.
    fn sleep(&self, seen: u64, until: Option<Instant>) {
        let mut state = lock(&self.state);
        state.sleepers += 1;
        while state.count == seen && until.is_none_or(|until| Instant::now() < until) {
            state = sleep(&self.bell, state, until);
        }
        state.sleepers -= 1;
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let mut state = lock(&self.state);
        state.count = state.count.wrapping_add(1);
        let is_heard = state.sleepers > 0;
        drop(state);
        if is_heard {
            self.bell.notify_all();
        }
    }
}

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// An answer, which may come on another link.
    Answer,
    /// What the server sends unasked.
    Push,
}

/// Polls until there is a result, or until `until`, and reads from `line` meanwhile if nobody else does.
pub(crate) fn wait_until<T>(
    line: Option<&Arc<Line>>,
    input: Input,
    until: Option<Instant>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    let driver = line.and_then(Driver::of);
    let bell = driver.as_ref().map_or_else(Arc::default, Driver::bell);
    let waker = Waker::from(Arc::clone(&bell));
    let mut cx = Context::from_waker(&waker);
    let mut leading = None;
    loop {
        let seen = bell.count();
        if let Poll::Ready(result) = poll(&mut cx) {
            return Some(result);
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return None;
        }
        // A read cannot be cut short: close to the caller's own limit it is better to sleep.
        let may_read = left.is_none_or(|left| left > SLICE);
        if !may_read {
            leading = None;
        } else if leading.is_none() {
            leading = driver.as_ref().and_then(|driver| driver.lead(input));
        }
        if let Some(leader) = &leading {
            let (read, turn) = leader.read();
            if read == Read::Bytes && !turn.rerouted {
                continue;
            }
            leading = None;
        }
        if let Some(driver) = &driver {
            driver.want_reader();
        }
        bell.sleep(seen, until);
    }
}

/// Waits for the end of a future.
pub(crate) fn wait<T>(line: &Arc<Line>, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Some(result) = wait_until(Some(line), Input::Answer, None, |cx| future.as_mut().poll(cx)) {
            return result;
        }
    }
}

/// A call on a client's main link whose result is waited for later, if at all.
#[derive(Debug)]
pub(crate) struct Pending<R> {
    client: Client,
    call: Call<Port>,
    result: Option<R>,
    read: fn(Result<Reply<Waiter>, Error>) -> R,
}

impl<R: Clone> Pending<R> {
    pub(crate) fn new(client: Client, call: Call<Port>, read: fn(Result<Reply<Waiter>, Error>) -> R) -> Self {
        Self {
            client,
            call,
            result: None,
            read,
        }
    }

    pub(crate) fn wait(mut self) -> R {
        loop {
            if let Some(result) = self.wait_until(None) {
                return result;
            }
        }
    }

    pub(crate) fn wait_timeout(&mut self, timeout: Duration) -> Option<R> {
        self.wait_until(Instant::now().checked_add(timeout))
    }

    fn wait_until(&mut self, until: Option<Instant>) -> Option<R> {
        if self.result.is_none() {
            let call = &mut self.call;
            let reply = wait_until(Some(self.client.handle.main()), Input::Answer, until, |cx| {
                pin!(&mut *call).poll(cx)
            })?;
            self.result = Some((self.read)(reply));
        }
        self.result.clone()
    }
}
