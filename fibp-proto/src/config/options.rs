//! The options of URLs: one row each, read and written by the same table.

use super::settings::{Backoff, Batching, Heartbeat, OnFull, Reconnect, Replay, Settings};
use super::units::{parse_duration, parse_size, show_duration, show_size};
use crate::tls::Tls;

/// Reads a named file, in whatever sense the caller gives to the name, or leaves that for later.
pub(super) type Load<'a> = &'a dyn Fn(&str) -> Result<Pem, String>;

/// A PEM text, or the file that has it.
pub(super) enum Pem {
    Text(Vec<u8>),
    File(String),
}

/// What a URL or the environment has said so far.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) settings: Settings,
    pub(super) tls: TlsDraft,
}

/// The parts of TLS, which arrive one by one.
#[derive(Default)]
pub(super) struct TlsDraft {
    pub(super) webpki: bool,
    pub(super) ca: Option<Pem>,
    pub(super) cert: Option<Pem>,
    pub(super) key: Option<Pem>,
    pub(super) server_name: Option<String>,
}

impl TlsDraft {
    /// The name of a part that is set, if any.
    pub(super) fn first_set(&self) -> Option<&'static str> {
        [
            (self.ca.is_some(), "a CA file"),
            (self.cert.is_some(), "a client certificate"),
            (self.key.is_some(), "a client key"),
            (self.server_name.is_some(), "server_name"),
            (self.webpki, "tls_roots"),
        ]
        .into_iter()
        .find_map(|(set, name)| set.then_some(name))
    }

    pub(super) fn build(self) -> Result<Tls, String> {
        let mut tls = match (self.ca, self.webpki) {
            (Some(_), true) => return Err("a CA file and tls_roots=webpki cannot be combined".to_owned()),
            (Some(Pem::Text(pem)), false) => Tls::ca_pem(pem),
            (Some(Pem::File(path)), false) => Tls::ca_file(path),
            (None, true) => Tls::webpki(),
            (None, false) => Tls::platform(),
        };
        tls = match (self.cert, self.key) {
            (Some(Pem::Text(cert)), Some(Pem::Text(key))) => tls.identity_pem(cert, key),
            (Some(Pem::File(cert)), Some(Pem::File(key))) => tls.identity_files(cert, key),
            (Some(_), Some(_)) => {
                return Err("a client certificate and its key are both texts or both files".to_owned());
            }
            (Some(_), None) => return Err("a client certificate is given without its key".to_owned()),
            (None, Some(_)) => return Err("a client key is given without its certificate".to_owned()),
            (None, None) => tls,
        };
        Ok(match self.server_name {
            Some(name) => tls.server_name(name),
            None => tls,
        })
    }
}

/// One option: its name, how it is read, and how it is shown (`None` if it cannot be).
pub(super) struct UrlOption {
    pub(super) name: &'static str,
    pub(super) set: fn(&mut Draft, &mut Arguments<'_>, Load<'_>) -> Result<(), String>,
    pub(super) show: fn(&Settings) -> Option<String>,
}

/// The values of an option, read one after the other.
pub(super) struct Arguments<'a>(Option<&'a str>);

impl<'a> Arguments<'a> {
    pub(super) fn new(value: &'a str) -> Self {
        Self(Some(value))
    }

    fn optional(&mut self) -> Option<&'a str> {
        let rest = self.0?;
        let (first, rest) = match rest.split_once(',') {
            Some((first, rest)) => (first, Some(rest)),
            None => (rest, None),
        };
        self.0 = rest;
        Some(first)
    }

    fn required(&mut self) -> Result<&'a str, String> {
        self.optional().ok_or_else(|| "a value is missing".to_owned())
    }

    /// All that is left, commas included.
    fn rest(&mut self) -> &'a str {
        self.0.take().unwrap_or_default()
    }

    pub(super) fn finish(self) -> Result<(), String> {
        match self.0 {
            Some(rest) => Err(format!("too many values: \"{rest}\" is left over")),
            None => Ok(()),
        }
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("invalid number \"{text}\": not a number, or out of range"))
}

fn unknown<T>(text: &str, expected: &str) -> Result<T, String> {
    Err(format!("invalid value \"{text}\": expected {expected}"))
}

/// A time, or `off` in one of its spellings.
fn optional_duration(text: &str) -> Result<Option<std::time::Duration>, String> {
    match text {
        "off" | "none" => Ok(None),
        _ => parse_duration(text).map(Some),
    }
}

