//! What a case is given: an adapter, a server, queues of its own.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use fibp_proto::admin::QueueSpec;
use fibp_proto::config::{Backoff, Config, ConsumerSettings, Reconnect};
use fibp_proto::frame::{Decoder, Frame, Item, Limits};
use fibp_proto::{Dialect, Error, ErrorKind, Request};
use futures::channel::oneshot;

use crate::adapter::{Adapter, Client, Consumer, Delivery, Wait};
use crate::broker::{self, Broker};
use crate::external;
use crate::front::Back;
use crate::proxy::{Flow, Plan, Proxy};
use crate::script::{PREAMBLE, Scripted};
use crate::session;

/// The bound of everything that has to happen, but need not happen fast.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// So many queues of a cluster are created until one is led by a given node.
pub(crate) const MAX_ELECTIONS: usize = 100;

/// What a case needs of the server side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Any server: the embedded broker, or the one that `FILA_URL` names; through a proxy where connections are to
    /// break.
    AnyServer,
    /// Any server that is left alone meanwhile: leases end only where nothing else goes on (docs/protocol/preamble.md
    /// 1.14).
    QuietServer,
    /// Any server, reached without TLS: to put other TLS before it, or to look at what is sent. What TLS it has itself a
    /// proxy takes off. Of a cluster it is one node, which leads the queues of the case.
    PlainServer,
    /// As a plain server, and left alone meanwhile.
    QuietPlainServer,
    /// A server that demands a key: the embedded broker once it is told to, or the external one, if `FILA_API_KEY` is
    /// what it demands.
    Keyed,
    /// A server that another one takes the place of.
    Successor,
    /// A server with faults inside that no proxy can imitate: full disks, forged or missing answers.
    Faults,
    /// No server under test: the case brings its peer, which is a script, a broker or cluster of this process, or no Fila
    /// server at all. `FILA_URL` means nothing to it.
    Peer,
    /// The same; it measures this process, and takes turns with others that do.
    Alone,
}

impl Needs {
    /// Whether the case is about the server that `FILA_URL` names, if any.
    fn concerns_server(self) -> bool {
        !matches!(self, Self::Peer | Self::Alone)
    }

    fn is_plain(self) -> bool {
        matches!(self, Self::PlainServer | Self::QuietPlainServer)
    }

