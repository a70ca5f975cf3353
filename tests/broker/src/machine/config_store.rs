//! Configuration values: free text, throttles checked (docs/protocol/preamble.md 1.10).

use std::collections::BTreeMap;

use fibp_proto::admin::ThrottleStats;

use super::access::KeyRing;
use super::refusal::ThrottleFault;

/// Real servers list no more.
const MAX_LISTED: usize = 10_000;

const THROTTLE: &str = "throttle.";
const KEY_RECORD: &str = "auth:key:";

/// The store. API keys share it: they appear under `auth:key:<id>`.
#[derive(Debug, Clone, Default)]
pub(super) struct ConfigStore {
    values: BTreeMap<String, String>,
}

impl ConfigStore {
    /// Sets a value; an empty one deletes.
    pub(super) fn set(&mut self, keys: &mut KeyRing, key: String, value: String) -> Result<(), ThrottleFault> {
        if let Some(name) = key.strip_prefix(THROTTLE) {
            if name.is_empty() {
                return Err(ThrottleFault::NoName);
            }
            if !value.is_empty() {
                parse_throttle(&value)?;
            }
        }
        if let Some(key_id) = key.strip_prefix(KEY_RECORD) {
            // One store: whatever is written over a key's record is no key any more.
            keys.revoke(key_id);
        }
        if value.is_empty() {
            self.values.remove(&key);
        } else {
            self.values.insert(key, value);
        }
        Ok(())
    }

    /// The value, empty if unset.
    pub(super) fn value(&self, keys: &KeyRing, key: &str) -> String {
        key.strip_prefix(KEY_RECORD)
            .and_then(|key_id| keys.record(key_id))
            .or_else(|| self.values.get(key).cloned())
            .unwrap_or_default()
    }

    /// What starts with `prefix`, in key order.
    pub(super) fn list(&self, keys: &KeyRing, prefix: &str) -> Vec<(String, String)> {
        let mut entries: Vec<(String, String)> = self
            .values
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for key_id in keys.ids() {
            let key = format!("{KEY_RECORD}{key_id}");
            if key.starts_with(prefix) {
                entries.extend(keys.record(key_id).map(|record| (key, record)));
            }
        }
        entries.sort();
        entries.truncate(MAX_LISTED);
        entries
    }

    /// The throttles. Nothing draws on them here, so they are always full.
    pub(super) fn throttles(&self) -> Vec<ThrottleStats> {
        self.values
            .range(THROTTLE.to_owned()..)
            .map_while(|(key, value)| key.strip_prefix(THROTTLE).zip(parse_throttle(value).ok()))
            .map(|(name, (rate, burst))| {
                ThrottleStats::default()
                    .key(name.to_owned())
                    .tokens(burst)
                    .rate_per_second(rate)
                    .burst(burst)
            })
            .collect()
    }
}

fn parse_throttle(value: &str) -> Result<(f64, f64), ThrottleFault> {
    let (rate, burst) = value
        .split_once(',')
        .ok_or_else(|| ThrottleFault::NoPair(value.to_owned()))?;
    let (rate, burst) = (rate.trim(), burst.trim());
    let rate = parse_number(rate, ThrottleFault::RateUnparsable, ThrottleFault::RateOutOfRange)?;
    let burst = parse_number(burst, ThrottleFault::BurstUnparsable, ThrottleFault::BurstOutOfRange)?;
    Ok((rate, burst))
}

fn parse_number(
    text: &str,
    unparsable: fn(String) -> ThrottleFault,
    out_of_range: fn(String) -> ThrottleFault,
) -> Result<f64, ThrottleFault> {
    let number: f64 = text.parse().map_err(|_| unparsable(text.to_owned()))?;
    if number.is_finite() && number >= 0.0 {
        Ok(number)
    } else {
        Err(out_of_range(text.to_owned()))
    }
}