fn show_optional_duration(time: Option<std::time::Duration>) -> String {
    time.map_or_else(|| "none".to_owned(), show_duration)
}

pub(super) const OPTIONS: &[UrlOption] = &[
    UrlOption {
        name: "dialect",
        set: |draft, values, _| {
            let name = values.required()?;
            draft.settings.dialect = name.parse().map_err(|error: crate::Error| error.to_string())?;
            Ok(())
        },
        show: |settings| Some(settings.dialect.to_string()),
    },
    UrlOption {
        name: "connect_timeout",
        set: |draft, values, _| {
            draft.settings.connect_timeout = parse_duration(values.required()?)?;
            Ok(())
        },
        show: |settings| Some(show_duration(settings.connect_timeout)),
    },
    UrlOption {
        name: "request_timeout",
        set: |draft, values, _| {
            draft.settings.request_timeout = optional_duration(values.required()?)?;
            Ok(())
        },
        show: |settings| Some(show_optional_duration(settings.request_timeout)),
    },
    UrlOption {
        name: "heartbeat",
        set: |draft, values, _| {
            let every = optional_duration(values.required()?)?;
            draft.settings.heartbeat = match every {
                None => None,
                Some(every) => Some(Heartbeat {
                    every,
                    missed: match values.optional() {
                        Some(text) => number(text)?,
                        None => Heartbeat::default().missed,
                    },
                }),
            };
            Ok(())
        },
        show: |settings| {
            Some(settings.heartbeat.map_or_else(
                || "off".to_owned(),
                |Heartbeat { every, missed }| format!("{},{missed}", show_duration(every)),
            ))
        },
    },
    UrlOption {
        name: "reconnect",
        set: |draft, values, _| {
            draft.settings.reconnect = match values.required()? {
                "never" => Reconnect::Never,
                "backoff" => {
                    let mut backoff = Backoff::default();
                    if let Some(text) = values.optional() {
                        backoff.initial = parse_duration(text)?;
                    }
                    if let Some(text) = values.optional() {
                        backoff.max = parse_duration(text)?;
                    }
                    if let Some(text) = values.optional() {
                        backoff.max_attempts = Some(number(text)?);
                    }
                    Reconnect::Backoff(backoff)
                }
                other => return unknown(other, "never, backoff"),
            };
            Ok(())
        },
        show: |settings| {
            Some(match settings.reconnect {
                Reconnect::Never => "never".to_owned(),
                Reconnect::Backoff(Backoff {
                    initial,
                    max,
                    max_attempts,
                }) => {
                    let attempts = max_attempts.map_or_else(String::new, |attempts| format!(",{attempts}"));
                    format!("backoff,{},{}{attempts}", show_duration(initial), show_duration(max))
                }
            })
        },
    },
    UrlOption {
        name: "max_in_flight",
        set: |draft, values, _| {
            draft.settings.in_flight.requests = number(values.required()?)?;
            if let Some(text) = values.optional() {
                draft.settings.in_flight.bytes = parse_size(text)?;
            }
            Ok(())
        },
        show: |settings| {
            let in_flight = settings.in_flight;
            Some(format!("{},{}", in_flight.requests, show_size(in_flight.bytes)))
        },
    },
    UrlOption {
        name: "on_full",
        set: |draft, values, _| {
            let on_full = match values.required()? {
                "wait" => OnFull::Wait,
                "fail" => OnFull::Fail,
                other => return unknown(other, "wait, fail"),
            };
            draft.settings.in_flight.on_full = on_full;
            draft.settings.producer.on_full = on_full;
            Ok(())
        },
        show: |settings| {
            Some(match settings.in_flight.on_full {
                OnFull::Wait => "wait".to_owned(),
                OnFull::Fail => "fail".to_owned(),
            })
        },
    },
    UrlOption {
        name: "replay",
        set: |draft, values, _| {
            draft.settings.replay = match values.required()? {
                "never" => Replay::Never,
                "safe_ops" => Replay::SafeOps,
                "including_enqueue" => Replay::IncludingEnqueue,
                other => return unknown(other, "never, safe_ops, including_enqueue"),
            };
            Ok(())
        },
        show: |settings| {
            Some(match settings.replay {
                Replay::Never => "never".to_owned(),
                Replay::SafeOps => "safe_ops".to_owned(),
                Replay::IncludingEnqueue => "including_enqueue".to_owned(),
            })
        },
    },
    UrlOption {
        name: "max_frame_size",
        set: |draft, values, _| {
            let limits = &mut draft.settings.frame_limits;
            limits.send = parse_size(values.required()?)?;
            if let Some(text) = values.optional() {
                limits.receive = parse_size(text)?;
            }
            Ok(())
        },
        show: |settings| {
            let limits = settings.frame_limits;
            Some(format!(
                "{},{}",
                show_size(limits.send as usize),
                show_size(limits.receive as usize)
            ))
        },
    },
    UrlOption {
        name: "batching",
        set: |draft, values, _| {
            draft.settings.producer.batching = match values.required()? {
                "auto" => Batching::Auto,
                "disabled" => Batching::Disabled,
                "linger" => Batching::Linger {
                    delay: parse_duration(values.required()?)?,
                    max_messages: number(values.required()?)?,
                },
                other => return unknown(other, "auto, linger, disabled"),
            };
            Ok(())
        },
        show: |settings| {
            Some(match settings.producer.batching {
                Batching::Auto => "auto".to_owned(),
                Batching::Disabled => "disabled".to_owned(),
                Batching::Linger { delay, max_messages } => format!("linger,{},{max_messages}", show_duration(delay)),
            })
        },
    },
    UrlOption {
        name: "batch_max_messages",
        set: |draft, values, _| {
            draft.settings.producer.max_messages = number(values.required()?)?;
            Ok(())
        },
        show: |settings| Some(settings.producer.max_messages.to_string()),
    },
    UrlOption {
        name: "batch_max_bytes",
        set: |draft, values, _| {
            draft.settings.producer.max_bytes = parse_size(values.required()?)?;
            Ok(())
        },
        show: |settings| Some(show_size(settings.producer.max_bytes)),
    },
    UrlOption {
        name: "buffer",
        set: |draft, values, _| {
            draft.settings.producer.buffer = parse_size(values.required()?)?;
            Ok(())
        },
        show: |settings| Some(show_size(settings.producer.buffer)),
    },
    UrlOption {
        name: "keepalive",
        set: |draft, values, _| {
            draft.settings.keepalive = optional_duration(values.required()?)?;
            Ok(())
        },
        show: |settings| Some(show_optional_duration(settings.keepalive)),
    },
    UrlOption {
        name: "happy_eyeballs_delay",
        set: |draft, values, _| {
            draft.settings.happy_eyeballs_delay = parse_duration(values.required()?)?;
            Ok(())
        },
        show: |settings| Some(show_duration(settings.happy_eyeballs_delay)),
    },
    UrlOption {
        name: "max_redirects",
        set: |draft, values, _| {
            draft.settings.max_redirects = number(values.required()?)?;
            Ok(())
        },
        show: |settings| Some(settings.max_redirects.to_string()),
    },
    UrlOption {
        name: "queue_ready_timeout",
        set: |draft, values, _| {
            draft.settings.queue_ready_timeout = parse_duration(values.required()?)?;
            Ok(())
        },
        show: |settings| Some(show_duration(settings.queue_ready_timeout)),
    },
    UrlOption {
        name: "tls_roots",
        set: |draft, values, _| {
            draft.tls.webpki = match values.required()? {
                "platform" => false,
                "webpki" => true,
                other => return unknown(other, "platform, webpki"),
            };
            Ok(())
        },
        show: |settings| {
            let webpki = settings.tls.as_ref().is_some_and(Tls::is_webpki);
            webpki.then(|| "webpki".to_owned())
        },
    },
    UrlOption {
        name: "server_name",
        set: |draft, values, _| {
            draft.tls.server_name = Some(values.required()?.to_owned());
            Ok(())
        },
        show: |settings| settings.tls.as_ref()?.server_name_override().map(str::to_owned),
    },
    UrlOption {
        name: "ca_file",
        set: |draft, values, load| {
            draft.tls.ca = Some(load(values.rest())?);
            Ok(())
        },
        show: |settings| settings.tls.as_ref()?.ca_path().map(str::to_owned),
    },
    UrlOption {
        name: "client_cert_file",
        set: |draft, values, load| {
            draft.tls.cert = Some(load(values.rest())?);
            Ok(())
        },
        show: |settings| settings.tls.as_ref()?.cert_path().map(str::to_owned),
    },
    UrlOption {
        name: "client_key_file",
        set: |draft, values, load| {
            draft.tls.key = Some(load(values.rest())?);
            Ok(())
        },
        show: |settings| settings.tls.as_ref()?.key_path().map(str::to_owned),
    },
];

/// The names of all options, for errors.
pub(super) fn known() -> String {
    let names: Vec<_> = OPTIONS.iter().map(|option| option.name).collect();
    names.join(", ")
}
