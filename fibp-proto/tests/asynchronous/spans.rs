//! What calls record for `tracing`, and what they never do.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use fibp_proto::Message;
use fibp_proto::request::AckItem;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::by_hand::ByHand;

type Fields = BTreeMap<&'static str, String>;

/// Everything that was recorded.
#[derive(Debug, Default, Clone)]
struct Recorder(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    spans: Vec<Span>,
    /// Those entered and not left.
    entered: Vec<u64>,
    events: Vec<(Option<u64>, Fields)>,
}

#[derive(Debug)]
struct Span {
    name: &'static str,
    parent: Option<u64>,
    fields: Fields,
}

struct Reader<'a>(&'a mut Fields);

impl Visit for Reader<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        assert!(self.0.insert(field.name(), value.to_owned()).is_none(), "{field} twice");
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn check(metadata: &Metadata<'_>) {
    assert_eq!(metadata.target(), "fila");
}

impl Subscriber for Recorder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        check(span.metadata());
        assert_eq!(*span.metadata().level(), Level::DEBUG);
        let mut fields = Fields::new();
        span.record(&mut Reader(&mut fields));
        let mut recorded = self.0.lock().unwrap();
        let parent = recorded.entered.last().copied().filter(|_| span.is_contextual());
        recorded.spans.push(Span {
            name: span.metadata().name(),
            parent,
            fields,
        });
        Id::from_u64(recorded.spans.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let place = usize::try_from(span.into_u64()).unwrap() - 1;
        values.record(&mut Reader(&mut self.0.lock().unwrap().spans[place].fields));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        check(event.metadata());
        let mut fields = Fields::new();
        event.record(&mut Reader(&mut fields));
        let mut recorded = self.0.lock().unwrap();
        let parent = event
            .parent()
            .map(Id::into_u64)
            .or_else(|| recorded.entered.last().copied());
        recorded.events.push((parent, fields));
    }

    fn enter(&self, span: &Id) {
        self.0.lock().unwrap().entered.push(span.into_u64());
    }

    fn exit(&self, span: &Id) {
        assert_eq!(self.0.lock().unwrap().entered.pop(), Some(span.into_u64()));
    }
}

impl Recorder {
    /// The calls: their fields, and the texts of their events.
    fn calls(&self) -> Vec<(Fields, Vec<String>)> {
        let recorded = self.0.lock().unwrap();
        let spans = recorded.spans.iter().zip(1..);
        spans
            .filter(|(span, _)| span.name == "fila_call")
            .map(|(span, id)| {
                let of_this = recorded.events.iter().filter(|(parent, _)| *parent == Some(id));
                let texts = of_this.map(|(_, fields)| fields["message"].clone());
                (span.fields.clone(), texts.collect())
            })
            .collect()
    }
}

fn recorded(work: impl FnOnce()) -> Recorder {
    let recorder = Recorder::default();
    tracing::subscriber::with_default(recorder.clone(), work);
    assert!(recorder.0.lock().unwrap().entered.is_empty(), "what is entered is left");
    recorder
}

fn call(op: &str, queue: Option<&str>) -> Fields {
    let common = [("op", op), ("address", "server:1"), ("dialect", "preamble-protobuf")];
    let queue = queue.map(|queue| ("queue", queue));
    let fields = common.into_iter().chain(queue);
    fields.map(|(name, value)| (name, value.to_owned())).collect()
}

#[test]
fn each_call_has_a_span_that_says_what_it_does_and_where() {
    let recorder = recorded(|| {
        let runtime = ByHand::new();
        let client = runtime.client();
        let message = |queue: &str, payload: &'static str| Message::new(queue, payload);
        runtime.block_on(client.enqueue(message("orders", "one"))).unwrap();
        runtime.block_on(client.enqueue(message("orders", "bad"))).unwrap_err();
        runtime.block_on(client.enqueue_many(vec![message("orders", "one"), message("audit", "two")]));
        runtime.block_on(client.admin().set_config("key", "value")).unwrap();
        let producer = client.producer().build().unwrap();
        let receipt = producer.try_send(message("orders", "three")).unwrap();
        runtime.block_on(receipt).unwrap();
        runtime.block_on(client.consume("orders")).unwrap();

        // Given up before the answer.
        let item = AckItem {
            queue: "orders".into(),
            id: "id".into(),
        };
        let mut acks = Box::pin(client.ack_many([item]));
        assert!(acks.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(acks);
    });
    let answered = |fields| (fields, vec!["answered".to_owned()]);
    let expected = [
        answered(call("Enqueue", Some("orders"))),
        (call("Enqueue", Some("orders")), vec!["failed".to_owned()]),
        answered(call("Enqueue", None)),
        answered(call("SetConfig", None)),
        answered(call("Enqueue", Some("orders"))),
        answered(call("Consume", Some("orders"))),
        (
            call("Ack", Some("orders")),
            vec!["nobody waits for the answer".to_owned()],
        ),
    ];
    assert_eq!(recorder.calls(), expected);
    let recorded = recorder.0.lock().unwrap();
    let connections: Vec<_> = recorded
        .spans
        .iter()
        .filter(|span| span.name == "fila_connection")
        .collect();
    assert_eq!(connections.len(), 2, "the main one and the consumer's");
    assert!(
        connections.iter().all(|span| span.fields["address"] == "server:1"),
        "{connections:?}"
    );
}

#[test]
fn calls_belong_to_the_span_of_their_caller_and_connections_to_nobody() {
    let recorder = recorded(|| {
        let handler = tracing::debug_span!(target: "fila", "handler");
        let runtime = ByHand::new();
        let client = handler.in_scope(|| runtime.client());
        let enqueue = handler.in_scope(|| client.enqueue(Message::new("orders", "one")));
        // Submitted when it is polled first, as all futures.
        handler.in_scope(|| runtime.block_on(enqueue)).unwrap();
    });
    let recorded = recorder.0.lock().unwrap();
    let place = |name| recorded.spans.iter().position(|span| span.name == name).unwrap();
    let parent = recorded.spans[place("fila_call")].parent;
    assert_eq!(parent, Some(place("handler") as u64 + 1));
    let connection = &recorded.spans[place("fila_connection")];
    assert_eq!(connection.parent, None, "it outlives whoever made it");
}

#[test]
fn no_payload_header_configuration_value_or_key_is_recorded() {
    const SECRET: &str = "hunter2";
    let recorder = recorded(|| {
        let runtime = ByHand::new();
        let client = runtime.client_with(|config| config.api_key(SECRET));
        for payload in [format!("bad {SECRET}"), SECRET.to_owned()] {
            let message = Message::new("orders", payload).header("tenant", SECRET);
            let _ = runtime.block_on(client.enqueue(message));
        }
        runtime.block_on(client.admin().set_config("key", SECRET)).unwrap();
    });
    assert_eq!(recorder.calls().len(), 3);
    let recorded = format!("{recorder:?}");
    assert!(!recorded.contains(SECRET), "{recorded}");
    assert!(recorded.contains("no such queue"), "errors are recorded: {recorded}");
}
