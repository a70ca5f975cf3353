//! Addresses, URLs, settings and names of dialects, from people and from servers: what is accepted is shown as a text that
//! means the same, and no error repeats a key.

use std::ffi::OsString;

use fibp_proto::{Config, Dialect, Endpoint};

use crate::input::Input;

/// No input is likely to hold it.
const KEY: &str = "s3cr3t-kEy";

/// Parses a text as everything that is parsed from texts.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let split = usize::from(input.byte());
    let text = String::from_utf8_lossy(input.rest());
    if text.contains(KEY) {
        return;
    }
    if let Ok(dialect) = text.parse::<Dialect>() {
        assert_eq!(dialect.to_string().parse::<Dialect>().ok(), Some(dialect));
    }
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        assert_eq!(endpoint.to_string().parse::<Endpoint>().ok().as_ref(), Some(&endpoint));
    }
    let via = Endpoint::new("broker.test", 5555).expect("valid");
    if let Ok(leader) = Endpoint::from_leader_hint(&text, &via) {
        assert_eq!(Endpoint::new(&leader.host, leader.port).as_ref().ok(), Some(&leader));
    }
    config(&text);
    config(&format!("fila://{text}"));
    config(&format!("fila://broker.test?{text}"));
    // A key may stand anywhere in front of an '@', and may be mistyped.
    let mut at = split.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let (before, after) = text.split_at(at);
    config(&format!("fila://{KEY}@{text}"));
    config(&format!("fila://{before}{KEY}{after}@broker.test"));
    let vars = |name: &str| match name {
        "FILA_URL" => Some(OsString::from(&*text)),
        "FILA_API_KEY" => Some(OsString::from(KEY)),
        _ => None,
    };
    match Config::from_vars(vars, |_| Err::<Vec<u8>, _>("no files here")) {
        Ok(config) => assert!(!config.to_url().contains(KEY)),
        Err(error) => assert!(!error.to_string().contains(KEY), "{error}"),
    }
}

fn config(url: &str) {
    match url.parse::<Config>() {
        Ok(config) => {
            let shown = config.to_url();
            assert!(!shown.contains(KEY), "{shown}");
            assert!(!format!("{config:?}").contains(KEY), "{config:?}");
            // What cannot be shown is left out: the key, and with it nothing else.
            let again = shown.parse::<Config>().map(|config| config.to_url());
            assert_eq!(again.ok(), Some(shown), "of {url}");
            let _ = config.validate();
        }
        Err(error) => assert!(!error.to_string().contains(KEY), "{error}"),
    }
}
