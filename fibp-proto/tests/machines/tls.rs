//! Channels whose servers stand behind TLS.

use std::sync::Arc;
use std::time::Duration;

use fibp_proto::config::ConsumerSettings;
use fibp_proto::event::State;
use fibp_proto::machine::{ChannelId, Machine};
use fibp_proto::server::ServerConfig;
use fibp_proto::tls::Tls;
use fibp_proto::{Config, Dialect, ErrorKind, Event, Fault, FaultKind, Message};
use rustls::ServerConfig as TlsServer;

use crate::authority::{Authority, Leaf, provider};
use crate::harness::{MODES, Mode, P3, Sim, TestMachine, in_every_mode};
use crate::host::{End, Host};

struct Certificates {
    authority: Authority,
    leaf: Leaf,
}

impl Certificates {
    fn new() -> Self {
        let authority = Authority::new("ca");
        let leaf = authority.sign(&["broker.test"]);
        Self { authority, leaf }
    }

    fn server(&self, alpn: &[&str]) -> Arc<TlsServer> {
        let mut config = TlsServer::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.leaf.certificate.clone()], self.leaf.private_key())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    fn config(&self) -> Config {
        Config::new("broker.test:5555").tls(Tls::ca_pem(self.authority.pem()))
    }
}

fn host(dialect: Dialect, tls: &Arc<TlsServer>) -> Host {
    Host::FilaTls(ServerConfig::new([dialect]), Arc::clone(tls))
}

fn open<M: TestMachine>(sim: &mut Sim<M>, dialect: Dialect, tls: &Arc<TlsServer>) {
    let tls = Arc::clone(tls);
    sim.dialed = Box::new(move |_, _| host(dialect, &tls));
    sim.settle();
}

fn spoken(sim: &Sim) -> Option<Dialect> {
    sim.events.iter().rev().find_map(|event| match event {
        Event::Connected { dialect, .. } => Some(*dialect),
        _ => None,
    })
}

#[test]
fn enqueueing_over_tls() {
    let certificates = Certificates::new();
    in_every_mode(|mode| {
        let mut sim = Sim::requests(certificates.config().api_key("key"), mode);
        let message = sim.enqueue("orders", "m");
        open(&mut sim, P3, &certificates.server(&["fibp"]));
        assert!(sim.opened().is_ok());
        assert_eq!(sim.enqueued(message).unwrap().as_str(), "of-m");
        assert_eq!(sim.asked_ops(), ["Authenticate", "Enqueue"], "the key inside TLS");
        sim
    });
}

#[test]
fn alpn_picks_the_dialect() {
    let certificates = Certificates::new();
    for (alpn, dialect) in [
        (&["fibp"][..], P3),
        (&["fila/1"], Dialect::Handshake),
        // Without a choice the first bytes decide, inside TLS.
        (&[], P3),
        (&[], Dialect::Handshake),
    ] {
        for mode in MODES {
            let mut sim = Sim::requests(certificates.config().api_key("key"), mode);
            open(&mut sim, dialect, &certificates.server(alpn));
            assert!(sim.opened().is_ok());
            let framed = dialect == Dialect::Handshake;
            assert_eq!(spoken(&sim) == Some(Dialect::Handshake), framed);
            assert_eq!(sim.dials.len(), if framed && alpn.is_empty() { 2 } else { 1 });
            sim.finish();
        }
    }
}

#[test]
fn a_grpc_server_is_named_by_alpn() {
    let certificates = Certificates::new();
    let mut sim = Sim::requests(certificates.config(), Mode::Whole);
    open(&mut sim, P3, &certificates.server(&["h2"]));
    let error = sim.opened().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongDialect);
    assert!(error.to_string().contains("gRPC"), "{error}");
    sim.finish();
}

