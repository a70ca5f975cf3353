//! Bytes through the pipe: in pieces, in bulk, bounded, and cut off.

use fibp_proto::ErrorKind;
use fibp_proto::tls::{Tls, TlsEnd, TlsPipe};

use crate::authority::Authority;
use crate::pair::{NAME, Pair, ServerOptions, context};

/// What is sent when nothing else matters.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| u8::try_from(index * 31 % 251).unwrap()).collect()
}

#[test]
fn pieces_of_any_size_make_the_same_connection() {
    let authority = Authority::new("ca");
    let leaf = authority.sign(&[NAME]);
    let context = context(&Tls::ca_pem(authority.pem()));
    let server = ServerOptions::new(&leaf).build();
    for chunk in (1..40).chain([100, 4095, 4096, 4097]) {
        let mut pair = Pair::new(&context, NAME, server.clone());
        pair.chunk = chunk;
        pair.run();
        pair.assert_connected();
        pair.write(&pattern(300), &pattern(20_000));
        pair.run();
        assert_eq!(pair.server_received, pattern(300));
        assert_eq!(pair.client_received, pattern(20_000));
    }
}

#[test]
fn a_record_may_be_split_at_every_byte() {
    let mut pair = Pair::connected();
    let mut expected = Vec::new();
    for split in 0.. {
        pair.write(b"", b"a record");
        let record = pair.take_from_server();
        let Some((head, tail)) = record.split_at_checked(split) else {
            break;
        };
        pair.feed_client(head);
        pair.feed_client(tail);
        expected.extend_from_slice(b"a record");
        assert_eq!(pair.client_received, expected);
    }
    assert!(expected.len() > 20 * b"a record".len());
}

#[test]
fn ten_mebibytes_both_ways_within_bounds() {
    const TOTAL: usize = 10 << 20;
    let data = pattern(TOTAL);
    let mut pair = Pair::connected();
    let (mut sent, mut answered) = (0, 0);
    while sent < TOTAL || answered < TOTAL {
        let (more_sent, more_answered) = pair.write(&data[sent..], &data[answered..]);
        assert!(more_sent <= 64 * 1024);
        assert!(more_sent + more_answered > 0, "no progress");
        // A second write finds the room gone.
        if sent + more_sent < TOTAL {
            assert_eq!(pair.client.write_plaintext(&data[..1]), 0);
        }
        sent += more_sent;
        answered += more_answered;
        pair.run();
    }
    assert!(pair.server_received == data && pair.client_received == data);
}

#[test]
fn unread_data_stops_the_reading() {
    let mut pair = Pair::connected();
    let mut wire = Vec::new();
    while wire.len() < 200_000 {
        pair.write(b"", &pattern(16_000));
        wire.extend(pair.take_from_server());
    }
    let first = pair.client.read_ciphertext(&wire).unwrap();
    assert!(first < 64 * 1024, "{first} bytes were taken in");
    assert!(pair.client.has_plaintext());
    assert_eq!(pair.client.read_ciphertext(&wire[first..]).unwrap(), 0);

    let mut rest = &wire[first..];
    let mut buffer = [0; 10_000];
    let mut received = 0;
    loop {
        let read = pair.client.plaintext(&mut buffer);
        received += read;
        let taken = pair.client.read_ciphertext(rest).unwrap();
        rest = &rest[taken..];
        if read == 0 && taken == 0 {
            break;
        }
    }
    assert!(rest.is_empty());
    assert_eq!(received % 16_000, 0);
}

#[test]
fn nothing_is_written_before_the_handshake() {
    let context = context(&Tls::ca_pem(Authority::new("ca").pem()));
    let mut pipe = TlsPipe::new(&context, NAME).unwrap();
    assert!(pipe.is_handshaking() && pipe.wants_write());
    assert_eq!(pipe.write_plaintext(b"key"), 0);
    let mut hello = Vec::new();
    assert_eq!(pipe.take_ciphertext(&mut hello), hello.len());
    assert!(hello.starts_with(&[0x16, 3, 1]) && !pipe.wants_write());
    assert_eq!(pipe.take_ciphertext(&mut hello), 0);
    assert_eq!(pipe.alpn(), None);
}

