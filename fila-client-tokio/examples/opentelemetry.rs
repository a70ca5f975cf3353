//! A trace that goes through a queue: `cargo run -p fila-client-tokio --features tracing --example opentelemetry`.
//!
//! The client records spans for `tracing`, which `tracing-opentelemetry` hands to OpenTelemetry. In a message the trace travels
//! as W3C Trace Context, in the headers `traceparent` and `tracestate`. Here the exporter only prints: in a service it is
//! that of `opentelemetry-otlp`, and nothing else changes.
//!
//! Without `FILA_URL` it starts a broker of its own, in memory.

mod shared;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fila_client_tokio::{Client, Delivery, Message, TraceContext};
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanId, TracerProvider};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing::{Instrument, Level, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

#[tokio::main]
async fn main() -> shared::Result<()> {
    let exporter = Exporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let ours = Targets::new()
        .with_target("fila", Level::DEBUG)
        .with_target(env!("CARGO_CRATE_NAME"), Level::INFO);
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("shop"));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer.with_filter(ours)))?;

    let (_broker, config) = shared::server()?;
    let client = Client::connect(config).await?;
    let queue = format!("opentelemetry-{}", std::process::id());
    client.admin().create_queue(&queue).await?;

    // One service takes an order …
    let taking = info_span!("take order");
    let message = Message::new(&*queue, "two apples");
    async {
        client.enqueue(with_trace(message)).await?;
        shared::Result::Ok(())
    }
    .instrument(taking)
    .await?;

    // … and another one handles it, some time later.
    let mut consumer = client.consume(&queue).await?;
    let delivery = consumer.next().await.ok_or("the consumer has ended")??;
    let handling = info_span!("handle order");
    handling.set_parent(trace_of(&delivery))?;
    delivery.ack().instrument(handling).await?;

    drop(consumer);
    client.admin().delete_queue(&queue).await?;
    client.close(Duration::from_secs(5)).await;
    provider.shutdown()?;
    exporter.print();
    Ok(())
}

/// Sends the trace of the present span along.
fn with_trace(message: Message) -> Message {
    let mut fields = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut fields);
    let state = fields.get("tracestate").map(String::as_str);
    let context = fields
        .get("traceparent")
        .and_then(|parent| TraceContext::new(parent, state));
    match context {
        Some(context) => message.inject(&context),
        None => message,
    }
}

/// The trace that a message belongs to.
fn trace_of(delivery: &Delivery) -> Context {
    let mut fields = HashMap::new();
    if let Some(context) = delivery.received().extract() {
        fields.insert("traceparent".to_owned(), context.traceparent().to_owned());
        fields.extend(
            context
                .tracestate()
                .map(|state| ("tracestate".to_owned(), state.to_owned())),
        );
    }
    TraceContextPropagator::new().extract(&fields)
}

/// Keeps the spans that have ended.
#[derive(Debug, Clone, Default)]
struct Exporter(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().expect("no thread panics").extend(batch);
        Ok(())
    }
}

impl Exporter {
    /// Prints each trace as a tree.
    fn print(&self) {
        let mut spans = self.0.lock().expect("no thread panics").clone();
        spans.sort_by_key(|span| span.start_time);
        for root in spans.iter().filter(|span| span.parent_span_id == SpanId::INVALID) {
            println!("trace {}", root.span_context.trace_id());
            print_below(&spans, root, 1);
        }
    }
}

fn print_below(spans: &[SpanData], span: &SpanData, depth: usize) {
    const SHOWN: [&str; 5] = ["op", "queue", "address", "dialect", "kind"];
    let shown = span
        .attributes
        .iter()
        .filter(|field| SHOWN.contains(&field.key.as_str()));
    let fields: String = shown.map(|field| format!(" {}={}", field.key, field.value)).collect();
    println!("{:1$}{2}{fields}", "", 2 * depth, span.name);
    let id = span.span_context.span_id();
    for child in spans.iter().filter(|other| other.parent_span_id == id) {
        print_below(spans, child, depth + 1);
    }
}
