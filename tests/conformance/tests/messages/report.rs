//! The texts of errors, without what differs from run to run.

use std::fmt::Write as _;
use std::path::PathBuf;

use fibp_proto::Error;

/// The texts so far.
#[derive(Default)]
pub(crate) struct Report {
    texts: String,
    count: usize,
}

impl Report {
    /// Adds an error. `places`: the addresses that its text may name, and what to call them.
    pub(crate) fn add(&mut self, situation: &str, places: &[(&str, &str)], error: &Error) {
        // Anyhow's `{:#}`: nothing comes twice.
        let mut chain = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(next) = source {
            let _ = write!(chain, ": {next}");
            source = next.source();
        }
        let mut text = chain;
        for (address, name) in places {
            text = text.replace(address, name);
        }
        if let Some((before, rest)) = text.split_once("gave up ")
            && let Some((_, after)) = rest.split_once(" ago")
        {
            text = format!("{before}gave up SOME TIME ago{after}");
        }
        assert!(
            !text.contains(char::is_control),
            "{situation}: control characters in {text:?}"
        );
        self.count += 1;
        let retryable = if error.is_retryable() { "retryable" } else { "final" };
        let _ = write!(
            self.texts,
            "{}. {situation}\n   {:?}, {:?}, {retryable}\n   {text}\n\n",
            self.count,
            error.kind(),
            error.outcome()
        );
    }

    /// Compares the texts with those that are checked in.
    pub(crate) fn compare(&self) {
        assert!(self.count >= 30, "{} situations", self.count);
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/messages/messages.txt");
        if std::env::var_os("FILA_BLESS").is_some() {
            std::fs::write(&path, &self.texts).expect("the file can be written");
            return;
        }
        let known = std::fs::read_to_string(&path).expect("the texts are checked in");
        for (now, known) in self.texts.lines().zip(known.lines()) {
            assert_eq!(now, known, "FILA_BLESS=1 writes {} again", path.display());
        }
        assert_eq!(
            self.texts.len(),
            known.len(),
            "FILA_BLESS=1 writes {} again",
            path.display()
        );
    }
}
