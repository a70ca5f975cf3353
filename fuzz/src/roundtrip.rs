//! Values of every kind: what is written is read back as it was.

use fibp_proto::frame::Limits;
use fibp_proto::{Push, QueueName, Request, Response};

use crate::frame_decode::{ANSWERED, only_frame};
use crate::input::Input;
use crate::values;

/// Writes and reads values drawn from the input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    while !input.is_empty() {
        let dialect = input.dialect();
        let id = input.word();
        let limits = Limits::default();
        match input.below(3) {
            0 => {
                let request = values::request(&mut input);
                // What the dialect cannot carry is refused, not mangled.
                let Ok(bytes) = request.encode(dialect, id, limits) else {
                    continue;
                };
                let frame = only_frame(dialect, &bytes);
                assert_eq!(frame.header.id, id);
                match Request::decode(dialect, &frame) {
                    Ok(read) => assert_eq!(read.encode(dialect, id, limits), Ok(bytes), "{request:?}"),
                    // It is refused by every server, on purpose.
                    Err(_) => assert!(matches!(request, Request::ProbeAdmin), "{request:?} in {dialect}"),
                }
            }
            1 => {
                let op = ANSWERED[input.below(ANSWERED.len())];
                let response = values::response(&mut input, op);
                let Ok(bytes) = response.encode(dialect, id, op) else {
                    continue;
                };
                let frame = only_frame(dialect, &bytes);
                assert_eq!(frame.header.id, id);
                let read = Response::decode(dialect, op, &frame)
                    .unwrap_or_else(|error| panic!("{response:?} in {dialect}: {error}"));
                assert_eq!(read.encode(dialect, id, op), Ok(bytes), "{response:?}");
            }
            _ => {
                let queue: QueueName = "queue".into();
                let push = values::push(&mut input, &queue);
                let Ok(bytes) = push.encode(dialect, id, limits) else {
                    continue;
                };
                let frame = only_frame(dialect, &bytes);
                assert!(Push::is_push(dialect, &frame));
                let read = Push::decode(dialect, &queue, &frame)
                    .unwrap_or_else(|error| panic!("{push:?} in {dialect}: {error}"));
                assert_eq!(read.encode(dialect, id, limits), Ok(bytes), "{push:?}");
            }
        }
    }
}
