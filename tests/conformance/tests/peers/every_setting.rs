//! Row 31, as a table: every setting, and the tests that fail when it is ignored. A setting without a row fails, and so does
//! a row that names no setting or no test.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;

use fibp_proto::config::{Config, ConsumerSettings, Settings};

const CLIENT: &str = "tests/conformance/tests/suite/settings.rs";
const PEERS: &str = "tests/conformance/tests/peers/settings.rs";
const LEASES: &str = "tests/conformance/tests/peers/leases.rs";
const CONNECTIONS: &str = "tests/conformance/tests/suite/connections.rs";
const OPENING: &str = "fibp-proto/tests/machines/opening.rs";
const DEADLINES: &str = "fibp-proto/tests/machines/deadlines.rs";
const CALLS: &str = "fibp-proto/tests/machines/calls.rs";
const RECONNECT: &str = "fibp-proto/tests/machines/reconnect.rs";
const FLOW: &str = "fibp-proto/tests/machines/flow.rs";
const TLS: &str = "tests/conformance/tests/suite/tls.rs";

/// A setting by the name of its field, with those of what contains it before it; the options of URLs that set it; and tests:
/// file and name.
type Row = (
    &'static str,
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
);

const CLIENT_SETTINGS: &[Row] = &[
    (
        "endpoints",
        &[],
        &[(
            "tests/conformance/tests/suite/connecting.rs",
            "row_31_endpoints_are_tried_in_turn",
        )],
    ),
    ("credentials", &[], &[(PEERS, "row_27_row_31_credentials")]),
    (
        "tls",
        &[
            "tls_roots",
            "server_name",
            "ca_file",
            "client_cert_file",
            "client_key_file",
        ],
        &[
            (TLS, "row_21_a_wrong_host_name_is_refused"),
            (TLS, "row_31_certificates_in_files"),
            ("fibp-proto/src/config/url.rs", "tls_options"),
            (
                "fibp-proto/tests/tls/certificates.rs",
                "roots_that_the_build_lacks_are_named",
            ),
        ],
    ),
    ("dialect", &["dialect"], &[(CLIENT, "row_31_dialect")]),
    (
        "connect_timeout",
        &["connect_timeout"],
        &[(OPENING, "silence_ends_with_the_connect_timeout")],
    ),
    (
        "request_timeout",
        &["request_timeout"],
        &[(DEADLINES, "deadlines_tell_what_was_sent")],
    ),
    (
        "heartbeat.every",
        &["heartbeat"],
        &[(CALLS, "heartbeats_keep_a_silent_connection_and_end_a_dead_one")],
    ),
    (
        "heartbeat.missed",
        &["heartbeat"],
        &[(CALLS, "as_many_heartbeats_may_be_missed_as_configured")],
    ),
    (
        "reconnect.initial",
        &["reconnect"],
        &[
            (RECONNECT, "the_first_pause_is_bounded_as_configured"),
            (CLIENT, "row_31_reconnect_never"),
        ],
    ),
    (
        "reconnect.max",
        &["reconnect"],
        &[(RECONNECT, "pauses_are_drawn_between_zero_and_a_doubling_bound")],
    ),
    (
        "reconnect.max_attempts",
        &["reconnect"],
        &[(CLIENT, "row_31_reconnect_attempts_are_bounded")],
    ),
    (
        "in_flight.requests",
        &["max_in_flight"],
        &[(CLIENT, "row_31_max_in_flight_waits")],
    ),
    (
        "in_flight.bytes",
        &["max_in_flight"],
        &[(CLIENT, "row_31_max_in_flight_bounds_bytes")],
    ),
    (
        "in_flight.on_full",
        &["on_full"],
        &[(CLIENT, "row_31_max_in_flight_fails")],
    ),
    ("replay", &["replay"], &[(CLIENT, "row_31_replay")]),
    (
        "frame_limits.send",
        &["max_frame_size"],
        &[(CONNECTIONS, "row_05_an_unencodable_message_comes_back")],
    ),
    (
        "frame_limits.receive",
        &["max_frame_size"],
        &[(CONNECTIONS, "an_oversized_answer_fails_its_own_call")],
    ),
    (
        "producer.batching",
        &["batching"],
        &[
            (CLIENT, "row_31_batching_disabled_and_batch_limits"),
            (CLIENT, "row_31_linger_ends"),
        ],
    ),
    (
        "producer.max_messages",
        &["batch_max_messages"],
        &[(CLIENT, "row_31_batching_disabled_and_batch_limits")],
    ),
    (
        "producer.max_bytes",
        &["batch_max_bytes"],
        &[(CLIENT, "row_31_batching_disabled_and_batch_limits")],
    ),
    (
        "producer.buffer",
        &["buffer"],
        &[(CLIENT, "row_31_producer_buffer_and_on_full")],
    ),
    (
        "producer.on_full",
        &["on_full"],
        &[(CLIENT, "row_31_producer_buffer_and_on_full")],
    ),
    ("keepalive", &["keepalive"], &[(PEERS, "row_31_keepalive")]),
    (
        "happy_eyeballs_delay",
        &["happy_eyeballs_delay"],
        &[
            (
                "fibp-proto/tests/asynchronous/main.rs",
                "addresses_are_dialed_one_after_another_as_configured",
            ),
            (
                "fila-client-blocking/src/connect.rs",
                "addresses_are_dialed_one_after_another_as_configured",
            ),
        ],
    ),
    (
        "max_redirects",
        &["max_redirects"],
        &[(
            "fibp-proto/tests/machines/redirects.rs",
            "redirects_are_bounded_and_not_followed_in_circles",
        )],
    ),
    (
        "queue_ready_timeout",
        &["queue_ready_timeout"],
        &[(
            "fibp-proto/tests/machines/clusters.rs",
            "a_queue_that_does_not_exist_is_asked_for_as_long_as_configured",
        )],
    ),
];

