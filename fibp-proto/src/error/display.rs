//! The words of an error: what was done, where, what happened, and what to do about it, each once.

use core::fmt;

use super::text::{escaped, quoted};
use super::{Error, ErrorKind, Outcome};
use crate::prelude::*;
use crate::request::Op;
use crate::response::ServerError;

/// `operation at address: kind: cause (details); remedy`.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.without_remedy())?;
        match (&self.0.remedy, self.remedy()) {
            (Some(remedy), _) => write!(f, "; {}", escaped(remedy)),
            (None, Some(remedy)) => write!(f, "; {remedy}"),
            (None, None) => Ok(()),
        }
    }
}

impl Error {
    /// What happened, without operation, address and remedy: to be quoted in another error.
    pub(crate) fn cause(&self) -> impl fmt::Display + '_ {
        Cause(self)
    }

    /// What was done, where, and what happened: to be quoted in another error.
    pub(crate) fn without_remedy(&self) -> impl fmt::Display + '_ {
        WithoutRemedy(self)
    }

    /// What was done, and where.
    fn write_place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        if let Some(doing) = &inner.doing {
            write!(f, "{doing}")?;
            if inner.connecting {
                f.write_str(": ")?;
            }
        }
        match (&inner.doing, &inner.at) {
            (_, Some(at)) if inner.connecting => write!(f, "connect to {}: ", escaped(&at.to_string())),
            (_, None) if inner.connecting => f.write_str("connect: "),
            (Some(_), Some(at)) => write!(f, " at {}: ", escaped(&at.to_string())),
            (None, Some(at)) => write!(f, "connection to {}: ", escaped(&at.to_string())),
            (Some(_), None) => f.write_str(": "),
            (None, None) => Ok(()),
        }
    }

    /// What helps against errors of this kind, unless the cause says it already.
    fn remedy(&self) -> Option<&'static str> {
        let op = self.operation();
        Some(match self.kind() {
            ErrorKind::Resolve => "check the host name",
            ErrorKind::Connect => "check the address, and that a server listens there",
            ErrorKind::Timeout if self.0.connecting => {
                "check the address and the firewalls between, or allow more time with connect_timeout"
            }
            ErrorKind::Timeout => "allow more time with request_timeout or with_timeout",
            ErrorKind::Disconnected if op == Some(Op::Enqueue) && self.outcome() == Outcome::Unknown => {
                "it may be stored: send it again only where a duplicate does no harm"
            }
            ErrorKind::TooLarge => "make it smaller, or raise max_frame_size on both sides",
            ErrorKind::Auth => "check the API key",
            ErrorKind::Forbidden => "use an API key that has the permission, or grant it with set_acl",
            ErrorKind::QueueNotFound if op == Some(Op::DeleteQueue) => "check the name with list_queues",
            ErrorKind::QueueNotFound => "create it with create_queue, or check the name with list_queues",
            ErrorKind::QueueExists => "use it as it is, or choose another name",
            ErrorKind::MessageNotFound | ErrorKind::LeaseLost => {
                "it was settled before, or its lease has ended: settle within the queue's visibility timeout"
            }
            ErrorKind::NotADeadLetterQueue => "name the dead-letter queue itself, whose name ends with .dlq",
            ErrorKind::ApiKeyNotFound => "check the id with list_api_keys",
            ErrorKind::NotLeader => "try again later: a leader is being elected",
            ErrorKind::Overloaded if self.server().is_some() => "try again after a pause",
            ErrorKind::Unsupported if self.server().is_some() => "use a server release that has this operation",
            ErrorKind::Closed => "make a new one",
            ErrorKind::Server => "see the server's log",
            _ => return None,
        })
    }
}

/// See [`Error::without_remedy`].
struct WithoutRemedy<'a>(&'a Error);

impl fmt::Display for WithoutRemedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write_place(f)?;
        write!(f, "{}", self.0.cause())
    }
}

/// See [`Error::cause`].
struct Cause<'a>(&'a Error);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0.0;
        let message = escaped(&inner.message);
        // "connect to 127.0.0.1:1: connect failed: …" would say it twice, and a list of servers says it of each.
        let said =
            inner.connecting && (inner.kind == ErrorKind::Connect || inner.at.is_none()) && !inner.message.is_empty();
        match (said, inner.message.is_empty()) {
            (true, _) => write!(f, "{message}")?,
            (false, true) => write!(f, "{}", inner.kind)?,
            (false, false) => write!(f, "{}: {message}", inner.kind)?,
        }
        if let Some(server) = &inner.server {
            self.write_server(f, server)?;
        }
        match inner.attempts {
            0 => {}
            1 => f.write_str(" (1 attempt)")?,
            more => write!(f, " ({more} attempts)")?,
        }
        if inner.outcome == Outcome::Unknown {
            f.write_str(" (outcome unknown)")?;
        }
        Ok(())
    }
}

impl Cause<'_> {
    /// What the server's words add to what is said already, and its code.
    fn write_server(&self, f: &mut fmt::Formatter<'_>, server: &ServerError) -> fmt::Result {
        let inner = &*self.0.0;
        let text = server.text();
        let news = text.strip_prefix("invalid payload: ").unwrap_or(text);
        let phrase = inner.kind.phrase();
        let news = match news.split_at_checked(phrase.len()) {
            Some((start, rest)) if start.eq_ignore_ascii_case(phrase) => rest.strip_prefix(": ").unwrap_or(rest),
            _ => news,
        };
        if news.is_empty() {
            if let Some(meaning) = server.meaning() {
                write!(f, ": {meaning}")?;
            }
        } else if !inner.doing.as_ref().is_some_and(|doing| doing.is_object(news)) {
            write!(f, ": the server says {}", quoted(news))?;
        }
        match server.code() {
            Some(code) => write!(f, " (server code {code})"),
            None => Ok(()),
        }
    }
}
