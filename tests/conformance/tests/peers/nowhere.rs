//! No server at all: names and addresses that lead nowhere, and settings that never reach the network.

use std::net::Ipv4Addr;
use std::time::Duration;

use fibp_proto::config::Config;
use fibp_proto::tls::Tls;
use fibp_proto::{ErrorKind, Outcome};
use fila_conformance::cases;
use fila_conformance::env;

cases! {
    Peer;

    /// An address that swallows packets: a listener whose backlog is full.
    async fn row_31_connect_timeout_covers_a_black_hole(env: &Env) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let any_port = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any_port.into()).expect("a free port");
        socket.listen(0).expect("listening");
        let addr = socket.local_addr().expect("bound").as_socket().expect("an internet address");
        // Fills the backlog; whatever comes later is not even refused.
        let filling: Vec<_> = (0..4)
            .map(|_| std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(50)))
            .collect();
        let config = env::config(addr).connect_timeout(Duration::from_millis(200));
        let error = env.connect(config).await.err().expect("nobody accepts");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent), "{error}");
        drop(filling);
    }

    /// A name that does not exist is an error that says so, and nothing was sent.
    async fn row_24_unknown_host_names(env: &Env) {
        let config = Config::new("no-such-host.invalid:5555").connect_timeout(Duration::from_secs(20));
        let error = env.connect(config).await.err().expect("no such host");
        assert!(matches!(error.kind(), ErrorKind::Resolve | ErrorKind::Timeout), "{error}");
        assert_eq!(error.outcome(), Outcome::NotSent);
    }

    /// Settings that contradict each other never reach the network.
    async fn malformed_settings_are_configuration_errors(env: &Env) {
        for config in [
            Config::new("no port"),
            Config::new("localhost:5555").api_key(""),
            Config::new("localhost:5555").max_frame_size(1, 1),
        ] {
            let error = env.connect(config).await.err().expect("malformed");
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Config, Outcome::NotSent), "{error}");
        }
    }

    /// A PEM without a certificate is a configuration error that says so.
    async fn malformed_pem_is_a_configuration_error(env: &Env) {
        for tls in [Tls::ca_pem(""), Tls::ca_pem("not PEM at all")] {
            let error = env.connect(Config::new("127.0.0.1:1").tls(tls)).await.err().expect("no certificate");
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Config, Outcome::NotSent), "{error}");
            assert!(error.to_string().contains("certificate"), "{error}");
        }
    }
}