#[test]
fn a_wrong_authority_is_fatal() {
    let certificates = Certificates::new();
    for mode in MODES {
        let config = Config::new("broker.test:5555").tls(Tls::ca_pem(Authority::new("other").pem()));
        let mut sim = Sim::requests(config, mode);
        let message = sim.enqueue("orders", "m");
        open(&mut sim, P3, &certificates.server(&["fibp"]));
        sim.advance_secs(30);
        assert_eq!(sim.opened().unwrap_err().kind(), ErrorKind::Tls);
        assert_eq!(sim.enqueued(message).unwrap_err().kind(), ErrorKind::Tls);
        assert_eq!(sim.dials.len(), 1, "not tried again");
        assert!(sim.asked.is_empty(), "nothing was sent");
        sim.finish();
    }
}

#[test]
fn a_wrong_name_is_fatal() {
    let certificates = Certificates::new();
    let config = Config::new("elsewhere.test:5555").tls(Tls::ca_pem(certificates.authority.pem()));
    let mut sim = Sim::requests(config, Mode::Whole);
    open(&mut sim, P3, &certificates.server(&["fibp"]));
    sim.advance_secs(30);
    assert_eq!(sim.opened().unwrap_err().kind(), ErrorKind::Tls);
    assert_eq!(sim.dials.len(), 1);
    sim.finish();
}

#[test]
fn a_server_without_tls_is_named() {
    let certificates = Certificates::new();
    for (bytes, kind) in [
        (&b""[..], ErrorKind::Tls),
        (b"\0\0\0\x13\0\xff\0\0\0\0invalid magic", ErrorKind::Tls),
    ] {
        let mut sim = Sim::requests(certificates.config(), Mode::Whole);
        sim.dialed = Box::new(move |_, _| Host::Raw(bytes.to_vec(), Some(End::Eof)));
        sim.advance_secs(30);
        let error = sim.opened().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("TLS"), "{error}");
        assert!(!error.is_retryable());
        assert!(
            sim.dials.len() <= 4,
            "a few openings that end without a word in TLS are an answer"
        );
        sim.finish();
    }
}

#[test]
fn a_server_that_worked_before_may_end_any_number_of_handshakes() {
    let certificates = Certificates::new();
    let tls = certificates.server(&["fibp"]);
    let mut sim = Sim::requests(certificates.config(), Mode::Whole);
    open(&mut sim, P3, &tls);
    sim.settle();
    assert!(sim.opened().is_ok());
    sim.dialed = Box::new(|_, _| Host::Raw(Vec::new(), Some(End::Eof)));
    sim.socket().end(End::Reset);
    sim.advance_secs(60);
    assert!(sim.dials.len() > 5);
    sim.dialed = Box::new(move |_, _| host(P3, &tls));
    sim.advance_secs(60);
    let message = sim.enqueue("orders", "m");
    sim.advance_secs(1);
    assert!(sim.enqueued(message).is_ok());
    sim.finish();
}

#[test]
fn silence_in_the_handshake_ends_with_the_connect_timeout() {
    let certificates = Certificates::new();
    let mut sim = Sim::requests(certificates.config(), Mode::Whole);
    sim.dialed = Box::new(|_, _| Host::Raw(Vec::new(), None));
    sim.advance_secs(5);
    assert_eq!(sim.opened().unwrap_err().kind(), ErrorKind::Timeout);
    sim.finish();
}

#[test]
fn an_end_anywhere_in_the_opening() {
    let certificates = Certificates::new();
    let tls = certificates.server(&["fibp"]);
    let mut sim = Sim::requests(certificates.config(), Mode::Whole);
    open(&mut sim, P3, &tls);
    assert!(sim.opened().is_ok());
    let whole = sim.socket().received;
    sim.finish();
    for cut in (0..whole).step_by(37) {
        for end in [End::Eof, End::Reset] {
            let mut sim = Sim::requests(certificates.config(), Mode::Whole);
            let message = sim.enqueue("orders", "m");
            let first = Arc::clone(&tls);
            sim.dialed = Box::new(move |_, _| host(P3, &first));
            sim.settle_until_socket();
            sim.socket().cut_at = Some(cut);
            sim.socket().cut_end = end;
            sim.advance_secs(6);
            // A reset may be bad luck, an end inside the handshake is an answer.
            let error = sim.opened();
            if let Err(error) = &error {
                assert_eq!(error.kind(), ErrorKind::Tls, "cut at {cut}: {error}");
            }
            assert_eq!(sim.enqueued(message).is_ok(), error.is_ok());
            sim.finish();
        }
    }
}

