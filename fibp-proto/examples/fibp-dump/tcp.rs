//! TCP connections of a capture: packets in order, holes where packets are missing.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TcpSlice, TransportSlice};
use fibp_proto::Dialect;
use fibp_proto::observe::{Conversation, ObserverConfig, Side};

use crate::Result;

/// Out of order, a direction keeps so many bytes before what lies between is taken for lost.
const MAX_AHEAD: usize = 4 * 1024 * 1024;

/// What tells the events of a connection that has some.
pub(crate) type Tell<'a> = dyn FnMut(&str, &mut Conversation) -> Result<()> + 'a;

/// All connections.
pub(crate) struct Flows {
    port: Option<u16>,
    dialect: Dialect,
    /// By client and server.
    flows: HashMap<(SocketAddr, SocketAddr), Flow>,
}

struct Flow {
    name: String,
    conversation: Conversation,
    client: Direction,
    server: Direction,
    last: Duration,
}

/// The packets of one direction.
#[derive(Default)]
struct Direction {
    /// The sequence number of the next byte.
    next: Option<u32>,
    /// Packets that came early, by their distance from the first byte of the direction.
    early: BTreeMap<u64, Vec<u8>>,
    ahead: usize,
    passed: u64,
    fin: bool,
}

impl Flows {
    pub(crate) fn new(port: Option<u16>, dialect: Dialect) -> Self {
        Self {
            port,
            dialect,
            flows: HashMap::new(),
        }
    }

    pub(crate) fn packet(&mut self, at: Duration, packet: &SlicedPacket<'_>, tell: &mut Tell<'_>) -> Result<()> {
        let (Some(net), Some(TransportSlice::Tcp(tcp))) = (&packet.net, &packet.transport) else {
            return Ok(());
        };
        let (from, to): (IpAddr, IpAddr) = match net {
            NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Arp(_) => return Ok(()),
        };
        let from = SocketAddr::new(from, tcp.source_port());
        let to = SocketAddr::new(to, tcp.destination_port());
        if self.port.is_some_and(|port| port != from.port() && port != to.port()) {
            return Ok(());
        }
        let Some((key, side)) = self.place(at, from, to, tcp, tell)? else {
            return Ok(());
        };
        if let Some(flow) = self.flows.get_mut(&key) {
            flow.packet(at, side, tcp);
            tell(&flow.name, &mut flow.conversation)?;
        }
        Ok(())
    }

    /// Which connection a packet belongs to, and which side sent it.
    fn place(
        &mut self,
        at: Duration,
        from: SocketAddr,
        to: SocketAddr,
        tcp: &TcpSlice<'_>,
        tell: &mut Tell<'_>,
    ) -> Result<Option<((SocketAddr, SocketAddr), Side)>> {
        let opens = tcp.syn() && !tcp.ack();
        if opens {
            // The same addresses again: another connection, unless it is the same packet.
            let known = self.flows.get(&(from, to)).and_then(|flow| flow.client.next);
            if known != Some(tcp.sequence_number().wrapping_add(1)) {
                if let Some(mut old) = self.flows.remove(&(from, to)) {
                    old.finish();
                    tell(&old.name, &mut old.conversation)?;
                }
                self.flows
                    .insert((from, to), Flow::new(from, to, self.dialect, false, at));
            }
            return Ok(Some(((from, to), Side::Client)));
        }
        if self.flows.contains_key(&(from, to)) {
            return Ok(Some(((from, to), Side::Client)));
        }
        if self.flows.contains_key(&(to, from)) {
            return Ok(Some(((to, from), Side::Server)));
        }
        if tcp.payload().is_empty() {
            return Ok(None);
        }
        // Joined in the middle: the server is who has the given port, or else the lower one.
        let server_sent = match self.port {
            Some(port) => from.port() == port,
            None => from.port() < to.port(),
        };
        let (key, side) = if server_sent {
            ((to, from), Side::Server)
        } else {
            ((from, to), Side::Client)
        };
        self.flows.insert(key, Flow::new(key.0, key.1, self.dialect, true, at));
        Ok(Some((key, side)))
    }

    /// The capture is over.
    pub(crate) fn finish(&mut self, tell: &mut Tell<'_>) -> Result<()> {
        let mut flows: Vec<_> = self.flows.drain().map(|(_, flow)| flow).collect();
        flows.sort_by(|a, b| a.name.cmp(&b.name));
        for mut flow in flows {
            flow.finish();
            tell(&flow.name, &mut flow.conversation)?;
        }
        Ok(())
    }
}

