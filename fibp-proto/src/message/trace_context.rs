//! W3C Trace Context in headers.

use super::{Message, Received};
use crate::prelude::*;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";
/// Propagators need not pass on more (W3C Trace Context 3.3.1.5).
const MAX_TRACESTATE: usize = 512;

/// The place of a message in a trace, as [W3C Trace Context](https://www.w3.org/TR/trace-context/) writes it: the headers
/// `traceparent` and `tracestate`.
///
/// ```
/// use fibp_proto::{Message, TraceContext};
///
/// // What the propagator of a tracing SDK gives:
/// let context = TraceContext::new("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None).unwrap();
/// let message = Message::new("orders", "two apples").inject(&context);
/// assert_eq!(message.headers.get("traceparent"), Some(context.traceparent()));
/// ```
///
/// With OpenTelemetry, let its propagator write into a map and hand that over: `inject_context(&cx, &mut map)` of
/// `opentelemetry::propagation::TextMapPropagator`, then `message.headers(map)`; on the way back let it read from
/// `received.headers`, whose `get` and `iter` are what an `Extractor` asks for. No SDK is needed for either side to be here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    traceparent: String,
    tracestate: Option<String>,
}

impl TraceContext {
    /// A context; `None` unless `traceparent` is well formed. A `tracestate` of more than 512 bytes, or with characters
    /// other than printable ASCII, is left out, as the standard allows.
    #[must_use]
    pub fn new(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        is_traceparent(traceparent).then(|| Self {
            traceparent: traceparent.to_owned(),
            tracestate: tracestate.filter(|state| is_tracestate(state)).map(str::to_owned),
        })
    }

    /// `version-trace id-parent id-flags`, in lower-case hexadecimal digits.
    #[must_use]
    pub fn traceparent(&self) -> &str {
        &self.traceparent
    }

    /// What vendors added, if anything.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.tracestate.as_deref()
    }
}

impl Message {
    /// Sets the headers `traceparent` and `tracestate` to this context, replacing another one.
    #[must_use]
    pub fn inject(mut self, context: &TraceContext) -> Self {
        self.headers.insert(TRACEPARENT, context.traceparent());
        // The state of another trace must not stay.
        self.headers.remove(TRACESTATE);
        if let Some(state) = context.tracestate() {
            self.headers.insert(TRACESTATE, state);
        }
        self
    }
}

impl Received {
    /// The context that the message was sent with; `None` without a well-formed `traceparent`.
    #[must_use]
    pub fn extract(&self) -> Option<TraceContext> {
        TraceContext::new(self.headers.get(TRACEPARENT)?, self.headers.get(TRACESTATE))
    }
}

/// `00-<32>-<16>-<2>`, lower-case hexadecimal; later versions may go on after another hyphen. Ids of zeros and version
/// `ff` are invalid.
fn is_traceparent(text: &str) -> bool {
    let mut fields = text.splitn(5, '-');
    let mut field = |len: usize| {
        fields
            .next()
            .filter(|field| field.len() == len && field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
    };
    let (version, trace, parent, flags) = (field(2), field(32), field(16), field(2));
    let is_id = |id: Option<&str>| id.is_some_and(|id| id.bytes().any(|byte| byte != b'0'));
    let is_over = fields.next().is_none();
    version.is_some_and(|version| version != "ff" && (version != "00" || is_over))
        && is_id(trace)
        && is_id(parent)
        && flags.is_some()
}

fn is_tracestate(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_TRACESTATE && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Headers, MessageId};

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn received(headers: Headers) -> Received {
        Received::new(MessageId::from("id"), "q", headers, "", "", 0)
    }

    #[test]
    fn a_context_travels_in_headers() {
        let context = TraceContext::new(PARENT, Some("vendor=1,other=2")).unwrap();
        let message = Message::new("q", "").header("tenant", "acme").inject(&context);
        assert_eq!(message.headers.get("tenant"), Some("acme"));
        assert_eq!(received(message.headers.clone()).extract(), Some(context));

        let next = TraceContext::new(PARENT, None).unwrap();
        let message = message.inject(&next);
        assert_eq!(
            received(message.headers).extract(),
            Some(next),
            "no state of another trace"
        );
    }

    #[test]
    fn what_is_malformed_is_no_context() {
        assert_eq!(received(Headers::new()).extract(), None);
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-\n1",
        ] {
            assert_eq!(TraceContext::new(bad, None), None, "{bad:?}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(TraceContext::new(later, None).is_some(), "a later version");
        for state in ["", "a=b\n", &"x".repeat(513)] {
            assert_eq!(
                TraceContext::new(PARENT, Some(state)).unwrap().tracestate(),
                None,
                "{state:?}"
            );
        }
    }
}
