//! Where callers sleep until their reply arrives.
//!
//! Calls that travel together are answered together, so they share a mutex and a condition variable: a
//! [`Cohort`]. Sixty callers of one frame are then woken by one system call instead of sixty.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fibp_proto::link::{Completion, Reply};

use crate::reply::Answer;

/// The most calls in one cohort: bounds what one kept receipt can pin.
const MAX_COHORT: usize = 64;

/// Locks, whatever another thread's panic left behind: the data is valid between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification, until `until` at the latest.
pub(crate) fn wait<'a, T>(bell: &Condvar, guard: MutexGuard<'a, T>, until: Option<Instant>) -> MutexGuard<'a, T> {
    match until {
        None => bell.wait(guard).unwrap_or_else(PoisonError::into_inner),
        Some(until) => {
            let time = until.saturating_duration_since(Instant::now());
            bell.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

/// One call's place in a cohort.
#[derive(Debug)]
enum Cell {
    /// No reply yet, and nobody sleeps for it.
    Open,
    /// No reply yet, and a caller sleeps for it.
    Awaited,
    /// The reply.
    Done(Reply<Token>),
    /// The token was dropped without a reply: the link is gone.
    Lost,
    /// The reply was taken.
    Taken,
}

/// Calls that will probably be answered together.
#[derive(Debug)]
struct Cohort {
    cells: Mutex<Vec<Cell>>,
    bell: Condvar,
    /// The sleepers of the link that made this cohort.
    sleepers: Arc<AtomicUsize>,
}

impl Cohort {
    fn new(sleepers: &Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self {
            cells: Mutex::default(),
            bell: Condvar::new(),
            sleepers: Arc::clone(sleepers),
        })
    }

    /// Wakes the sleepers of which `woken` have their reply now.
    fn wake(&self, woken: usize) {
        if woken > 0 {
            self.sleepers.fetch_sub(woken, Ordering::SeqCst);
            self.bell.notify_all();
        }
    }
}

/// Fills a cell; 1 if somebody sleeps for it.
fn fill(cells: &mut [Cell], index: usize, content: Cell) -> usize {
    let Some(cell) = cells.get_mut(index) else { return 0 };
    usize::from(matches!(mem::replace(cell, content), Cell::Awaited))
}

/// Hands out places in cohorts.
#[derive(Debug)]
pub(crate) struct Cohorts {
    current: Arc<Cohort>,
    /// A frame went out since the current cohort began.
    closed: bool,
}

impl Cohorts {
    pub(crate) fn new(sleepers: &Arc<AtomicUsize>) -> Self {
        Self {
            current: Cohort::new(sleepers),
            closed: false,
        }
    }

    /// A frame goes out: later calls travel in another one.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Both ends of a place for one reply.
    pub(crate) fn pair(&mut self) -> (Token, Ticket) {
        if let Some(unused) = Arc::get_mut(&mut self.current) {
            unused.cells.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        } else if self.closed || lock(&self.current.cells).len() >= MAX_COHORT {
            self.current = Cohort::new(&self.current.sleepers);
        }
        self.closed = false;
        let mut cells = lock(&self.current.cells);
        let index = cells.len();
        cells.push(Cell::Open);
        drop(cells);
        let token = Token {
            cohort: Some(Arc::clone(&self.current)),
            index,
        };
        let ticket = Ticket {
            cohort: Arc::clone(&self.current),
            index,
        };
        (token, ticket)
    }
}

/// The link's end of a place.
#[derive(Debug)]
pub(crate) struct Token {
    /// `None` once the reply was given.
    cohort: Option<Arc<Cohort>>,
    index: usize,
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some(cohort) = self.cohort.take() {
            let woken = fill(&mut lock(&cohort.cells), self.index, Cell::Lost);
            cohort.wake(woken);
        }
    }
}

/// Gives every completion to its waiter, and returns how many slept. Not to be called under a link's lock.
pub(crate) fn deliver(completions: &mut Vec<Completion<Token>>) -> usize {
    let mut total = 0;
    let mut rest = completions.drain(..).peekable();
    while let Some(mut first) = rest.next() {
        let Some(cohort) = first.token.cohort.take() else {
            continue;
        };
        let mut cells = lock(&cohort.cells);
        let mut woken = fill(&mut cells, first.token.index, Cell::Done(first.reply));
        let is_neighbour = |next: &Completion<Token>| {
            let other = next.token.cohort.as_ref();
            other.is_some_and(|other| Arc::ptr_eq(other, &cohort))
        };
        while let Some(mut next) = rest.next_if(is_neighbour) {
            next.token.cohort = None;
            woken += fill(&mut cells, next.token.index, Cell::Done(next.reply));
        }
        drop(cells);
        cohort.wake(woken);
        total += woken;
    }
    total
}

/// The caller's end of a place.
#[derive(Debug)]
pub(crate) struct Ticket {
    cohort: Arc<Cohort>,
    index: usize,
}

impl Ticket {
    /// The reply, if it is there. It can be taken once.
    pub(crate) fn take(&self) -> Option<Answer> {
        Self::take_from(&mut lock(&self.cohort.cells), self.index)
    }

    /// Whether the reply is still to come.
    pub(crate) fn is_open(&self) -> bool {
        matches!(
            lock(&self.cohort.cells).get(self.index),
            Some(Cell::Open | Cell::Awaited)
        )
    }

    fn take_from(cells: &mut [Cell], index: usize) -> Option<Answer> {
        let cell = cells.get_mut(index)?;
        match mem::replace(cell, Cell::Taken) {
            Cell::Done(reply) => Some(Answer(Some(reply))),
            Cell::Lost => Some(Answer(None)),
            other => {
                *cell = other;
                None
            }
        }
    }

    /// Counts this caller among the sleepers. To be called under the link's lock, so that a leader who leaves
    /// sees it; [`sleep`](Self::sleep) must follow.
    pub(crate) fn lie_down(&self) {
        if let Some(cell @ Cell::Open) = lock(&self.cohort.cells).get_mut(self.index) {
            *cell = Cell::Awaited;
            self.cohort.sleepers.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Sleeps until the reply is there, or until `until`.
    pub(crate) fn sleep(&self, until: Option<Instant>) -> Option<Answer> {
        let mut cells = lock(&self.cohort.cells);
        loop {
            if let Some(reply) = Self::take_from(&mut cells, self.index) {
                return Some(reply);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                if fill(&mut cells, self.index, Cell::Open) > 0 {
                    self.cohort.sleepers.fetch_sub(1, Ordering::SeqCst);
                }
                return None;
            }
            cells = wait(&self.cohort.bell, cells, until);
        }
    }
}
