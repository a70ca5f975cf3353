//! The broker on sockets: a thread that accepts, two threads per connection, one timer.

mod builder;
mod cluster;
mod link;
mod port;
mod shared;
#[cfg(feature = "tls")]
mod tls;
mod transport;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use fibp_proto::server::ServerConnection;
use fibp_proto::{ErrorKind, Op, QueueName};

use crate::Faults;
use crate::clock::{Clock, ManualClock, lock};
use crate::machine::{BrokerMachine, Ending, QueueFigures, StoredMessage};
pub use builder::BrokerBuilder;
use link::Link;
use port::Port;
use shared::{Shared, State};
#[cfg(feature = "tls")]
pub use tls::ServerTls;
use transport::Acceptor;

/// How long the thread that accepts pauses when it cannot: out of file descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A Fila broker on a socket, in this process. Dropping it stops it.
///
/// ```
/// use fila_test_broker::Broker;
///
/// let broker = Broker::builder().queue("orders").start()?;
/// println!("point a client at {}", broker.url());
/// assert_eq!(broker.queue("orders").map(|queue| queue.depth), Some(0));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Broker {
    addrs: Vec<SocketAddr>,
    /// Kept while the broker is stopped.
    ports: Vec<Port>,
    acceptor: Acceptor,
    shared: Arc<Shared>,
    running: Mutex<Running>,
}

/// The threads of a broker that runs.
#[derive(Debug, Default)]
struct Running {
    timer: Option<JoinHandle<()>>,
    /// Those that accept, by node.
    accept: BTreeMap<u64, JoinHandle<()>>,
}

