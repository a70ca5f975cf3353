//! Command line of the program.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use fila_test_broker::{Broker, BrokerBuilder, Dialect, Faults};

pub(crate) const HELP: &str = "\
An in-memory Fila broker for tests.

Usage: fila-test-broker [OPTION]...

  --listen ADDR        listen here (default 127.0.0.1:5555; port 0 is a free one)
  --port-file PATH     write the bound host:port to this file
  --api-key KEY        turn authentication on, with this superadmin key
  --dialect NAME       speak preamble-p1, preamble-p2, preamble-p3, framed or framed-f1 only
                       (default: preamble-p1 and framed on one port)
  --queue NAME         create this queue at the start; repeatable
  --tls-cert PATH      serve TLS with this certificate chain (PEM)
  --tls-key PATH       its private key (PEM)
  --tls-ca PATH        demand client certificates signed by these authorities (PEM)
  --fault NAME[=off]   switch a fault or behaviour on (or off); repeatable
  --help               print this, and the names of faults
  --version            print the version

Prints \"listening on HOST:PORT\" when it is ready. Stops on Ctrl-C and SIGTERM.

Faults (on by default: oversized-push-kills, malformed-closes, leases-kept, deliveries-after-cancel, and
credit-loss with preamble-p1 and preamble-p2):

  oversized-push-kills     a push over the frame limit ends pushing, silently
  cluster                  refuse to consume unknown queues, as a cluster node does
  tls-quirks               the older handler that preamble servers run behind TLS
  malformed-closes         close without a frame on malformed hot-path requests
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
            tls_cert: None,
            tls_key: None,
            tls_ca: None,
            faults: Faults::default(),
        }
    }
}

impl Command {
    pub(crate) fn parse(arguments: impl Iterator<Item = Result<String, OsString>>) -> Result<Self, String> {
        let mut arguments = arguments.map(|argument| argument.map_err(|raw| format!("{raw:?} is not UTF-8")));
        let mut options = Options::default();
        while let Some(argument) = arguments.next() {
            let argument = argument?;
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            match (name, &inline) {
                ("--help" | "-h", None) => return Ok(Self::Help),
                ("--version" | "-V", None) => return Ok(Self::Version),
                _ => {}
            }
            let mut value = || match &inline {
                Some(value) => Ok(value.clone()),
                None => arguments.next().ok_or_else(|| format!("{name} needs a value"))?,
            };
            match name {
                "--listen" => options.listen = value()?,
                "--port-file" => options.port_file = Some(value()?.into()),
                "--api-key" => options.api_key = Some(value()?),
                "--dialect" => {
                    options.dialect = Dialect::from_str(&value()?).map_err(|error| error.to_string())?;
                }
                "--queue" => options.queues.push(value()?),
                "--tls-cert" => options.tls_cert = Some(value()?.into()),
                "--tls-key" => options.tls_key = Some(value()?.into()),
                "--tls-ca" => options.tls_ca = Some(value()?.into()),
                "--fault" => options.switch(&value()?)?,
                _ => return Err(format!("unknown option {argument}")),
            }
        }
        options.check()?;
        Ok(Self::Serve(Box::new(options)))
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

    pub(crate) fn start(self) -> io::Result<Broker> {
        let mut builder = Broker::builder()
            .listen(&*self.listen)
            .dialect(self.dialect)
            .faults(self.faults.clone());
        if let Some(key) = &self.api_key {
            builder = builder.api_key(key.as_str());
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
        Command::parse(arguments.iter().map(|argument| Ok((*argument).to_owned())))
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
            "--fault=leases-kept=off",
            "--fault",
            "credit-loss=on",
        ]);
        assert_eq!(options.listen, "[::1]:0");
        assert_eq!(options.port_file, Some("port".into()));
        assert_eq!(options.api_key.as_deref(), Some("k"));
        assert_eq!(options.dialect.to_string(), "preamble-p3");
        assert_eq!(options.queues, ["a", "b"]);
        let faults = Faults::default().cluster(true).leases_kept(false).credit_loss(true);
        assert_eq!(options.faults, faults);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (arguments, error) in [
            (&["--fly"][..], "unknown option --fly"),
            (&["orders"], "unknown option orders"),
            (&["--queue"], "--queue needs a value"),
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
