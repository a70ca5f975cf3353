//! What adapters know of sockets, without touching one.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::config::Settings;
use crate::error::Error;
use crate::fault::{Fault, FaultKind};
use crate::message::Secret;

/// The API key to present on the next connection. Runs the user's closure: call it with no lock held.
///
/// # Errors
///
/// A fault if the closure panics: the dial failed, and the next one asks again. The driver, which serves everybody else too,
/// must survive that.
pub fn presented_key(settings: &Settings) -> Result<Result<Option<Secret>, Error>, Fault> {
    catch_unwind(AssertUnwindSafe(|| settings.credentials.key())).map_err(|panic| {
        let text = panic_text(&*panic);
        Fault::new(FaultKind::Other, format!("the credentials closure panicked: {text}"))
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "no message",
    }
}
