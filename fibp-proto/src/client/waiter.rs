//! Who waits for which reply.

use crate::error::{Error, SendError};
use crate::machine::{CloseReport, Reply};
use crate::message::MessageId;
use crate::response::Response;

/// The token of adapters: says whose a reply is. Its caller waits by a [`Call`](super::Call).
#[derive(Debug)]
pub struct Waiter(pub(super) u64);

impl Waiter {
    /// Nobody waits.
    pub(super) const NOBODY: Self = Self(0);

    pub(super) fn is_nobody(&self) -> bool {
        self.0 == Self::NOBODY.0
    }
}

/// Numbers the waiters of a machine.
#[derive(Debug, Default)]
pub(super) struct Waiters(u64);

impl Waiters {
    /// A waiter, and its number.
    pub(super) fn next(&mut self) -> (Waiter, u64) {
        // From 1 on. Counts for centuries.
        self.0 += 1;
        (Waiter(self.0), self.0)
    }
}

/// Declares what can be waited for.
macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident($output:ty): $reply:pat => $value:expr;)+) => {
        /// The kinds of [`Answer`], one for each kind of [`Reply`].
        pub mod answer {
            use super::{Answer, CloseReport, Error, Failure, MessageId, Reply, Response, SendError};

            $(
                $(#[$doc])*
                #[derive(Debug)]
                pub enum $name {}

                impl Answer for $name {
                    type Output = $output;

                    fn output(reply: Reply) -> Option<Self::Output> {
                        match reply {
                            $reply => Some($value),
                            _ => None,
                        }
                    }

                    fn error(output: &Self::Output) -> Option<&Error> {
                        output.failure()
                    }
                }
            )+
        }
    };
}

answers! {
    /// A channel is open: see [`Reply::Opened`](crate::machine::Reply::Opened).
    Opened(Result<(), Error>): Reply::Opened(result) => result;
    /// A request's answer: see [`Reply::Response`](crate::machine::Reply::Response).
    Answered(Result<Box<Response>, Error>): Reply::Response(result) => result;
    /// One message's result: see [`Reply::Enqueued`](crate::machine::Reply::Enqueued).
    Enqueued(Result<MessageId, Box<SendError>>): Reply::Enqueued(result) => result;
    /// The results of many messages: see [`Reply::EnqueuedMany`](crate::machine::Reply::EnqueuedMany).
    EnqueuedMany(Vec<Result<MessageId, SendError>>): Reply::EnqueuedMany(results) => results;
    /// One ack's or nack's result: see [`Reply::Settled`](crate::machine::Reply::Settled).
    Settled(Result<(), Error>): Reply::Settled(result) => result;
    /// The results of many acks or nacks: see [`Reply::SettledMany`](crate::machine::Reply::SettledMany).
    SettledMany(Vec<Result<(), Error>>): Reply::SettledMany(results) => results;
    /// Room in a producer's buffer: see [`Reply::Room`](crate::machine::Reply::Room).
    Room(Result<(), Error>): Reply::Room(result) => result;
    /// A producer's messages are settled: see [`Reply::Flushed`](crate::machine::Reply::Flushed).
    Flushed(Result<(), Error>): Reply::Flushed(result) => result;
    /// A delivery waits: see [`Reply::Ready`](crate::machine::Reply::Ready).
    Ready(()): Reply::Ready => ();
    /// A consumer stopped receiving: see [`Reply::Drained`](crate::machine::Reply::Drained).
    Drained(()): Reply::Drained => ();
    /// A machine is closed: see [`Reply::Closed`](crate::machine::Reply::Closed).
    Closed(CloseReport): Reply::Closed(report) => report;
}

/// What a [`Call`](super::Call) can be answered with.
pub trait Answer {
    /// The answer itself.
    type Output;

    /// What a reply of this kind says; `None` if it is of another kind.
    fn output(reply: Reply) -> Option<Self::Output>;

    /// Why there is no better answer; of several, the first.
    fn error(output: &Self::Output) -> Option<&Error>;
}

/// What an answer says of a failure.
trait Failure {
    fn failure(&self) -> Option<&Error>;
}

impl<T> Failure for Result<T, Error> {
    fn failure(&self) -> Option<&Error> {
        self.as_ref().err()
    }
}

impl<T> Failure for Result<T, SendError> {
    fn failure(&self) -> Option<&Error> {
        self.as_ref().err().map(|failed| &failed.error)
    }
}

impl<T> Failure for Result<T, Box<SendError>> {
    fn failure(&self) -> Option<&Error> {
        self.as_ref().err().map(|failed| &failed.error)
    }
}

impl<R: Failure> Failure for Vec<R> {
    fn failure(&self) -> Option<&Error> {
        self.iter().find_map(R::failure)
    }
}

impl Failure for () {
    fn failure(&self) -> Option<&Error> {
        None
    }
}

impl Failure for CloseReport {
    fn failure(&self) -> Option<&Error> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_reply_is_read_by_its_answer() {
        assert!(answer::Opened::output(Reply::Opened(Ok(()))).unwrap().is_ok());
        assert!(answer::Answered::output(Reply::Response(Ok(Box::new(Response::Heartbeat)))).is_some());
        let enqueued = answer::Enqueued::output(Reply::Enqueued(Ok("id".into())));
        assert_eq!(enqueued.unwrap().unwrap(), "id");
        assert!(answer::EnqueuedMany::output(Reply::EnqueuedMany(Vec::new())).is_some());
        assert!(answer::Settled::output(Reply::Settled(Ok(()))).is_some());
        let settled = answer::SettledMany::output(Reply::SettledMany(vec![Ok(())]));
        assert_eq!(settled.unwrap().len(), 1);
        assert!(answer::Room::output(Reply::Room(Ok(()))).is_some());
        assert!(answer::Flushed::output(Reply::Flushed(Ok(()))).is_some());
        assert!(answer::Ready::output(Reply::Ready).is_some());
        assert!(answer::Drained::output(Reply::Drained).is_some());
        let report = CloseReport::default();
        assert_eq!(answer::Closed::output(Reply::Closed(report)), Some(report));
        assert!(answer::Flushed::output(Reply::Ready).is_none(), "of another kind");
    }
}