#[test]
fn a_close_notify_is_told_from_a_cut() {
    let mut pair = Pair::connected();
    pair.write(b"", b"last words");
    pair.server.send_close_notify();
    pair.run();
    assert_eq!(pair.client_received, b"last words");
    // What follows is swallowed.
    assert_eq!(pair.client.read_ciphertext(b"junk").unwrap(), 4);
    assert_eq!(pair.client.handle_eof().unwrap(), TlsEnd::CloseNotify);

    let mut pair = Pair::connected();
    pair.write(b"", b"last words");
    pair.run();
    assert_eq!(pair.client.handle_eof().unwrap(), TlsEnd::Ragged);
    assert_eq!(pair.client_received, b"last words");
}

#[test]
fn closing_tells_the_server() {
    let mut pair = Pair::connected();
    assert_eq!(pair.client.write_plaintext(b"bye"), 3);
    pair.client.close_notify();
    pair.client.close_notify();
    assert_eq!(pair.client.write_plaintext(b"more"), 0);
    pair.run();
    assert_eq!(pair.server_received, b"bye");
    assert!(pair.server.process_new_packets().unwrap().peer_has_closed());
}

#[test]
fn a_cut_at_every_byte_of_the_handshake_is_an_error() {
    let authority = Authority::new("ca");
    let leaf = authority.sign(&[NAME]);
    let context = context(&Tls::ca_pem(authority.pem()));
    let server = ServerOptions::new(&leaf).build();
    let mut cut = 0;
    loop {
        let mut pair = Pair::new(&context, NAME, server.clone());
        let mut hello = Vec::new();
        pair.client.take_ciphertext(&mut hello);
        pair.feed_server(&hello);
        let flight = pair.take_from_server();
        pair.feed_client(&flight[..cut.min(flight.len())]);
        assert!(pair.client_error.is_none());
        match pair.client.handle_eof() {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Tls);
                let expected = if pair.client.wants_write() || cut > 200 {
                    "during"
                } else {
                    "closed"
                };
                assert!(error.to_string().contains(expected), "{error}");
            }
            Ok(end) => {
                assert!(!pair.client.is_handshaking());
                assert_eq!(end, TlsEnd::Ragged);
            }
        }
        if !pair.client.is_handshaking() {
            break;
        }
        assert!(cut < flight.len(), "the handshake did not end");
        cut += 1;
    }
}

#[test]
fn damage_is_an_error_after_what_came_before() {
    let mut pair = Pair::connected();
    pair.write(b"", b"good");
    let mut wire = pair.take_from_server();
    pair.write(b"", b"damaged");
    let mut second = pair.take_from_server();
    let last = second.len() - 1;
    second[last] ^= 1;
    wire.append(&mut second);
    let error = pair.client.read_ciphertext(&wire).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls);
    assert!(pair.client.has_plaintext());
    let mut buffer = [0; 10];
    assert_eq!(pair.client.plaintext(&mut buffer), 4);
    assert_eq!(&buffer[..4], b"good");
    assert!(!pair.client.has_plaintext());
    pair.run();
    assert_eq!(
        pair.server_error,
        Some(rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac))
    );
}

#[test]
fn an_endless_handshake_message_is_refused() {
    let context = context(&Tls::ca_pem(Authority::new("ca").pem()));
    let mut pipe = TlsPipe::new(&context, NAME).unwrap();
    // A certificate message that claims 16 MiB, in records of 16 KiB.
    let mut record = vec![0x16, 3, 3, 0x40, 0];
    record.extend([0x0b, 0xff, 0xff, 0xff]);
    record.resize(5 + 0x4000, 0);
    let error = (0..64)
        .find_map(|_| pipe.read_ciphertext(&record).err())
        .expect("it ended");
    assert_eq!(error.kind(), ErrorKind::Tls);
}

/// What arrives after our own close_notify may be anything: rustls must not be asked about it, as in debug builds it does
/// not expect to fail then.
#[test]
fn damage_after_our_close_notify_is_swallowed() {
    let mut pair = Pair::connected();
    pair.write(b"", b"damaged");
    let mut wire = pair.take_from_server();
    let last = wire.len() - 1;
    wire[last] ^= 1;
    pair.client.close_notify();
    assert_eq!(pair.client.read_ciphertext(&wire).unwrap(), wire.len());
    assert_eq!(pair.client.read_ciphertext(b"no record at all").unwrap(), 16);
    assert!(!pair.client.has_plaintext());
    assert!(pair.client.wants_write(), "the close_notify still goes out");
    assert_eq!(pair.client.handle_eof().unwrap(), TlsEnd::Ragged);
}
