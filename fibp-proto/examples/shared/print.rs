//! Events of an observed conversation as lines of text or of JSON, and a summary of what was asked. Payloads, header values
//! and keys are not printed.

use std::collections::BTreeMap;
use std::time::Duration;

use fibp_proto::observe::{Event, Observed, Opening, Side};
use fibp_proto::{Op, Request, Response};
use serde_json::json;

/// Prints events, and counts what the summary tells.
#[derive(Default)]
pub(crate) struct Printer {
    json: bool,
    ops: BTreeMap<String, Tally>,
    deliveries: u64,
    pushes: u64,
}

#[derive(Default)]
struct Tally {
    asked: u64,
    refused: u64,
    latencies: Vec<Duration>,
}

impl Printer {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            ..Self::default()
        }
    }

    /// The line of one event.
    pub(crate) fn line(&mut self, connection: &str, seen: &Observed) -> String {
        self.count(&seen.event);
        let (name, id, text) = describe(&seen.event);
        let latency = match &seen.event {
            Event::Answer { latency, .. } | Event::Accepted { latency, .. } => *latency,
            _ => None,
        };
        if self.json {
            let line = json!({
                "time": seen.at.as_secs_f64(),
                "connection": connection,
                "from": seen.from.to_string(),
                "offset": seen.offset,
                "event": name,
                "id": id,
                "text": text,
                "latency_us": latency.map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
            });
            return line.to_string();
        }
        let arrow = match seen.from {
            Side::Client => '>',
            Side::Server => '<',
        };
        let id = id.map_or(String::new(), |id| format!(" #{id}"));
        let latency = latency.map_or(String::new(), |latency| {
            format!(" ({:.3} ms)", latency.as_secs_f64() * 1e3)
        });
        let at = seen.at.as_secs_f64();
        format!("{at:11.6} {connection} {arrow} {name}{id} {text}{latency}")
            .trim_end()
            .to_owned()
    }

    fn count(&mut self, event: &Event) {
        match event {
            Event::Request { request, .. } => self.tally(request.op()).asked += 1,
            Event::Answer {
                op: Some(op),
                response,
                latency,
                ..
            } => {
                let tally = self.tally(*op);
                tally.refused += u64::from(matches!(response, Response::Error(_)));
                tally.latencies.extend(latency);
            }
            Event::Push { push, .. } => {
                self.pushes += 1;
                self.deliveries += push.deliveries.len() as u64;
            }
            _ => {}
        }
    }

    fn tally(&mut self, op: Op) -> &mut Tally {
        self.ops.entry(format!("{op:?}")).or_default()
    }

    /// One line for each operation so far: how often, how many refused, and how long answers took. Not among JSON.
    pub(crate) fn summary(&mut self) -> Option<String> {
        if self.json {
            return None;
        }
        let mut text = format!(
            "{:<14} {:>8} {:>8} {:>10} {:>10} {:>10}\n",
            "operation", "requests", "refused", "median ms", "p99 ms", "max ms"
        );
        for (op, tally) in &mut self.ops {
            tally.latencies.sort_unstable();
            // The least latency that this part of all do not exceed.
            let at = |percent: usize| match (tally.latencies.len() * percent).div_ceil(100) {
                0 => "-".to_owned(),
                rank => format!("{:.3}", tally.latencies[rank - 1].as_secs_f64() * 1e3),
            };
            text += &format!(
                "{op:<14} {:>8} {:>8} {:>10} {:>10} {:>10}\n",
                tally.asked,
                tally.refused,
                at(50),
                at(99),
                at(100)
            );
        }
        Some(text + &format!("{} deliveries in {} pushes", self.deliveries, self.pushes))
    }
}