    /// Why a case cannot run against an external server, where no proxy can help.
    fn obstacle(self) -> Option<&'static str> {
        match self {
            Self::AnyServer | Self::QuietServer | Self::PlainServer | Self::QuietPlainServer => None,
            Self::Peer | Self::Alone => None,
            Self::Keyed => match external::required_key() {
                Some(_) => None,
                None => Some("FILA_API_KEY names no key that the server demands"),
            },
            Self::Successor => Some("replaces the server by one of another revision"),
            Self::Faults => Some("needs trouble inside the server"),
        }
    }

    /// How long a case may take: those that measure the process can be told to take long.
    fn limit(self) -> Duration {
        Duration::from_secs(if self == Self::Alone { 1200 } else { 120 })
    }

    /// Cases that measure the process take turns; those that wait for leases to end have the external server for
    /// themselves.
    fn turn(self) -> Turn {
        static ALONE: Mutex<()> = Mutex::new(());
        static SERVER: RwLock<()> = RwLock::new(());
        if self == Self::Alone {
            return Turn::Alone(ALONE.lock().unwrap_or_else(PoisonError::into_inner));
        }
        if !self.concerns_server() || external_url().is_none() {
            return Turn::Free;
        }
        match self {
            Self::QuietServer | Self::QuietPlainServer => {
                Turn::Quiet(SERVER.write().unwrap_or_else(PoisonError::into_inner))
            }
            _ => Turn::Shared(SERVER.read().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// The right to run, until it is dropped.
#[expect(dead_code, reason = "guards are held, not read")]
enum Turn {
    Alone(MutexGuard<'static, ()>),
    Quiet(RwLockWriteGuard<'static, ()>),
    Shared(RwLockReadGuard<'static, ()>),
    Free,
}

/// The external server that the suite runs against, if any.
pub fn external_url() -> Option<String> {
    std::env::var("FILA_URL").ok().filter(|url| !url.is_empty())
}

/// Says that a test did not run.
pub fn announce_skip(test: &str, why: &str) {
    announce(&format!("skipped: {test}: {why}"));
}

/// Prints a line past the test harness, which hides the output of tests that pass.
pub fn announce(line: &str) {
    use std::io::Write;
    // In one piece: other tests write, too.
    let _closed = std::io::stderr().write_all(format!("{line}\n").as_bytes()).is_err();
}

/// The surroundings of one case.
pub struct Env {
    adapter: Arc<dyn Adapter>,
    test: String,
    dialect: Dialect,
    embedded: OnceLock<Broker>,
    external: Option<Server>,
    /// Of a cluster, the node that the case stands before has to lead its queues.
    at_one_node: bool,
    queues: Mutex<Vec<String>>,
    next_queue: AtomicU32,
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").field("test", &self.test).finish_non_exhaustive()
    }
}

impl Env {
    /// `None`, with a note, when the test cannot run here. `chosen` is the dialect that the case is about.
    pub fn new(adapter: Arc<dyn Adapter>, test: &str, needs: Needs, chosen: Option<Dialect>) -> Option<Self> {
        let mut dialect = chosen.unwrap_or(broker::DEFAULT);
        let mut server = None;
        if needs.concerns_server() && external_url().is_some() {
            if let Some(why) = needs.obstacle() {
                announce_skip(test, why);
                return None;
            }
            let spoken = external::dialect();
            // Both revisions of the framed dialect are asked the same.
            let kin = |chosen| chosen == spoken || (chosen == Dialect::Handshake && spoken == Dialect::HandshakeEarly);
            if !chosen.is_none_or(kin) {
                announce_skip(test, &format!("the server speaks {spoken}"));
                return None;
            }
            dialect = spoken;
            server = Some(Server::new(needs.is_plain()));
        }
        Some(Self {
            adapter,
            test: test.to_owned(),
            dialect,
            embedded: OnceLock::new(),
            external: server,
            at_one_node: needs.is_plain(),
            queues: Mutex::new(Vec::new()),
            next_queue: AtomicU32::new(0),
        })
    }

    /// The adapter under test.
    pub fn adapter(&self) -> &Arc<dyn Adapter> {
        &self.adapter
    }

    /// The name of the test.
    pub fn test(&self) -> &str {
        &self.test
    }

    /// Whether the case runs against an external server.
    pub fn is_external(&self) -> bool {
        self.external.is_some()
    }

    /// The dialect under test.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The embedded broker, started on first use.
    pub fn broker(&self) -> &Broker {
        self.embedded.get_or_init(|| broker::start(self.dialect))
    }

    /// The embedded broker with settings of its own. Call it before anything else that uses the broker.
    ///
    /// # Panics
    ///
    /// The broker is running already.
    pub fn start_broker(&self, start: impl FnOnce(Dialect) -> Broker) -> &Broker {
        let set = self.embedded.set(start(self.dialect));
        assert!(set.is_ok(), "the broker is running already");
        self.broker()
    }

    /// How to reach the server.
    ///
    /// # Panics
    ///
    /// `FILA_URL` and its companions are malformed.
    pub fn config(&self) -> Config {
        match &self.external {
            Some(server) => server.config(None),
            None => config(self.broker().addr()),
        }
    }

    /// A proxy before the server; `plan` says what to do to each connection, numbered from 0.
    pub fn proxy(&self, plan: impl Fn(usize) -> Plan + Send + 'static) -> Proxy {
        Proxy::start(self.upstream(), plan)
    }

    /// A proxy before the server, with which writes stall soon.
    pub fn narrow_proxy(&self, plan: impl Fn(usize) -> Plan + Send + 'static) -> Proxy {
        Proxy::narrow(self.upstream(), plan)
    }

    /// Where the server listens: the first address of an external one.
    ///
    /// # Panics
    ///
    /// `FILA_URL` names no server.
    pub fn upstream(&self) -> SocketAddr {
        match &self.external {
            Some(server) => server.addr(),
            None => self.broker().addr(),
        }
    }

    /// How many frames clients have sent through the proxy, or `None` where they are encrypted.
    pub fn frames_up(&self, proxy: &Proxy) -> Option<usize> {
        let all = proxy.passed().iter().map(|passed| self.frames(&passed.up).len()).sum();
        (!self.is_encrypted()).then_some(all)
    }

    /// What clients have asked through the proxy, one connection after another. Not for encrypted ones.
    pub fn requests_up(&self, proxy: &Proxy) -> Vec<Request> {
        let passed = proxy.passed();
        let frames = passed.iter().flat_map(|passed| self.frames(&passed.up));
        // What opens a connection is no request.
        frames
            .filter_map(|frame| Request::decode(self.dialect, &frame).ok())
            .collect()
    }

    fn frames(&self, bytes: &[u8]) -> Vec<Frame> {
        let opening = if bytes.starts_with(&PREAMBLE) {
            PREAMBLE.len()
        } else {
            0
        };
        let mut decoder = Decoder::new(self.dialect.layout(), Limits::default());
        decoder.feed(&bytes[opening..]);
        let items = std::iter::from_fn(|| decoder.next_item().ok().flatten());
        items
            .filter_map(|item| match item {
                Item::Frame(frame) => Some(frame),
                Item::Oversized { .. } => None,
            })
            .collect()
    }

    /// Waits until `calls` more frames than `before` have passed; where they are encrypted, until nothing has passed for
    /// a while.
    ///
    /// # Panics
    ///
    /// They do not pass.
    pub async fn until_sent(&self, proxy: &Proxy, before: Option<usize>, calls: usize) {
        if let Some(before) = before {
            let enough = async || self.frames_up(proxy) >= Some(before + calls);
            return self.eventually("the calls are sent", enough).await;
        }
        let mut passed = 0;
        let quiet = async || {
            self.sleep(Duration::from_millis(300)).await;
            let known = std::mem::replace(&mut passed, proxy.count(Flow::Up));
            passed > 0 && known == passed
        };
        self.eventually("the calls are sent", quiet).await;
    }

    /// The key that a server of [`Needs::Keyed`] demands, which lets its holder do everything.
    ///
    /// # Panics
    ///
    /// It demands none, or `FILA_URL` and its companions are malformed.
    pub fn key(&self) -> String {
        self.required_key().expect("the server demands a key")
    }

    /// The key that the embedded broker is to demand, or that the external server does, if any.
    pub fn required_key(&self) -> Option<String> {
        match self.external {
            Some(_) => external::required_key(),
            None => Some("right".to_owned()),
        }
    }

    /// How to reach such a server, but for the key. It is started with the first call.
    ///
    /// # Panics
    ///
    /// `FILA_URL` and its companions are malformed.
    pub fn keyless(&self) -> Config {
        if self.is_external() {
            return external::without_key();
        }
        let start = || broker::start_with(self.dialect, |builder| builder.api_key(self.key()));
        config(self.embedded.get_or_init(start).addr())
    }

    /// Waits until nothing is left in a queue. The statistics of clusters keep counting what was acked, so there is nothing
    /// to wait for (docs/protocol/clusters.md 4).
    ///
    /// # Panics
    ///
    /// The queue does not become empty.
    pub async fn until_empty(&self, client: &Arc<dyn Client>, queue: &str) {
        if self.is_in_cluster() {
            return;
        }
        let empty = async || client.queue_stats(queue).await.expect("stats").depth == 0;
        self.eventually("the queue is empty", empty).await;
    }

    /// Whether the external server is a cluster, of which this cannot be asked: then the case is over, with a note.
    pub fn is_beyond_clusters(&self, why: &str) -> bool {
        let beyond = self.is_in_cluster();
        if beyond {
            announce_skip(&self.test, why);
        }
        beyond
    }

    /// Whether the external server is a cluster.
    pub fn is_in_cluster(&self) -> bool {
        self.is_external() && external::is_cluster()
    }

    /// Whether frames to the external server hold one item each (docs/protocol/clusters.md 3).
    pub fn sends_one_each(&self) -> bool {
        self.is_in_cluster() && matches!(self.dialect, Dialect::Handshake | Dialect::HandshakeEarly)
    }

    /// Whether the server wants TLS.
    pub fn is_encrypted(&self) -> bool {
        self.config().settings().tls.is_some()
    }

    /// How to reach the server through a proxy: quick to dial again.
    pub fn through(&self, proxy: &Proxy) -> Config {
        self.at(&proxy.addr().to_string())
    }

    /// As [`through`](Self::through), by these addresses, with commas between them.
    pub fn at(&self, addresses: &str) -> Config {
        let config = match &self.external {
            Some(server) => server.config(Some(addresses)),
            None => Config::new(addresses).dialect(self.dialect),
        };
        config.reconnect(quick_reconnect())
    }

    /// A connected client with the defaults.
    ///
    /// # Panics
    ///
    /// It cannot connect.
    pub async fn client(&self) -> Arc<dyn Client> {
        self.connect(self.config()).await.expect("a client")
    }

    /// A client.
    ///
    /// # Errors
    ///
    /// Whatever connecting says.
    pub async fn connect(&self, config: Config) -> Result<Arc<dyn Client>, Error> {
        self.adapter.connect(config).await
    }

    /// A queue name that no other run uses, always as long as any other of this case. The queue is deleted after the
    /// case.
    pub fn queue_name(&self) -> String {
        static RUN: OnceLock<u128> = OnceLock::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let run = RUN.get_or_init(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.unwrap_or_default().as_micros() ^ (u128::from(std::process::id()) << 64)
        });
        let case = self.test.rsplit("::").next().unwrap_or_default();
        let case: String = case.chars().take(40).collect();
        let local = self.next_queue.fetch_add(1, Ordering::Relaxed);
        let name = format!(
            "ct-{run:x}-{:04}-{case}-{local:03}",
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        self.queues
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(name.clone());
        name
    }

    /// A new queue with the server's defaults.
    ///
    /// # Panics
    ///
    /// It cannot be created.
    pub async fn queue(&self, client: &Arc<dyn Client>) -> String {
        self.queue_with(client, |spec| spec).await
    }

    /// A new queue.
    ///
    /// # Panics
    ///
    /// It cannot be created.
    pub async fn queue_with(&self, client: &Arc<dyn Client>, change: impl Fn(QueueSpec) -> QueueSpec) -> String {
        match self.at_one_node {
            true => self.queue_here(client, change).await,
            false => self.create_queue(client, &change).await.0,
        }
    }

    /// A new queue that the node behind [`upstream`](Self::upstream) leads: consumers connect to the leader of their queue,
    /// past a proxy before any other node.
    ///
    /// # Panics
    ///
    /// It cannot be created, or that node is not elected.
    pub async fn queue_here(&self, client: &Arc<dyn Client>, change: impl Fn(QueueSpec) -> QueueSpec) -> String {
        for _ in 0..MAX_ELECTIONS {
            let (queue, leader) = self.create_queue(client, &change).await;
            if !self.is_in_cluster() || leader == external::first_node() {
                return queue;
            }
        }
        panic!("the first node leads none of {MAX_ELECTIONS} queues");
    }

    /// A new queue, and the node that leads it; 0 outside a cluster.
    async fn create_queue(&self, client: &Arc<dyn Client>, change: impl Fn(QueueSpec) -> QueueSpec) -> (String, u64) {
        let name = self.queue_name();
        let spec = change(QueueSpec::new(name.as_str()));
        client.create_queue(spec).await.expect("a new queue");
        let mut leader = 0;
        if self.is_in_cluster() {
            // What breaks connections counts on answers; cases of clusters see what new queues do there.
            let stats = client.queue_stats(&name).await.expect("a queue that every node knows");
            leader = stats.leader_node_id;
        }
        (name, leader)
    }

    /// A consumer with the defaults.
    ///
    /// # Panics
    ///
    /// It cannot be opened.
    pub async fn consumer(&self, client: &Arc<dyn Client>, queue: &str) -> Box<dyn Consumer> {
        client
            .consumer(queue, ConsumerSettings::default())
            .await
            .expect("a consumer")
    }

    /// A whole session of [`session::perform`] on a queue of its own.
    pub fn session(&self, config: Config, what: String) -> impl Future<Output = ()> + Send + use<> {
        self.session_on(self.queue_name(), config, what)
    }

    /// The same on this queue, which it creates if there is none.
    pub fn session_on(&self, queue: String, config: Config, what: String) -> impl Future<Output = ()> + Send + use<> {
        session::perform(self.adapter.clone(), config, queue, what, self.is_external())
    }

    /// Starts a task, or a thread.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        let (done, result) = oneshot::channel();
        self.adapter.spawn(Box::pin(async move {
            let _nobody_waits = done.send(work.await).is_err();
        }));
        Task(result)
    }

    /// Runs what blocks on a thread of its own, so that tasks of this one go on.
    pub fn spawn_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
        let (done, result) = oneshot::channel();
        std::thread::spawn(move || {
            let _nobody_waits = done.send(work()).is_err();
        });
        Task(result)
    }

    /// Waits for the scripts of a server to end. Drop the client first; this lets its tasks run on.
    ///
    /// # Panics
    ///
    /// A script panicked.
    pub async fn finish(&self, server: Scripted) {
        self.transcript(server).await;
    }

    /// As [`finish`](Self::finish); the bytes that each connection received.
    ///
    /// # Panics
    ///
    /// A script panicked.
    pub async fn transcript(&self, server: Scripted) -> Vec<Vec<u8>> {
        let finished =
            self.spawn_blocking(move || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| server.transcript())));
        match finished.join().await {
            Ok(transcript) => transcript,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Waits.
    pub fn sleep(&self, duration: Duration) -> Wait<'static, ()> {
        self.adapter.sleep(duration)
    }

    /// Asks again, now and then, until the answer is yes.
    ///
    /// # Panics
    ///
    /// The answer stays no.
    pub async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let start = std::time::Instant::now();
        while !holds().await {
            assert!(start.elapsed() < PATIENCE, "never: {what}");
            // Slower than the pace at which questions keep a scheduler from reclaiming leases
            // (docs/protocol/preamble.md 1.14).
            self.sleep(Duration::from_millis(if self.is_external() { 150 } else { 5 }))
                .await;
        }
    }

    /// Whether `result` is what a server says that lacks the operation: then the case is over, with a note.
    pub fn is_unsupported<T>(&self, result: &Result<T, Error>) -> bool {
        match result {
            Err(error) if error.kind() == ErrorKind::Unsupported && self.is_external() => {
                announce_skip(&self.test, &format!("the server lacks the operation: {error}"));
                true
            }
            _ => false,
        }
    }

    /// Deletes what the case left behind.
    async fn clean_up(&self) {
        let queues = std::mem::take(&mut *self.queues.lock().unwrap_or_else(PoisonError::into_inner));
        if queues.is_empty() || !self.is_external() {
            return;
        }
        let Ok(client) = self.connect(self.config()).await else {
            return;
        };
        for queue in queues {
            // Most cases leave it, some have deleted it themselves.
            let _gone = client.delete_queue(&queue).await.is_err();
        }
        client.close(PATIENCE).await;
    }
}

/// The external server, as one case reaches it.
#[derive(Debug)]
enum Server {
    Direct,
    /// Past a proxy that speaks TLS in the client's place.
    Plain(Back),
}

impl Server {
    fn new(plain: bool) -> Self {
        match external::back().filter(|_| plain) {
            Some(back) => Self::Plain(back),
            None => Self::Direct,
        }
    }

    fn addr(&self) -> SocketAddr {
        match self {
            Self::Direct => external::addr(),
            Self::Plain(back) => back.addr(),
        }
    }

    fn config(&self, instead: Option<&str>) -> Config {
        match self {
            Self::Direct => external::config(instead),
            Self::Plain(back) => external::plain(instead.map_or_else(|| back.addr().to_string(), str::to_owned)),
        }
    }
}

/// A configuration for a server at `addr` that keeps tests short: quick to dial again.
pub fn config(addr: SocketAddr) -> Config {
    Config::new(addr).reconnect(quick_reconnect())
}

/// Backoff that keeps tests short.
pub fn quick_reconnect() -> Reconnect {
    Reconnect::Backoff(Backoff {
        initial: Duration::from_millis(5),
        max: Duration::from_millis(50),
        max_attempts: None,
    })
}

/// A task or thread that was started by [`Env::spawn`].
#[derive(Debug)]
pub struct Task<T>(oneshot::Receiver<T>);

impl<T> Task<T> {
    /// Waits for its result.
    ///
    /// # Panics
    ///
    /// The task panicked.
    pub async fn join(self) -> T {
        self.0.await.expect("the task did not panic")
    }
}

/// Takes the next delivery.
///
/// # Panics
///
/// The consumer ended, or nothing came for long.
pub async fn next(consumer: &mut Box<dyn Consumer>) -> Box<dyn Delivery> {
    match consumer.next_within(PATIENCE).await {
        Some(Some(Ok(delivery))) => delivery,
        Some(Some(Err(error))) => panic!("the consumer failed: {error}"),
        Some(None) => panic!("the consumer ended"),
        None => panic!("no delivery came in {PATIENCE:?}"),
    }
}

/// Runs one case on a thread of its own, so that one that hangs fails.
///
/// # Panics
///
/// The case panics, or hangs.
pub fn run(
    kind: crate::adapter::Kind,
    needs: Needs,
    chosen: Option<Dialect>,
    test: &'static str,
    case: for<'a> fn(&'a Env) -> std::pin::Pin<Box<dyn Future<Output = ()> + 'a>>,
) {
    let limit = needs.limit();
    let _turn = needs.turn();
    let (done, result) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name(test.to_owned());
    let thread = thread.spawn(move || {
        let adapter = kind.start();
        if let Some(env) = Env::new(adapter.clone(), test, needs, chosen) {
            adapter.block_on(Box::pin(async {
                let body = std::panic::AssertUnwindSafe(case(&env));
                let outcome = futures::FutureExt::catch_unwind(body).await;
                env.clean_up().await;
                if let Err(panic) = outcome {
                    std::panic::resume_unwind(panic);
                }
            }));
        }
        let _nobody_waits = done.send(()).is_err();
    });
    let thread = thread.expect("a thread for the case");
    if result.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        panic!("{test} hangs: not finished after {limit:?}");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Expands every case into a test per adapter: `<file>::<adapter>::<case>`; and per dialect with `every_dialect` or a
/// list as `[p1 P1, framed FRAMED]`: `<file>::<dialect>::<adapter>::<case>`.
///
/// ```text
/// cases! {
///     AnyServer;
///     /// What it shows.
///     async fn enqueue_confirms(env: &Env) { … }
/// }
/// ```
#[macro_export]
macro_rules! cases {
    ($needs:ident, every_dialect; $($cases:tt)+) => {
        $crate::cases!($needs, [p1 P1, p2 P2, p3 P3, framed FRAMED]; $($cases)+);
    };
    ($needs:ident, $dialects:tt; $($(#[$meta:meta])* async fn $name:ident($env:ident: &Env) $body:block)+) => {
        $($(#[$meta])* async fn $name($env: &$crate::env::Env) $body)+
        $crate::cases!(@dialects $dialects, $needs, ($($name)+));
    };
    ($needs:ident; $($(#[$meta:meta])* async fn $name:ident($env:ident: &Env) $body:block)+) => {
        $($(#[$meta])* async fn $name($env: &$crate::env::Env) $body)+
        $crate::cases!(@adapters $needs, None; $($name)+);
    };
    (@dialects [$($module:ident $dialect:ident),+], $needs:ident, $names:tt) => {
        $($crate::cases!(@dialect $module, $needs, $crate::broker::$dialect, $names);)+
    };
    (@dialect $module:ident, $needs:ident, $dialect:expr, ($($name:ident)+)) => {
        mod $module {
            $(use super::$name;)+
            $crate::cases!(@adapters $needs, Some($dialect); $($name)+);
        }
    };
    (@adapters $needs:ident, $dialect:expr; $($name:ident)+) => {
        $crate::cases!(@adapter tokio, Tokio, $needs, $dialect; $($name)+);
        $crate::cases!(@adapter tokio_multi, TokioMulti, $needs, $dialect; $($name)+);
        $crate::cases!(@adapter blocking, Blocking, $needs, $dialect; $($name)+);
        $crate::cases!(@adapter asyncstd, AsyncStd, $needs, $dialect; $($name)+);
    };
    (@adapter $module:ident, $kind:ident, $needs:ident, $dialect:expr; $($name:ident)+) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    fn case(env: &$crate::env::Env) -> std::pin::Pin<Box<dyn Future<Output = ()> + '_>> {
                        Box::pin(super::$name(env))
                    }
                    $crate::env::run(
                        $crate::adapter::Kind::$kind,
                        $crate::env::Needs::$needs,
                        $dialect,
                        concat!(module_path!(), "::", stringify!($name)),
                        case,
                    );
                }
            )+
        }
    };
}
