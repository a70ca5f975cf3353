//! Packets of pcap and pcapng files.

use std::fs::File;
use std::time::Duration;

use etherparse::SlicedPacket;
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

use crate::Result;

/// The largest block that is read: a packet of 256 KiB with its options.
const CAPACITY: usize = 1024 * 1024;

/// Of one interface of a pcapng file.
struct Interface {
    link: Linktype,
    offset: u64,
    resolution: u64,
}

/// Shows every packet of the file with the time since the first; tells how many could not be read.
pub(crate) fn read(path: &str, mut packet: impl FnMut(Duration, &SlicedPacket<'_>) -> Result<()>) -> Result<u64> {
    let file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
    let mut reader = create_reader(CAPACITY, file).map_err(|error| format!("{path}: {error}"))?;
    let mut link = Linktype(1);
    let mut nanoseconds = false;
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut first = None;
    let mut unread = 0;
    loop {
        let (used, block) = match reader.next() {
            Ok(read) => read,
            Err(PcapError::Eof) => return Ok(unread),
            Err(PcapError::Incomplete(_)) => {
                reader.refill().map_err(|error| format!("{path}: {error}"))?;
                continue;
            }
            Err(error) => return Err(format!("{path}: {error}").into()),
        };
        let seen = match &block {
            PcapBlockOwned::LegacyHeader(header) => {
                link = header.network;
                nanoseconds = header.is_nanosecond_precision();
                None
            }
            PcapBlockOwned::Legacy(block) => {
                let fraction = u64::from(block.ts_usec) * if nanoseconds { 1 } else { 1000 };
                let at = Duration::from_secs(block.ts_sec.into()).saturating_add(Duration::from_nanos(fraction));
                Some((at, link, block.data))
            }
            PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                interfaces.clear();
                None
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                interfaces.push(Interface {
                    link: interface.linktype,
                    offset: u64::try_from(interface.if_tsoffset).unwrap_or(0),
                    resolution: interface.ts_resolution().unwrap_or(1_000_000),
                });
                None
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                let interface = usize::try_from(block.if_id).ok().and_then(|id| interfaces.get(id));
                interface.map(|interface| {
                    let (seconds, fraction) = block.decode_ts(interface.offset, interface.resolution);
                    let fraction = u64::from(fraction) * 1_000_000_000 / interface.resolution.max(1);
                    let at = Duration::from_secs(seconds.into()).saturating_add(Duration::from_nanos(fraction));
                    let length = usize::try_from(block.caplen)
                        .unwrap_or(usize::MAX)
                        .min(block.data.len());
                    (at, interface.link, &block.data[..length])
                })
            }
            PcapBlockOwned::NG(_) => None,
        };
        if let Some((at, link, data)) = seen {
            let begin = *first.get_or_insert(at);
            match sliced(link, data) {
                Some(sliced) => packet(at.saturating_sub(begin), &sliced)?,
                None => unread += 1,
            }
        }
        reader.consume(used);
    }
}

/// The headers of a packet, by the type of the link (<https://www.tcpdump.org/linktypes.html>).
fn sliced(link: Linktype, data: &[u8]) -> Option<SlicedPacket<'_>> {
    let sliced = match link.0 {
        0 | 108 => SlicedPacket::from_ip(data.get(4..)?),
        1 => SlicedPacket::from_ethernet(data),
        12 | 14 | 101 | 228 | 229 => SlicedPacket::from_ip(data),
        113 => SlicedPacket::from_linux_sll(data),
        276 => SlicedPacket::from_ip(data.get(20..)?),
        _ => return None,
    };
    sliced.ok()
}