/// What an event is called, its id, and what there is to say of it.
fn describe(event: &Event) -> (&'static str, Option<u32>, String) {
    match event {
        Event::Opening(Opening::Preamble { major, minor }) => {
            ("opening", None, format!("preamble FIBP {major}.{minor}"))
        }
        Event::Opening(Opening::Handshake { version, key }) => {
            let key = if key.is_some() {
                "with an API key (redacted)"
            } else {
                "without a key"
            };
            ("opening", None, format!("handshake version {version} {key}"))
        }
        Event::Accepted { greeting, .. } => ("accepted", None, format!("{greeting:?}")),
        Event::Refused(error) => ("refused", None, error.to_string()),
        Event::NotFibp(what) => ("not-fibp", None, what.clone()),
        Event::Dialect { dialect, certain } => (
            "dialect",
            None,
            format!("{dialect}{}", if *certain { "" } else { " (a guess)" }),
        ),
        Event::Request { id, request } => ("request", Some(*id), of_request(request)),
        Event::Answer { id, op, response, .. } => {
            let op = op.map_or("?".to_owned(), |op| format!("{op:?}"));
            ("answer", Some(*id), format!("{op}: {}", of_response(response)))
        }
        Event::Credit { credit } => ("credit", None, format!("{credit} more")),
        Event::Push { id, push } => {
            let bytes: usize = push.deliveries.iter().map(|delivery| delivery.payload.len()).sum();
            let first = push
                .deliveries
                .first()
                .map_or(String::new(), |delivery| format!(", first {}", delivery.id));
            let queue = push.deliveries.first().map_or("", |delivery| &delivery.queue);
            (
                "push",
                Some(*id),
                format!(
                    "{} of \"{queue}\", {bytes} bytes{first}",
                    count(push.deliveries.len(), "message")
                ),
            )
        }
        Event::ServerHeartbeat { id } => ("server-heartbeat", Some(*id), String::new()),
        Event::HeartbeatAnswer { id } => ("heartbeat-answer", Some(*id), String::new()),
        Event::Continuation { header, len } => (
            "continuation",
            Some(header.id),
            format!("opcode 0x{:02x}, {len} bytes", header.opcode),
        ),
        Event::Goodbye { text } => ("goodbye", None, text.clone()),
        Event::Malformed { header, op, reason } => {
            let op = op.map_or(format!("opcode 0x{:02x}", header.opcode), |op| format!("{op:?}"));
            ("malformed", Some(header.id), format!("{op}: {reason}"))
        }
        Event::Oversized { header, length } => (
            "oversized",
            Some(header.id),
            format!("opcode 0x{:02x}, length {length}", header.opcode),
        ),
        Event::Hole { len, in_step, .. } => {
            let len = len.map_or("some bytes".to_owned(), |len| format!("{len} bytes"));
            let then = if *in_step {
                "within one frame"
            } else {
                "frames are searched for"
            };
            ("hole", None, format!("{len} missing, {then}"))
        }
        Event::BadFrame(error) => ("bad-frame", None, error.to_string()),
        Event::Found { skipped } => ("found", None, format!("a frame again after {skipped} bytes (a guess)")),
        Event::End { unfinished, unanswered } => (
            "end",
            None,
            format!(
                "{unfinished} bytes of a frame left, {} unanswered",
                count(*unanswered, "request")
            ),
        ),
        other => ("other", None, format!("{other:?}")),
    }
}

fn of_request(request: &Request) -> String {
    let op = request.op();
    match request {
        Request::Enqueue(messages) => {
            let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
            let mut queues: Vec<_> = messages.iter().map(|message| &*message.queue).collect();
            queues.dedup();
            format!(
                "{op:?} {} to {queues:?}, {bytes} bytes",
                count(messages.len(), "message")
            )
        }
        Request::Consume { queue, credit } => format!("{op:?} \"{queue}\", credit {credit}"),
        Request::Ack(items) => format!("{op:?} {}", count(items.len(), "message")),
        Request::Nack(items) => format!("{op:?} {}", count(items.len(), "message")),
        Request::CreateQueue(spec) => format!("{op:?} \"{}\"", spec.name),
        Request::DeleteQueue { queue } | Request::QueueStats { queue } => format!("{op:?} \"{queue}\""),
        Request::Redrive { dlq, count } => format!("{op:?} \"{dlq}\", {count}"),
        Request::SetConfig { key, value } => format!("{op:?} \"{key}\", {} bytes", value.len()),
        Request::GetConfig { key } => format!("{op:?} \"{key}\""),
        Request::Authenticate(_) => format!("{op:?} (redacted)"),
        _ => format!("{op:?}"),
    }
}

fn of_response(response: &Response) -> String {
    let results = |failed: Vec<String>, all: usize| match failed.first() {
        None => format!("{all} ok"),
        Some(first) => format!("{} ok, {} refused, first: {first}", all - failed.len(), failed.len()),
    };
    match response {
        Response::Enqueue(items) => results(
            items
                .iter()
                .filter_map(|item| item.as_ref().err())
                .map(ToString::to_string)
                .collect(),
            items.len(),
        ),
        Response::Ack(items) | Response::Nack(items) => results(
            items
                .iter()
                .filter_map(|item| item.as_ref().err())
                .map(ToString::to_string)
                .collect(),
            items.len(),
        ),
        Response::Error(error) => format!("refused ({}): {error}", error.kind()),
        Response::ListQueues(list) => count(list.queues.len(), "queue"),
        Response::ListConfig { entries } => count(entries.len(), "entry"),
        Response::ListApiKeys(keys) => count(keys.len(), "key"),
        Response::QueueStats(stats) => format!("depth {}, in flight {}", stats.depth, stats.in_flight),
        Response::Redrive { redriven } => count(usize::try_from(*redriven).unwrap_or(usize::MAX), "message"),
        _ => "ok".to_owned(),
    }
}

fn count(n: usize, what: &str) -> String {
    match (n, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) if stem.ends_with(|last| !"aeiou".contains(last)) => format!("{n} {stem}ies"),
        _ => format!("{n} {what}s"),
    }
}
