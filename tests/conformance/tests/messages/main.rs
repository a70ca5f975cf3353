//! What errors say: wrong situations on every adapter, compared as whole texts with `messages.txt`, which is there to be
//! read by reviewers. `FILA_BLESS=1` writes it again.

mod report;
mod situations;

use fila_conformance::cases;

cases! {
    Peer;

    async fn errors_say_what_happened_where_and_what_to_do(env: &Env) {
        let mut report = report::Report::default();
        situations::connecting(env, &mut report).await;
        situations::tls(env, &mut report).await;
        situations::keys(env, &mut report).await;
        situations::messages(env, &mut report).await;
        situations::administration(env, &mut report).await;
        situations::lifetimes(env, &mut report).await;
        report.compare();
    }
}
