//! Which settings contradict each other or themselves.

use std::time::Duration;

use super::settings::{Backoff, Batching, ConsumerSettings, Heartbeat, ProducerSettings, Reconnect, Settings};
use crate::error::{Error, ErrorKind};
use crate::frame::HEADER_LEN;

/// A frame without room for a short request is of no use.
const MIN_FRAME: u32 = HEADER_LEN as u32 + 26;

/// RFC 8305, section 8: the connection attempt delay must not be shorter.
const MIN_HAPPY_EYEBALLS_DELAY: Duration = Duration::from_millis(10);

fn refuse(message: impl Into<String>) -> Result<(), Error> {
    Err(Error::new(ErrorKind::Config, message))
}

fn positive(name: &str, value: usize) -> Result<(), Error> {
    if value == 0 {
        return refuse(format!("{name} must not be zero"));
    }
    Ok(())
}

fn lasting(name: &str, value: Option<Duration>, instead: &str) -> Result<(), Error> {
    if value == Some(Duration::ZERO) {
        return refuse(format!("{name} must not be zero{instead}"));
    }
    Ok(())
}

impl Settings {
    pub(super) fn validate(&self) -> Result<(), Error> {
        if self.endpoints.is_empty() {
            return refuse("no server address is given");
        }
        self.credentials.validate()?;
        if let Some(tls) = &self.tls {
            tls.validate()?;
        }
        lasting("connect_timeout", Some(self.connect_timeout), "")?;
        lasting("request_timeout", self.request_timeout, "; use None for no limit")?;
        if let Some(Heartbeat { every, missed }) = self.heartbeat {
            lasting("heartbeat interval", Some(every), "; use no_heartbeat() for none")?;
            positive("heartbeat missed", missed as usize)?;
        }
        if let Reconnect::Backoff(backoff) = self.reconnect {
            backoff.validate()?;
        }
        positive("max_in_flight requests", self.in_flight.requests)?;
        positive("max_in_flight bytes", self.in_flight.bytes)?;
        let limits = self.frame_limits;
        if limits.send < MIN_FRAME {
            return refuse(format!(
                "max_frame_size send is {} bytes, at least {MIN_FRAME} are needed",
                limits.send
            ));
        }
        if limits.receive < limits.send {
            return refuse(format!(
                "max_frame_size receive ({}) is smaller than send ({}): servers answer with frames larger than they accept",
                limits.receive, limits.send
            ));
        }
        self.producer.validate()?;
        lasting("keepalive", self.keepalive, "; use None for none")?;
        if self.happy_eyeballs_delay < MIN_HAPPY_EYEBALLS_DELAY {
            return refuse("happy_eyeballs_delay is shorter than 10 ms");
        }
        Ok(())
    }
}

impl Backoff {
    fn validate(&self) -> Result<(), Error> {
        lasting("reconnect initial pause", Some(self.initial), "")?;
        if self.max < self.initial {
            return refuse("reconnect max pause is shorter than the initial one");
        }
        if self.max_attempts == Some(0) {
            return refuse("reconnect max_attempts must not be zero; use Reconnect::Never");
        }
        Ok(())
    }
}

impl ProducerSettings {
    /// Checks the options for contradictions.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`], naming the option.
    pub fn validate(&self) -> Result<(), Error> {
        if let Batching::Linger { delay, max_messages } = self.batching {
            lasting("batching linger delay", Some(delay), "; use Batching::Auto")?;
            positive("batching linger max_messages", max_messages)?;
        }
        positive("batch max_messages", self.max_messages)?;
        positive("batch max_bytes", self.max_bytes)?;
        positive("producer buffer", self.buffer)?;
        if self.buffer < self.max_bytes {
            return refuse(format!(
                "producer buffer ({} bytes) is smaller than batch max_bytes ({})",
                self.buffer, self.max_bytes
            ));
        }
        Ok(())
    }
}

