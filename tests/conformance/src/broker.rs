//! The embedded broker, as the cases use it.

use fibp_proto::{AdminRevision, Dialect};

pub use fila_test_broker::{Broker, BrokerBuilder, Faults, Leadership, ManualClock, ServerTls};

/// Preamble, revision P1.
pub const P1: Dialect = Dialect::Preamble(AdminRevision::Protobuf);
/// Preamble, revision P2.
pub const P2: Dialect = Dialect::Preamble(AdminRevision::ProtobufRenumbered);
/// Preamble, revision P3.
pub const P3: Dialect = Dialect::Preamble(AdminRevision::Binary);
/// Framed, F2.
pub const FRAMED: Dialect = Dialect::Handshake;

/// What cases run in that are not run in every dialect.
pub const DEFAULT: Dialect = P1;

/// Every dialect that the suite runs in.
pub const DIALECTS: [Dialect; 4] = [P1, P2, P3, FRAMED];

/// Starts a broker that speaks one dialect.
///
/// # Panics
///
/// The loopback interface has no free port.
pub fn start(dialect: Dialect) -> Broker {
    start_with(dialect, |builder| builder)
}

/// Starts a broker with other settings.
///
/// # Panics
///
/// The loopback interface has no free port.
pub fn start_with(dialect: Dialect, change: impl FnOnce(BrokerBuilder) -> BrokerBuilder) -> Broker {
    change(Broker::builder().dialect(dialect)).start().expect("a broker")
}
