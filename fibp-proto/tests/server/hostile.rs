//! Bytes that no client sends, and calls that no broker makes.

use proptest::prelude::*;

use super::*;

/// Frames of any content, with known opcodes more often than chance has it.
fn hostile_frame() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![any::<u8>(), 0_u8..0x36, 0xE0_u8..];
    let body = proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xFF), any::<u8>()], 0..80);
    (opcode, any::<bool>(), 0_u32..4, body, any::<bool>()).prop_map(|(opcode, continued, id, body, framed)| {
        let dialect = if framed { Dialect::Handshake } else { P1 };
        raw(dialect, opcode, continued.into(), id, body).to_vec()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(
        start in 0..4_usize,
        dialect in 0..ALL.len(),
        frames in proptest::collection::vec(hostile_frame(), 0..20),
        noise in proptest::collection::vec(any::<u8>(), 0..300),
        step in 1..200_usize,
    ) {
        let dialect = ALL[dialect];
        let mut bytes = match start {
            0 => Vec::new(),
            _ => opening(dialect).to_vec(),
        };
        bytes.extend(frames.into_iter().flatten());
        bytes.extend(noise);
        let mut whole = Peer::new(config(&[dialect]));
        whole.receive(&bytes);
        whole.eof();
        let mut stepwise = Peer::new(config(&[dialect]));
        for piece in bytes.chunks(step) {
            stepwise.receive(piece);
        }
        stepwise.eof();
        prop_assert_eq!(&whole.events, &stepwise.events);
        prop_assert_eq!(&whole.written, &stepwise.written);
        prop_assert_eq!(whole.events.last(), Some(&ServerEvent::Closed));
        prop_assert!(whole.server.is_finished());
    }

    #[test]
    fn calls_in_any_order_are_safe(
        dialects in proptest::sample::subsequence(ALL.to_vec(), 0..=ALL.len()),
        calls in proptest::collection::vec((0..16_u8, any::<u32>()), 0..60),
    ) {
        let mut server = ServerConnection::new(config(&dialects));
        let mut buffers = Vec::new();
        let mut transmit = Transmit::new();
        let mut closed = 0;
        for (call, number) in calls {
            let error = ServerError::new(ErrorKind::Auth, "no");
            let id = RequestId { id: number, op: Op::ALL[number as usize % Op::ALL.len()] };
            match call {
                0 | 1 => buffers.extend(server.take_read_buffer()),
                2 | 3 => if let Some(mut buffer) = buffers.pop() {
                    let bytes = match number % 4 {
                        0 => PREAMBLE.to_vec(),
                        1 => HANDSHAKE.to_vec(),
                        2 => script(ALL[number as usize % ALL.len()]).1,
                        _ => number.to_be_bytes().to_vec(),
                    };
                    let n = bytes.len().min(buffer.unfilled().len());
                    buffer.unfilled()[..n].copy_from_slice(&bytes[..n]);
                    buffer.advance(n);
                    server.handle_input(buffer);
                },
                4 => server.handle_input(Default::default()),
                5 if number % 8 == 0 => server.handle_eof(),
                5..=7 => closed += usize::from(server.poll_event() == Some(ServerEvent::Closed)),
                8 => server.accept(),
                9 => server.refuse(error),
                10 => { let _ = server.respond(id, &Response::Heartbeat); }
                11 => server.respond_error(number, &error),
                12 => { let _ = server.push(&Push { deliveries: Vec::new() }); }
                13 if number % 8 == 0 => { server.heartbeat(number); server.goodbye("x"); server.close(); }
                14 => { let _ = server.take_transmit(&mut transmit); }
                _ => server.transmitted(&mut transmit, number as usize % 100),
            }
        }
        // Whatever happened, it can be brought to an end, and is inert then.
        server.close();
        while let Some(event) = server.poll_event() {
            closed += usize::from(event == ServerEvent::Closed);
        }
        prop_assert_eq!(closed, 1);
        for _ in 0..3 {
            let n = transmit.len();
            server.transmitted(&mut transmit, n);
            let _ = server.take_transmit(&mut transmit);
        }
        prop_assert!(server.is_finished());
        server.accept();
        server.heartbeat(1);
        let id = RequestId { id: 1, op: Op::Heartbeat };
        prop_assert_eq!(server.respond(id, &Response::Heartbeat), Ok(()));
        prop_assert!(server.take_read_buffer().is_none() && server.poll_event().is_none());
        prop_assert_eq!(server.buffered(), 0);
    }
}