impl ConsumerSettings {
    /// Checks the options for contradictions.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`], naming the option.
    pub fn validate(&self) -> Result<(), Error> {
        positive("prefetch", self.prefetch)?;
        if self.receive_buffer == Some(0) {
            return refuse("receive_buffer must not be zero; use None for the operating system's choice");
        }
        lasting("visibility_timeout", self.visibility_timeout, "")?;
        lasting("idle_resubscribe", self.idle_resubscribe, "; use None for never")
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, OnFull};
    use super::*;

    fn refused(config: &Config) -> String {
        let error = config.validate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        error.to_string()
    }

    #[test]
    fn each_bad_setting_is_named() {
        let backoff = |initial, max, max_attempts| {
            Reconnect::Backoff(Backoff {
                initial: Duration::from_millis(initial),
                max: Duration::from_millis(max),
                max_attempts,
            })
        };
        let linger = |delay, max_messages| Batching::Linger {
            delay: Duration::from_millis(delay),
            max_messages,
        };
        let good = || Config::new("broker:5555");
        assert!(good().validate().is_ok());
        for (config, name) in [
            (Config::new(""), "host"),
            (Config::new(Vec::<String>::new()), "no server address"),
            (good().api_key(""), "API key is empty"),
            (good().api_key("key\n"), "white space"),
            (good().api_key("k\0y"), "control"),
            (good().api_key("k".repeat(65_536)), "65535"),
            (good().connect_timeout(Duration::ZERO), "connect_timeout"),
            (good().request_timeout(Some(Duration::ZERO)), "request_timeout"),
            (good().heartbeat(Duration::ZERO, 2), "heartbeat interval"),
            (good().heartbeat(Duration::from_secs(1), 0), "heartbeat missed"),
            (good().reconnect(backoff(0, 1, None)), "initial"),
            (good().reconnect(backoff(2, 1, None)), "max pause"),
            (good().reconnect(backoff(1, 1, Some(0))), "max_attempts"),
            (good().max_in_flight(0, 1), "requests"),
            (good().max_in_flight(1, 0), "bytes"),
            (good().max_frame_size(0, 0), "send"),
            (good().max_frame_size(100, 99), "receive"),
            (good().batching(linger(0, 1)), "delay"),
            (good().batching(linger(1, 0)), "max_messages"),
            (good().batch_max_messages(0), "max_messages"),
            (good().batch_max_bytes(0), "max_bytes"),
            (good().buffer(0), "buffer"),
            (good().buffer(10), "smaller than batch max_bytes"),
            (good().keepalive(Some(Duration::ZERO)), "keepalive"),
            (good().happy_eyeballs_delay(Duration::ZERO), "happy_eyeballs_delay"),
        ] {
            let text = refused(&config);
            assert!(text.contains(name), "{text:?} does not name {name:?}");
        }
    }

    #[test]
    fn the_extremes_are_good() {
        let config = Config::new("broker")
            .connect_timeout(Duration::MAX)
            .request_timeout(None)
            .no_heartbeat()
            .reconnect(Reconnect::Never)
            .max_in_flight(usize::MAX, usize::MAX)
            .on_full(OnFull::Fail)
            .max_frame_size(MIN_FRAME, MIN_FRAME)
            .batch_max_messages(1)
            .batch_max_bytes(1)
            .buffer(1)
            .keepalive(None)
            .max_redirects(0);
        assert!(config.validate().is_ok());
    }

    #[test]
    fn a_closure_is_asked_at_dial_time_only() {
        let config = Config::new("broker").credentials(|| "".into());
        assert!(config.validate().is_ok());
        let error = config.settings().credentials.key().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }

    #[test]
    fn consumer_options_are_checked_too() {
        let good = ConsumerSettings::default();
        assert!(good.validate().is_ok());
        assert!(good.idle_resubscribe(None).validate().is_ok());
        for (bad, name) in [
            (good.prefetch(0), "prefetch"),
            (good.visibility_timeout(Duration::ZERO), "visibility_timeout"),
            (good.idle_resubscribe(Duration::ZERO), "idle_resubscribe"),
        ] {
            assert!(bad.validate().unwrap_err().to_string().contains(name));
        }
    }
}