const CONSUMER_SETTINGS: &[Row] = &[
    ("prefetch", &[], &[(PEERS, "row_31_prefetch_is_the_window")]),
    (
        "credit",
        &[],
        &[
            (LEASES, "row_08_credit_comes_back_when_a_delivery_is_settled_or_dropped"),
            (FLOW, "standing_credit_is_large_and_topped_up_by_what_was_received"),
        ],
    ),
    (
        "visibility_timeout",
        &[],
        &[
            (CLIENT, "row_31_visibility_timeout_and_late_acks"),
            (LEASES, "row_35_expired_deliveries_are_skipped"),
        ],
    ),
    (
        "expired",
        &[],
        &[(LEASES, "row_35_expired_deliveries_are_handed_out_by_choice")],
    ),
    ("idle_resubscribe", &[], &[(CLIENT, "row_31_idle_resubscribe")]),
    (
        "resubscribe",
        &[],
        &[(CONNECTIONS, "row_02_a_consumer_ends_with_one_error")],
    ),
    (
        "verify_queue",
        &[],
        &[("tests/conformance/tests/suite/connecting.rs", "row_31_verify_queue")],
    ),
    ("receive_buffer", &[], &[(PEERS, "row_31_receive_buffer")]),
];

/// The fields that a value shows, those of what it contains behind the name of what contains them.
fn fields(value: &impl Debug) -> BTreeSet<String> {
    const INDENT: usize = 4;
    let shown = format!("{value:#?}");
    // By depth; what is a variant and no field has no name.
    let mut path: Vec<Option<&str>> = Vec::new();
    let mut fields = BTreeSet::new();
    for line in shown.lines().skip(1) {
        let text = line.trim_start();
        let depth = (line.len() - text.len()) / INDENT;
        path.truncate(depth.saturating_sub(1));
        if text.starts_with(['}', ')', ']']) {
            continue;
        }
        let name = text.split_once(": ").map(|(name, _)| name);
        path.push(name);
        let names: Vec<_> = path.iter().flatten().copied().collect();
        if name.is_some() {
            fields.insert(names.join("."));
        }
    }
    // What contains settings is none itself.
    let containers: BTreeSet<String> = fields
        .iter()
        .filter_map(|name| name.rsplit_once('.').map(|(container, _)| container.to_owned()))
        .collect();
    fields.difference(&containers).cloned().collect()
}

fn named(rows: &[Row]) -> BTreeSet<String> {
    rows.iter().map(|(name, ..)| (*name).to_owned()).collect()
}

fn source(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn every_setting_has_a_row() {
    assert_eq!(named(CLIENT_SETTINGS), fields(&Settings::default()));
    assert_eq!(named(CONSUMER_SETTINGS), fields(&ConsumerSettings::default()));
}

/// The error for an option that does not exist lists those that do.
#[test]
fn every_option_of_urls_is_in_a_row() {
    let error = "fila://broker?no_such_option=1"
        .parse::<Config>()
        .expect_err("no such option")
        .to_string();
    let (_, known) = error.split_once("known are ").expect("a list");
    let known: BTreeSet<_> = known.split(", ").collect();
    assert!(known.len() > 10, "{error}");
    let tested: BTreeSet<_> = CLIENT_SETTINGS
        .iter()
        .flat_map(|(_, options, _)| *options)
        .copied()
        .collect();
    assert_eq!(tested, known);
}

/// The builders of consumers and producers set what has a row, and all of it.
#[test]
fn every_method_of_a_builder_is_in_a_row() {
    let macros = source("fibp-proto/src/common.rs");
    let methods = |text: &str| -> BTreeSet<String> {
        let methods = text.match_indices("pub fn ").filter_map(|(at, _)| {
            let (name, rest) = text[at + "pub fn ".len()..].split_once('(')?;
            rest.starts_with("mut self").then(|| name.to_owned())
        });
        methods.collect()
    };
    let block = |name: &str| {
        let (_, rest) = macros.split_once(&format!("macro_rules! {name} ")).expect("a macro");
        rest.split("macro_rules!").next().unwrap_or_default().to_owned()
    };
    assert_eq!(methods(&block("consumer_options")), named(CONSUMER_SETTINGS));
    let producer: BTreeSet<String> = named(CLIENT_SETTINGS)
        .iter()
        .filter_map(|name| name.strip_prefix("producer.").map(str::to_owned))
        .collect();
    assert_eq!(methods(&block("producer_options")), producer);
}

#[test]
fn every_row_names_tests() {
    for (setting, _, tests) in CLIENT_SETTINGS.iter().chain(CONSUMER_SETTINGS) {
        assert!(!tests.is_empty(), "{setting}");
        for (file, test) in *tests {
            assert!(
                source(file).contains(&format!("fn {test}(")),
                "{setting}: no {test} in {file}"
            );
        }
    }
}