impl Broker {
    /// Settings to start with.
    #[must_use]
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::new()
    }

    fn start(
        ports: Vec<Port>,
        listeners: Vec<TcpListener>,
        acceptor: Acceptor,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let broker = Self {
            addrs: ports.iter().map(Port::addr).collect(),
            ports,
            acceptor,
            shared,
            running: Mutex::default(),
        };
        let nodes = (1..).zip(listeners);
        broker.run(&mut lock(&broker.running), nodes.collect())?;
        Ok(broker)
    }

    /// Starts the threads. If that fails, those that run are stopped when the broker is.
    fn run(&self, running: &mut Running, listeners: Vec<(u64, TcpListener)>) -> io::Result<()> {
        self.shared.lock().stopping = false;
        if running.timer.is_none() {
            let shared = Arc::clone(&self.shared);
            running.timer = Some(spawn("timer", move || shared.run_timer())?);
        }
        for (node, listener) in listeners {
            self.shared.lock().down.remove(&node);
            let (shared, acceptor) = (Arc::clone(&self.shared), self.acceptor.clone());
            let accept = spawn("accept", move || accept(&shared, &acceptor, node, &listener))?;
            running.accept.insert(node, accept);
        }
        Ok(())
    }

    /// The address it listens on; of a cluster, that of its first node.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        // There is one: `bind` begins with it.
        self.addrs.first().copied().unwrap_or(NOWHERE)
    }

    /// The addresses of all nodes.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The address as a URL, without the API key; of a cluster, with the addresses of all nodes.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(&self.addrs)
    }

    fn url_of(&self, addrs: &[SocketAddr]) -> String {
        let addrs: Vec<String> = addrs.iter().map(SocketAddr::to_string).collect();
        format!("{}://{}", self.acceptor.scheme(), addrs.join(","))
    }

    /// Stops: closes the listeners and all connections, and waits for the threads. Messages, queues, keys and
    /// configuration are kept for [`restart`](Self::restart). Does nothing if it is stopped.
    pub fn stop(&self) {
        self.halt(&mut lock(&self.running));
    }

    fn halt(&self, running: &mut Running) {
        {
            let mut state = self.shared.lock();
            state.stopping = true;
            state.end_connections(None, false);
        }
        self.shared.wake_timer();
        for (node, accept) in std::mem::take(&mut running.accept) {
            self.close_listener(node, accept);
        }
        if let Some(timer) = running.timer.take() {
            join(timer);
        }
    }

    /// Wakes the thread that accepts for a node, and waits for it and those it started.
    fn close_listener(&self, node: u64, accept: JoinHandle<()>) {
        if let Some(addr) = self.addr_of(node) {
            // If this fails, the listener is gone and so is the thread.
            let _ = TcpStream::connect_timeout(&reachable(addr), Duration::from_secs(1));
        }
        join(accept);
    }

    /// Stops if it runs, and starts again on the same ports with what it had stored: like a restart of servers that
    /// keep their data on disk. See [`Faults::leases_kept`] for what was leased.
    ///
    /// # Errors
    ///
    /// A port cannot be listened on, or a thread cannot be started.
    pub fn restart(&self) -> io::Result<()> {
        let mut running = lock(&self.running);
        self.halt(&mut running);
        let mut listeners = Vec::new();
        for (node, port) in (1..).zip(&self.ports) {
            listeners.push((node, port.listen()?));
        }
        self.shared.lock().host.with_machine(|machine| {
            let settings = machine.settings().clone();
            *machine = BrokerMachine::from_snapshot(settings, machine.snapshot());
        });
        self.run(&mut running, listeners)
    }

    /// Closes all connections, and waits until the broker has forgotten them.
    pub fn kill_connections(&self) {
        self.end_connections(None, false);
    }

    /// Closes all connections with a reset, and waits until the broker has forgotten them.
    pub fn reset_connections(&self) {
        self.end_connections(None, true);
    }

    fn end_connections(&self, node: Option<u64>, reset: bool) {
        let ended = self.shared.lock().end_connections(node, reset);
        self.shared.wait_until(Duration::from_secs(10), |state| {
            ended.iter().all(|connection| !state.links.contains_key(connection))
        });
    }

    /// Sends a goodbye to every connection (no server does today; clients must handle it).
    pub fn send_goaway(&self, text: &str) {
        self.to_all(|server| server.goodbye(text));
    }

    /// Sends a heartbeat with this id to every connection (no server does today; clients must answer it).
    pub fn send_heartbeats(&self, id: u32) {
        self.to_all(|server| server.heartbeat(id));
    }

    fn to_all(&self, send: impl Fn(&mut ServerConnection)) {
        let mut state = self.shared.lock();
        let State { host, links, .. } = &mut *state;
        for (connection, link) in links {
            if let Some(server) = host.connection(*connection) {
                send(server);
                link.wake.notify_all();
            }
        }
    }

    /// The manual clock it runs on, if it does.
    #[must_use]
    pub fn clock(&self) -> Option<&ManualClock> {
        match &self.shared.clock {
            Clock::Real => None,
            Clock::Manual(clock) => Some(clock),
        }
    }

    /// The faults as they are now: those with a number of times count down.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.shared.lock().host.machine().settings().faults.clone()
    }

    /// Changes the faults, in effect with the next request. Answers that are not stalled any more are sent.
    pub fn set_faults(&self, faults: Faults) {
        self.update_faults(|_| faults);
    }

    /// Changes some of the faults.
    pub fn update_faults(&self, change: impl FnOnce(Faults) -> Faults) {
        let mut state = self.shared.lock();
        state.host.with_machine(|machine| {
            let faults = change(machine.settings().faults.clone());
            machine.set_faults(faults);
        });
        state.wake_others();
        self.shared.notice(&state);
    }

    /// Refuses the next request of this kind, see [`Faults::fail_once`].
    pub fn fail_once(&self, op: Op, kind: ErrorKind) {
        self.update_faults(|faults| faults.fail_once(op, kind));
    }

    /// Executes each request of this kind so much later than it came, see [`Faults::delay`].
    pub fn delay(&self, op: Op, by: Duration) {
        self.update_faults(|faults| faults.delay(op, by));
    }

    /// The messages in a queue, leased ones too, in the order of enqueueing; none if it does not exist.
    ///
    /// ```
    /// # let broker = fila_test_broker::Broker::builder().queue("orders").start()?;
    /// assert!(broker.messages("orders").iter().all(|message| message.payload != "lost"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn messages(&self, queue: &str) -> Vec<StoredMessage> {
        self.shared.lock().host.machine().messages(queue)
    }

    /// How many connections are open, those that have not said in which dialect aside.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.lock().host.machine().connections()
    }

    /// Figures of a queue, if it exists.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<QueueFigures> {
        self.shared.lock().host.machine().queue(name)
    }

    /// Messages in a queue, pending and leased; 0 if it does not exist.
    #[must_use]
    pub fn queue_depth(&self, name: &str) -> u64 {
        self.queue(name).map_or(0, |queue| queue.depth)
    }

    /// Creates a queue and its dead-letter queue, unless they exist. Every node of a cluster is ready for them at once.
    pub fn create_queue(&self, name: impl Into<QueueName>) {
        self.shared
            .lock()
            .host
            .with_machine(|machine| machine.create_queue(name));
    }

    /// Waits until `condition` holds, for at most `within`, and returns whether it did. It is looked at after
    /// everything that happens in the broker, under its lock: be quick, and do not call the broker.
    #[must_use]
    pub fn wait_until(&self, within: Duration, mut condition: impl FnMut(&BrokerMachine) -> bool) -> bool {
        self.shared.wait_until(within, |state| condition(state.host.machine()))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept(shared: &Arc<Shared>, acceptor: &Acceptor, node: u64, listener: &TcpListener) {
    let mut served: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let accepted = listener.accept();
        if shared.lock().is_closed(node) {
            break;
        }
        served.retain(|thread| !thread.is_finished());
        match accepted {
            Ok((socket, _)) => served.extend(serve(shared, acceptor, node, socket)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => std::thread::sleep(ACCEPT_PAUSE),
        }
    }
    for thread in served {
        join(thread);
    }
}

fn serve(shared: &Arc<Shared>, acceptor: &Acceptor, node: u64, socket: TcpStream) -> Option<JoinHandle<()>> {
    let transport = acceptor.transport().ok()?;
    // Latency only; real servers do not set it.
    let _ = socket.set_nodelay(true);
    let socket = Arc::new(socket);
    let connection = {
        let mut state = shared.lock();
        if state.is_closed(node) {
            return None;
        }
        let connection = state.host.connect_to(node);
        let link = Link::new(transport, Arc::clone(&socket));
        state.links.insert(connection, link);
        connection
    };
    let thread = spawn("read", {
        let shared = Arc::clone(shared);
        move || link::serve(&shared, connection, &socket)
    });
    match thread {
        Ok(thread) => Some(thread),
        Err(_) => {
            shared.lock().remove(shared.clock.now(), connection, Ending::Clean);
            None
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("fila-test-broker-{name}"))
        .spawn(body)
}

/// A thread that panicked has reported it.
fn join(thread: JoinHandle<()>) {
    let _ = thread.join();
}

/// An address at which a listener on `addr` can be reached from here.
fn reachable(mut addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    addr
}