#[test]
fn large_payloads_both_ways() {
    let certificates = Certificates::new();
    for (dialect, alpn) in [(P3, "fibp"), (Dialect::Handshake, "fila/1")] {
        for mode in [Mode::Whole, Mode::Chunks(5)] {
            let mut sim = Sim::requests(certificates.config(), mode);
            open(&mut sim, dialect, &certificates.server(&[alpn]));
            assert!(sim.opened().is_ok());
            let payload = "p".repeat(1_500_000);
            let messages = vec![Message::new("orders", payload.clone()); 4];
            let many = sim.enqueue_many(messages);
            sim.settle();
            assert!(sim.enqueued_many(many).iter().all(Result::is_ok));
            sim.finish();

            let mut sim = Sim::consumer(certificates.config(), mode, ConsumerSettings::default().prefetch(2));
            open(&mut sim, dialect, &certificates.server(&[alpn]));
            assert!(sim.opened().is_ok());
            for _ in 0..3 {
                sim.push(&[&payload]);
            }
            let mut seen = 0;
            while sim.wait_delivery() {
                seen += sim
                    .take(1)
                    .iter()
                    .filter(|lease| lease.received.payload.len() == payload.len())
                    .count();
            }
            assert_eq!(seen, 3);
            sim.finish();
        }
    }
}

/// Threads write what they call themselves, once: a rest would cost a thread more.
#[test]
fn a_batch_is_written_at_once() {
    let certificates = Certificates::new();
    let mut sim = Sim::requests(certificates.config(), Mode::Whole);
    open(&mut sim, P3, &certificates.server(&["fibp"]));
    assert!(sim.opened().is_ok());
    sim.socket().budget = Some(0);
    let payload = "p".repeat(1_000);
    let many = sim.enqueue_many(vec![Message::new("orders", payload.clone()); 125]);
    sim.settle();
    assert!(sim.transmit().len() > 125 * payload.len());
    sim.socket().budget = None;
    sim.settle();
    assert!(sim.enqueued_many(many).iter().all(Result::is_ok));
    sim.finish();
}

#[test]
fn a_paused_consumer_stops_reading_ciphertext() {
    let certificates = Certificates::new();
    in_every_mode(|mode| {
        let mut sim = Sim::consumer(certificates.config(), mode, ConsumerSettings::default().prefetch(3));
        open(&mut sim, P3, &certificates.server(&["fibp"]));
        assert!(sim.opened().is_ok());
        for n in 0..30 {
            sim.push(&[&n.to_string()]);
        }
        sim.settle();
        assert!(!sim.machine.wants_read(ChannelId::MAIN));
        let mut seen = Vec::new();
        while sim.wait_delivery() {
            seen.extend(sim.payloads(2));
        }
        let expected: Vec<_> = (0..30).map(|n| n.to_string()).collect();
        assert_eq!(seen, expected);
        sim
    });
}

#[test]
fn what_was_decrypted_before_a_loss_is_delivered() {
    let certificates = Certificates::new();
    let mut sim = Sim::consumer(
        certificates.config(),
        Mode::Whole,
        ConsumerSettings::default().prefetch(2),
    );
    open(&mut sim, P3, &certificates.server(&["fibp"]));
    assert!(sim.opened().is_ok());
    for n in 0..6 {
        sim.push(&[&n.to_string()]);
    }
    sim.settle();
    sim.machine
        .handle_transport_error(sim.now, ChannelId::MAIN, Fault::new(FaultKind::Reset, "reset"));
    sim.settle();
    let mut seen = Vec::new();
    while sim.wait_delivery() {
        seen.extend(sim.payloads(2));
    }
    assert_eq!(seen, ["0", "1", "2", "3", "4", "5"]);
    sim.finish();
}

