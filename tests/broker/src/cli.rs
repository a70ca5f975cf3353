//! Command line of the program.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use fila_test_broker::{Broker, BrokerBuilder, Dialect, Faults};
use lexopt::prelude::*;

/// Nodes that make sense on one machine.
const MAX_NODES: usize = 100;

pub(crate) const HELP: &str = "\
An in-memory Fila broker for tests.

Usage: fila-test-broker [OPTION]...

  --listen ADDR        listen here (default 127.0.0.1:5555; port 0 is a free one)
  --port-file PATH     write the bound host:port to this file
  --api-key KEY        turn authentication on, with this superadmin key
  --dialect NAME       speak one dialect only: handshake, handshake-early, preamble-protobuf,
                       preamble-protobuf-renumbered or preamble-binary (default: handshake and
                       preamble-protobuf on one port)
  --cluster NODES      be a cluster of this many nodes, on the port of --listen and those that follow it
  --creation-delay MS  a queue of a cluster has no leader for this long after its creation (default 65)
  --queue NAME         create this queue at the start; repeatable
  --visibility-timeout MS
                       the visibility timeout of queues that name none (default 30000)
  --dead-letter-after NACKS
                       move a message to the dead-letter queue at this many nacks (default: never)
  --tls-cert PATH      serve TLS with this certificate chain (PEM)
  --tls-key PATH       its private key (PEM)
  --tls-ca PATH        demand client certificates signed by these authorities (PEM)
  --fault NAME[=off]   switch a fault or behaviour on (or off); repeatable
  --json               print one line of JSON when it is ready: {\"url\":…,\"addrs\":[…],\"dialect\":…}
  --help               print this, and the names of faults
  --version            print the version

Prints \"listening on HOST:PORT\" when it is ready, of a cluster \"listening on HOST:PORT,HOST:PORT,…\".
Stops on Ctrl-C and SIGTERM.

Faults (on by default: oversized-push-kills, cluster-cuts-lists, cluster-acks-not-found, malformed-closes,
leases-kept, deliveries-after-cancel, and credit-loss with the protobuf revisions):

  oversized-push-kills     a push over the frame limit ends pushing, silently
  cluster                  refuse to consume unknown queues, as a cluster node does (without --cluster)
  cluster-cuts-lists       framed clusters confirm whole lists and keep their first item per queue
  cluster-acks-not-found   acks and nacks at a cluster's leader are done and answered \"not found\"
  cluster-refers           nodes of a cluster refer to the leader instead of forwarding
  snapshot-not-found       when a node comes back, leaders answer enqueues with a Raft error
  tls-quirks               the older handler that preamble servers run behind TLS
  malformed-closes         close without a frame on malformed data operations
  errors-close             close without a frame wherever an error would be sent
  leases-kept              leases outlive their consumer and wait for the visibility timeout
  consume-ack-coalesced    the answer to a consume and the first pushes in one segment
  deliveries-after-cancel  queued deliveries follow a cancel (framed)
  slow-refill              refill consumers only on commands and when idle
  overloaded               the scheduler is full
  storage-failing          the storage engine fails
  heartbeats-ignored       swallow heartbeats
  credit-loss              lose deliveries beyond the credit until their leases expire
";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Command {
    Serve(Box<Options>),
    Help,
    Version,
}

#[derive(Debug)]
pub(crate) struct Options {
    listen: String,
    pub(crate) port_file: Option<PathBuf>,
    api_key: Option<String>,
    dialect: Dialect,
    queues: Vec<String>,
    cluster: usize,
    creation_delay: Option<Duration>,
    visibility_timeout: Option<Duration>,
    dead_letter_after: Option<u32>,
    pub(crate) json: bool,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_ca: Option<PathBuf>,
    faults: Faults,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:5555".to_owned(),
            port_file: None,
            api_key: None,
            dialect: Dialect::Auto,
            queues: Vec::new(),
            cluster: 1,
            creation_delay: None,
            visibility_timeout: None,
            dead_letter_after: None,
            json: false,
            tls_cert: None,
            tls_key: None,
            tls_ca: None,
            faults: Faults::default(),
        }
    }
}

impl Command {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, lexopt::Error> {
        let mut arguments = lexopt::Parser::from_args(arguments);
        let mut options = Options::default();
        while let Some(argument) = arguments.next()? {
            match argument {
                Short('h') | Long("help") => return Ok(Self::Help),
                Short('V') | Long("version") => return Ok(Self::Version),
                Long("listen") => options.listen = arguments.value()?.string()?,
                Long("port-file") => options.port_file = Some(arguments.value()?.into()),
                Long("api-key") => options.api_key = Some(arguments.value()?.string()?),
                Long("dialect") => options.dialect = arguments.value()?.parse()?,
                Long("cluster") => options.cluster = arguments.value()?.parse_with(nodes)?,
                Long("creation-delay") => options.creation_delay = Some(milliseconds(&mut arguments)?),
                Long("queue") => options.queues.push(arguments.value()?.string()?),
                Long("visibility-timeout") => options.visibility_timeout = Some(milliseconds(&mut arguments)?),
                Long("dead-letter-after") => options.dead_letter_after = Some(arguments.value()?.parse()?),
                Long("json") => options.json = true,
                Long("tls-cert") => options.tls_cert = Some(arguments.value()?.into()),
                Long("tls-key") => options.tls_key = Some(arguments.value()?.into()),
                Long("tls-ca") => options.tls_ca = Some(arguments.value()?.into()),
                Long("fault") => options.switch(&arguments.value()?.string()?)?,
                other => return Err(other.unexpected()),
            }
        }
        options.check()?;
        Ok(Self::Serve(Box::new(options)))
    }
}