impl Flow {
    fn new(client: SocketAddr, server: SocketAddr, dialect: Dialect, joined: bool, at: Duration) -> Self {
        let mut config = ObserverConfig::default();
        config.dialect = dialect;
        config.joined = joined;
        Self {
            name: format!("{client}-{server}"),
            conversation: Conversation::new(config),
            client: Direction::default(),
            server: Direction::default(),
            last: at,
        }
    }

    fn packet(&mut self, at: Duration, side: Side, tcp: &TcpSlice<'_>) {
        self.last = at;
        let (mine, other) = match side {
            Side::Client => (&mut self.client, &mut self.server),
            Side::Server => (&mut self.server, &mut self.client),
        };
        let opposite = match side {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        // Acknowledged bytes that are not there were missed by the capture.
        if tcp.ack() && !other.early.is_empty() {
            other.skip_to(tcp.acknowledgment_number(), opposite, at, &mut self.conversation);
        }
        let sequence = tcp.sequence_number();
        if tcp.syn() {
            mine.next = Some(sequence.wrapping_add(1));
            return;
        }
        mine.take(sequence, tcp.payload(), side, at, &mut self.conversation);
        if tcp.fin() || tcp.rst() {
            mine.fin = true;
        }
        if mine.fin && mine.early.is_empty() {
            self.conversation.end(side, at);
        }
        if tcp.rst() {
            self.conversation.end(opposite, at);
        }
    }

    fn finish(&mut self) {
        for (side, direction) in [(Side::Client, &mut self.client), (Side::Server, &mut self.server)] {
            direction.skip_hole(side, self.last, &mut self.conversation);
            if direction.fin {
                self.conversation.end(side, self.last);
            }
        }
    }
}

impl Direction {
    fn take(&mut self, sequence: u32, payload: &[u8], side: Side, at: Duration, to: &mut Conversation) {
        if payload.is_empty() {
            return;
        }
        let next = *self.next.get_or_insert(sequence);
        // How far the packet is from the next byte, in either direction.
        #[expect(clippy::cast_possible_wrap, reason = "sequence numbers wrap")]
        let distance = sequence.wrapping_sub(next) as i32;
        if distance > 0 {
            self.ahead += payload.len();
            let place = self.passed + u64::from(distance.unsigned_abs());
            self.early.entry(place).or_insert_with(|| payload.to_vec());
            if self.ahead > MAX_AHEAD {
                self.skip_hole(side, at, to);
            }
            return;
        }
        // Sent again, in whole or in part.
        let known = usize::try_from(distance.unsigned_abs()).unwrap_or(usize::MAX);
        self.pass(payload.get(known..).unwrap_or_default(), side, at, to);
        self.pass_early(side, at, to);
    }

    fn pass(&mut self, bytes: &[u8], side: Side, at: Duration, to: &mut Conversation) {
        self.passed += bytes.len() as u64;
        self.next = self
            .next
            .map(|next| next.wrapping_add(u32::try_from(bytes.len()).unwrap_or(0)));
        to.input(side, at, bytes);
    }

    fn pass_early(&mut self, side: Side, at: Duration, to: &mut Conversation) {
        while let Some((&place, _)) = self.early.first_key_value()
            && place <= self.passed
            && let Some((_, bytes)) = self.early.pop_first()
        {
            self.ahead = self.ahead.saturating_sub(bytes.len());
            let known = usize::try_from(self.passed - place).unwrap_or(usize::MAX);
            self.pass(bytes.get(known..).unwrap_or_default(), side, at, to);
        }
    }

    /// The other side has everything before `acknowledged`.
    fn skip_to(&mut self, acknowledged: u32, side: Side, at: Duration, to: &mut Conversation) {
        while let (Some(next), Some((&place, _))) = (self.next, self.early.first_key_value()) {
            #[expect(clippy::cast_possible_wrap, reason = "sequence numbers wrap")]
            let distance = acknowledged.wrapping_sub(next) as i32;
            if u64::from(distance.max(0).unsigned_abs()) <= place - self.passed {
                return;
            }
            self.skip_hole(side, at, to);
        }
    }

    /// What lies before the first early packet is lost.
    fn skip_hole(&mut self, side: Side, at: Duration, to: &mut Conversation) {
        if let Some((&place, _)) = self.early.first_key_value() {
            let lost = place - self.passed;
            to.hole(side, at, Some(lost));
            self.passed = place;
            self.next = self
                .next
                .map(|next| next.wrapping_add(u32::try_from(lost).unwrap_or(0)));
            self.pass_early(side, at, to);
        }
    }
}