#[test]
fn input_of_an_old_connection_does_not_open_a_new_one() {
    let certificates = Certificates::new();
    let tls = certificates.server(&["fibp"]);
    let config = Config::new("broker.test:1,broker.test:2")
        .tls(Tls::ca_pem(certificates.authority.pem()))
        .api_key("key");
    let mut sim = Sim::requests(config, Mode::Whole);
    open(&mut sim, P3, &tls);
    assert!(sim.opened().is_ok());
    let mut buffer = sim.take_buffer(ChannelId::MAIN).unwrap();
    buffer.unfilled()[0] = 23;
    buffer.advance(1);
    // The goodbye is followed by a dial to the other server at once.
    sim.socket = None;
    sim.machine.handle_eof(sim.now, ChannelId::MAIN);
    sim.machine.handle_input(sim.now, ChannelId::MAIN, buffer);
    sim.asked.clear();
    sim.advance_secs(1);
    assert_eq!(sim.shared.state(), State::Connected);
    assert_eq!(sim.asked_ops(), ["Authenticate"], "the new connection has its key");
    let message = sim.enqueue("orders", "m");
    sim.settle();
    assert!(sim.enqueued(message).is_ok());
    sim.finish();
}

#[test]
fn a_goodbye_inside_tls() {
    let certificates = Certificates::new();
    in_every_mode(|mode| {
        let mut sim = Sim::requests(certificates.config(), mode);
        open(&mut sim, Dialect::Handshake, &certificates.server(&["fila/1"]));
        assert!(sim.opened().is_ok());
        let closing = sim.close(5_000);
        sim.settle();
        sim.closed(closing);
        assert_eq!(sim.hangups, 1);
        sim.check_inert();
        sim
    });
}

/// After the close_notify nothing is sent: what is encoded then must not keep the driver at it.
#[test]
fn nothing_is_written_after_the_end_was_said() {
    let certificates = Certificates::new();
    let config = certificates.config().heartbeat(Duration::from_millis(300), 10);
    let mut sim = Sim::requests(config, Mode::Whole);
    open(&mut sim, Dialect::Handshake, &certificates.server(&["fila/1"]));
    assert!(sim.opened().is_ok());
    // It reads nothing any more.
    sim.socket().server_closed = true;
    sim.socket().budget = Some(0);
    let closing = sim.close(5_000);
    sim.settle();
    sim.closed(closing);
    // The goodbye leaves, the close_notify behind it is stuck until a heartbeat is due.
    let goodbye = sim.transmit().len();
    sim.socket().budget = Some(goodbye);
    sim.settle();
    assert_eq!(sim.half_closes, 0, "the close_notify is not out");
    sim.advance_ms(600);
    sim.socket().budget = None;
    sim.settle();
    assert!(!sim.machine.needs_driver(ChannelId::MAIN), "there is nothing to do");
    assert_eq!(sim.half_closes, 1);
    sim.advance_secs(1);
    sim.check_inert();
    sim.finish();
}

#[test]
fn a_damaged_record_ends_the_connection() {
    let certificates = Certificates::new();
    let mut sim = Sim::requests(certificates.config(), Mode::Whole);
    open(&mut sim, P3, &certificates.server(&["fibp"]));
    assert!(sim.opened().is_ok());
    sim.serve = Box::new(|_, _| crate::host::Act::Silence);
    let message = sim.enqueue("orders", "m");
    sim.settle();
    sim.socket().say(b"\x17\x03\x03\0\x15garbage garbage garbage");
    sim.advance(Duration::ZERO);
    assert_eq!(sim.enqueued(message).unwrap_err().kind(), ErrorKind::Tls);
    sim.finish();
}