fn milliseconds(arguments: &mut lexopt::Parser) -> Result<Duration, lexopt::Error> {
    Ok(Duration::from_millis(arguments.value()?.parse()?))
}

fn nodes(count: &str) -> Result<usize, String> {
    match count.parse() {
        Ok(count) if (1..=MAX_NODES).contains(&count) => Ok(count),
        _ => Err(format!("a cluster has 1 to {MAX_NODES} nodes")),
    }
}

impl Options {
    fn switch(&mut self, fault: &str) -> Result<(), String> {
        let (name, on) = match fault.split_once('=') {
            None | Some((_, "on")) => (fault.trim_end_matches("=on"), true),
            Some((name, "off")) => (name, false),
            Some((_, other)) => return Err(format!("a fault is on or off, not {other}")),
        };
        self.faults.set_switch(name, on).map_err(|error| error.to_string())
    }

    fn check(&self) -> Result<(), String> {
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err("--tls-cert and --tls-key go together".to_owned());
        }
        if self.tls_ca.is_some() && self.tls_cert.is_none() {
            return Err("--tls-ca needs --tls-cert and --tls-key".to_owned());
        }
        if cfg!(not(feature = "tls")) && self.tls_cert.is_some() {
            return Err("this program was built without TLS".to_owned());
        }
        Ok(())
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(crate) fn start(self) -> io::Result<Broker> {
        let mut builder = Broker::cluster(self.cluster)
            .listen(&*self.listen)
            .dialect(self.dialect)
            .faults(self.faults.clone());
        if let Some(key) = &self.api_key {
            builder = builder.api_key(key.as_str());
        }
        if let Some(delay) = self.creation_delay {
            builder = builder.creation_delay(delay);
        }
        if let Some(timeout) = self.visibility_timeout {
            builder = builder.visibility_timeout(timeout);
        }
        if let Some(nacks) = self.dead_letter_after {
            builder = builder.dead_letter_after(nacks);
        }
        for queue in &self.queues {
            builder = builder.queue(queue.as_str());
        }
        self.with_tls(builder)?.start()
    }

    #[cfg(not(feature = "tls"))]
    fn with_tls(&self, builder: BrokerBuilder) -> io::Result<BrokerBuilder> {
        Ok(builder)
    }

    #[cfg(feature = "tls")]
    fn with_tls(&self, builder: BrokerBuilder) -> io::Result<BrokerBuilder> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(builder);
        };
        let mut tls = fila_test_broker::ServerTls::from_pem(&read(cert)?, &read(key)?)?;
        if let Some(authorities) = &self.tls_ca {
            tls = tls.client_ca_pem(&read(authorities)?)?;
        }
        Ok(builder.tls(tls))
    }
}

#[cfg(feature = "tls")]
fn read(path: &PathBuf) -> io::Result<String> {
    std::fs::read_to_string(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Command, String> {
        Command::parse(arguments.iter().map(OsString::from)).map_err(|error| error.to_string())
    }

    fn options(arguments: &[&str]) -> Options {
        match parse(arguments) {
            Ok(Command::Serve(options)) => *options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_option_is_taken() {
        let options = options(&[
            "--listen=[::1]:0",
            "--port-file",
            "port",
            "--api-key",
            "k",
            "--dialect",
            "preamble-p3",
            "--queue",
            "a",
            "--queue=b",
            "--fault",
            "cluster",
            "--cluster=3",
            "--creation-delay",
            "70",
            "--visibility-timeout",
            "1500",
            "--dead-letter-after",
            "5",
            "--json",
            "--fault=leases-kept=off",
            "--fault",
            "credit-loss=on",
        ]);
        assert_eq!(options.listen, "[::1]:0");
        assert_eq!(options.port_file, Some("port".into()));
        assert_eq!(options.api_key.as_deref(), Some("k"));
        assert_eq!(options.dialect.to_string(), "preamble-binary");
        assert_eq!(options.queues, ["a", "b"]);
        assert_eq!(
            (options.cluster, options.dead_letter_after, options.json),
            (3, Some(5), true)
        );
        assert_eq!(options.creation_delay, Some(Duration::from_millis(70)));
        assert_eq!(options.visibility_timeout, Some(Duration::from_millis(1500)));
        let faults = Faults::default().cluster(true).leases_kept(false).credit_loss(true);
        assert_eq!(options.faults, faults);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (arguments, error) in [
            (&["--fly"][..], "invalid option '--fly'"),
            (&["orders"], "unexpected argument \"orders\""),
            (&["--queue"], "missing argument for option '--queue'"),
            (&["--json=yes"], "unexpected argument for option '--json': \"yes\""),
            (
                &["--cluster", "0"],
                "cannot parse argument \"0\": a cluster has 1 to 100 nodes",
            ),
            (
                &["--visibility-timeout", "30s"],
                "cannot parse argument \"30s\": invalid digit found in string",
            ),
            (&["--fault", "fly"], "unknown fault \"fly\""),
            (&["--fault", "cluster=maybe"], "a fault is on or off, not maybe"),
            (&["--tls-key", "k"], "--tls-cert and --tls-key go together"),
            (&["--tls-ca", "c"], "--tls-ca needs --tls-cert and --tls-key"),
        ] {
            assert_eq!(parse(arguments).err().as_deref(), Some(error));
        }
        let error = parse(&["--dialect", "grpc"]).expect_err("no such dialect");
        assert!(error.contains("unknown dialect"), "{error}");
    }

    #[test]
    fn help_names_every_option_and_fault() {
        assert!(matches!(parse(&["--help"]), Ok(Command::Help)));
        assert!(matches!(parse(&["-V"]), Ok(Command::Version)));
        for fault in Faults::SWITCHES {
            assert!(HELP.contains(&format!("\n  {fault} ")), "{fault}");
        }
    }
}
