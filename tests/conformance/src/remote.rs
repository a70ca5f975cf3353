//! The embedded broker in a process of its own, so that its memory and its threads are not the clients'.
//!
//! The program `remote_broker` serves until its input ends. Each line it reads is an order, each line it writes a reply;
//! the first is the address it listens on.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fibp_proto::Dialect;
use fila_test_broker::{Broker, ManualClock};

/// A broker in another process, which ends with this value.
#[derive(Debug)]
pub struct RemoteBroker {
    program: Child,
    pipes: Mutex<Pipes>,
    addr: SocketAddr,
}

#[derive(Debug)]
struct Pipes {
    orders: ChildStdin,
    replies: BufReader<ChildStdout>,
}

/// How a remote broker starts.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// The only dialect it speaks.
    pub dialect: Dialect,
    /// The visibility timeout of its queues.
    pub visibility_timeout: Duration,
    /// Its clock stands still but for [`RemoteBroker::advance`].
    pub manual_clock: bool,
}

/// What a queue of a remote broker holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Messages, pending and leased.
    pub depth: u64,
    /// Messages leased.
    pub leased: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Order {
    Restart,
    Reset,
    Advance(Duration),
    Queue(String),
}

impl RemoteBroker {
    /// Starts `program`, which is `remote_broker`.
    ///
    /// # Panics
    ///
    /// The program does not start.
    pub fn start(program: &str, start: Start) -> Self {
        let mut program = Command::new(program)
            .args(start.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program was built");
        let mut pipes = Pipes {
            orders: program.stdin.take().expect("piped"),
            replies: BufReader::new(program.stdout.take().expect("piped")),
        };
        let addr = pipes.reply().parse().expect("the address it listens on");
        Self {
            program,
            pipes: Mutex::new(pipes),
            addr,
        }
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops it and starts it again with what it had stored, as [`Broker::restart`].
    ///
    /// # Panics
    ///
    /// It does not start again.
    pub fn restart(&self) {
        self.order(&Order::Restart);
    }

    /// Closes all connections with a reset, as [`Broker::reset_connections`].
    ///
    /// # Panics
    ///
    /// The program is gone.
    pub fn reset_connections(&self) {
        self.order(&Order::Reset);
    }

    /// Moves its manual clock on: leases expire.
    ///
    /// # Panics
    ///
    /// It runs on the real clock.
    pub fn advance(&self, by: Duration) {
        self.order(&Order::Advance(by));
    }

    /// What a queue holds.
    ///
    /// # Panics
    ///
    /// There is no such queue.
    pub fn queue(&self, name: &str) -> Figures {
        self.order(&Order::Queue(name.to_owned())).parse().expect("figures")
    }

    fn order(&self, order: &Order) -> String {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(pipes.orders, "{order}").expect("the program runs");
        pipes.reply()
    }
}

impl Drop for RemoteBroker {
    fn drop(&mut self) {
        // It ends with its input, too; this is quicker. If either fails, it is gone.
        let _gone = self.program.kill().is_err();
        let _gone = self.program.wait().is_err();
    }
}

impl Pipes {
    fn reply(&mut self) -> String {
        let mut line = String::new();
        let read = self.replies.read_line(&mut line).expect("the program writes text");
        assert!(read > 0, "the broker's program ended");
        line.trim_end().to_owned()
    }
}

impl Start {
    fn arguments(self) -> [String; 3] {
        [
            self.dialect.to_string(),
            self.visibility_timeout.as_millis().to_string(),
            self.manual_clock.to_string(),
        ]
    }

    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        Some(Self {
            dialect: arguments.next()?.parse().ok()?,
            visibility_timeout: Duration::from_millis(arguments.next()?.parse().ok()?),
            manual_clock: arguments.next()?.parse().ok()?,
        })
    }
}

/// Runs a broker as `arguments` say and does what the lines of the standard input order.
///
/// # Errors
///
/// The arguments or a line make no sense, the broker does not start, or the other end is gone.
pub fn serve(arguments: impl Iterator<Item = String>) -> io::Result<()> {
    let start = Start::parse(arguments).ok_or_else(nonsense)?;
    let mut builder = Broker::builder()
        .dialect(start.dialect)
        .visibility_timeout(start.visibility_timeout);
    if start.manual_clock {
        builder = builder.manual_clock(ManualClock::new());
    }
    let broker = builder.start()?;
    let mut replies = io::stdout().lock();
    writeln!(replies, "{}", broker.addr())?;
    for line in io::stdin().lines() {
        match line?.parse()? {
            Order::Restart => {
                broker.restart()?;
                writeln!(replies, "restarted")?;
            }
            Order::Reset => {
                broker.reset_connections();
                writeln!(replies, "reset")?;
            }
            Order::Advance(by) => {
                broker.clock().ok_or_else(nonsense)?.advance(by);
                writeln!(replies, "advanced")?;
            }
            Order::Queue(name) => {
                let queue = broker.queue(&name).ok_or_else(nonsense)?;
                let figures = Figures {
                    depth: queue.depth,
                    leased: queue.in_flight,
                };
                writeln!(replies, "{figures}")?;
            }
        }
    }
    Ok(())
}

fn nonsense() -> io::Error {
    io::ErrorKind::InvalidInput.into()
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restart => f.write_str("restart"),
            Self::Reset => f.write_str("reset"),
            Self::Advance(by) => write!(f, "advance {}", by.as_millis()),
            Self::Queue(name) => write!(f, "queue {name}"),
        }
    }
}

impl FromStr for Order {
    type Err = io::Error;

    fn from_str(line: &str) -> io::Result<Self> {
        match line.split_once(' ') {
            None if line == "restart" => Ok(Self::Restart),
            None if line == "reset" => Ok(Self::Reset),
            Some(("advance", ms)) => {
                let ms = ms.parse().map_err(io::Error::other)?;
                Ok(Self::Advance(Duration::from_millis(ms)))
            }
            Some(("queue", name)) => Ok(Self::Queue(name.to_owned())),
            _ => Err(nonsense()),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.depth, self.leased)
    }
}

impl FromStr for Figures {
    type Err = io::Error;

    fn from_str(line: &str) -> io::Result<Self> {
        let (depth, leased) = line.split_once(' ').ok_or_else(nonsense)?;
        Ok(Self {
            depth: depth.parse().map_err(io::Error::other)?,
            leased: leased.parse().map_err(io::Error::other)?,
        })
    }
}
