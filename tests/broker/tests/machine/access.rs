//! Keys and permissions (docs/protocol/preamble.md 1.4 and 1.13, docs/protocol/framed.md 5).

use std::time::Duration;

use fibp_proto::admin::{ApiKeySpec, Permission, QueueSpec};
use fibp_proto::request::AckItem;
use fibp_proto::{Message, Op, Request, Response, Secret, ServerError};
use fila_test_broker::{ConnectionId, Output};

use crate::world::{FRAMED, P1, WALL_MS, World};

/// Creates a key with these grants and returns its id and itself.
fn key(world: &mut World, grants: &[(&str, &str)]) -> (String, Secret) {
    let admin = world.login(P1, "root").expect("bootstrap key");
    let Response::CreateApiKey(created) = world.call(admin, Request::CreateApiKey(ApiKeySpec::new("svc"))) else {
        panic!("no key");
    };
    let permissions = grants
        .iter()
        .map(|(kind, pattern)| Permission::new(*kind, *pattern))
        .collect();
    let key_id = created.key_id.clone();
    assert_eq!(
        world.call(admin, Request::SetAcl { key_id, permissions }),
        Response::SetAcl
    );
    (created.key_id, created.key)
}

fn enqueue(queue: &str) -> Request {
    Request::Enqueue(vec![Message::new(queue, "x")])
}

fn refusal(world: &mut World, client: ConnectionId, request: Request) -> String {
    world.refused(client, request).text().to_owned()
}

#[test]
fn operations_wait_for_authentication() {
    let mut world = World::guarded();
    let client = world.connect(P1);
    assert_eq!(world.call(client, Request::Heartbeat), Response::Heartbeat);
    let required = "authentication required: send OP_AUTH frame first";
    assert_eq!(refusal(&mut world, client, Request::ListQueues), required);
    assert_eq!(world.outputs(), [Output::Close { connection: client }]);
    // A connection that is being closed is not served.
    world.send(client, Request::Authenticate("root".into()));
    assert_eq!(world.outputs(), []);

    let client = world.connect(P1);
    world.machine.handle_malformed(client, 5, None, None);
    let outputs = world.outputs();
    assert!(
        matches!(&outputs[..], [Output::Refuse { id: 5, error, .. }, Output::Close { .. }] if error.text() == required),
        "{outputs:?}"
    );
}

#[test]
fn wrong_keys_are_refused() {
    let mut world = World::guarded();
    for wrong in ["wrong", ""] {
        let error = world.login(P1, wrong).expect_err("wrong key");
        assert_eq!(error.text(), "invalid or missing api key");
        assert!(matches!(world.outputs()[..], [Output::Close { .. }]));
    }
    let code = |error: ServerError| (error.code(), error.text().to_owned());
    let wrong = world.login(FRAMED, "wrong").expect_err("wrong key");
    assert_eq!(code(wrong), (Some(0x0A), "invalid API key".to_owned()));
    let missing = world.machine.connect(world.now, ConnectionId(99), FRAMED, None);
    assert_eq!(
        code(missing.expect_err("no key")),
        (Some(0x0A), "API key required".to_owned())
    );
}

#[test]
fn keys_cannot_be_looked_up_in_failing_storage() {
    let mut world = World::guarded();
    world
        .machine
        .set_faults(fila_test_broker::Faults::default().storage_failing(true));
    world.login(P1, "root").expect("the bootstrap key is not stored");
    let client = world.connect(P1);
    world.send(client, Request::Authenticate("other".into()));
    assert_eq!(world.outputs(), [Output::Close { connection: client }]);
}

#[test]
fn without_authentication_any_key_will_do() {
    let mut world = World::orders();
    let client = world.login(P1, "whatever").expect("authentication is off");
    world.login(FRAMED, "whatever").expect("authentication is off");
    // Even one that is not text.
    world.machine.handle_malformed(client, 5, Some(Op::Authenticate), None);
    assert!(matches!(
        &world.outputs()[..],
        [Output::Answer {
            response: Response::Authenticated,
            ..
        }]
    ));
}

#[test]
fn expiry_is_looked_at_once() {
    let mut world = World::guarded();
    let admin = world.login(P1, "root").expect("bootstrap key");
    let spec = ApiKeySpec::new("svc").superadmin(true).expires_at_ms(WALL_MS + 1000);
    let Response::CreateApiKey(created) = world.call(admin, Request::CreateApiKey(spec)) else {
        panic!("no key");
    };
    world.advance(Duration::from_millis(1000));
    let client = world.login(P1, created.key.expose()).expect("not expired yet");
    world.advance(Duration::from_millis(1));
    assert!(world.login(P1, created.key.expose()).is_err());
    assert!(matches!(world.outputs()[..], [Output::Close { .. }]));
    assert!(world.login(FRAMED, created.key.expose()).is_err());
    assert!(matches!(
        world.call(client, Request::ListQueues),
        Response::ListQueues(_)
    ));
}

#[test]
fn keys_may_do_what_they_were_granted() {
    let mut world = World::guarded();
    world.machine.create_queue("orders.eu");
    let grants = [("produce", "orders.*"), ("consume", "orders")];
    let (_, key) = key(&mut world, &grants);
    let client = world.login(P1, key.expose()).expect("known key");
    let denied = |what: &str| format!("permission denied: key does not have {what}");
    assert!(matches!(world.call(client, enqueue("orders.eu")), Response::Enqueue(_)));
    assert_eq!(
        refusal(&mut world, client, enqueue("orders")),
        denied("produce permission on queue \"orders\"")
    );
    world.consume(client, "orders", 1);
    let item = |queue: &str| AckItem {
        queue: queue.into(),
        id: "bogus".into(),
    };
    assert_eq!(
        refusal(
            &mut world,
            client,
            Request::Ack(vec![item("orders"), item("orders.eu"), item("x")])
        ),
        denied("consume permission on queue \"orders.eu\"")
    );
    for request in [
        Request::ListQueues,
        Request::ListConfig { prefix: String::new() },
        Request::CreateApiKey(ApiKeySpec::new("x")),
    ] {
        assert_eq!(refusal(&mut world, client, request), denied("admin permission"));
    }
    let create = Request::CreateQueue(QueueSpec::new("new"));
    assert_eq!(
        refusal(&mut world, client, create),
        denied("admin permission on queue \"new\"")
    );
    // These are open to every authenticated key.
    assert!(matches!(
        world.call(client, Request::ListApiKeys),
        Response::ListApiKeys(_)
    ));
}

#[test]
fn permissions_are_checked_before_bodies_where_servers_do() {
    let mut world = World::guarded();
    let (_, key) = key(&mut world, &[]);
    let client = world.login(P1, key.expose()).expect("known key");
    let malformed = ServerError::new(fibp_proto::ErrorKind::WrongDialect, "protobuf decode error: x");
    let mut text = |op| {
        world
            .machine
            .handle_malformed(client, 9, Some(op), Some(malformed.clone()));
        match world.outputs().remove(0) {
            Output::Answer {
                response: Response::Error(error),
                ..
            }
            | Output::Refuse { error, .. } => error.text().to_owned(),
            other => panic!("{other:?}"),
        }
    };
    let denied = "permission denied: key does not have admin permission";
    assert_eq!(text(Op::ListQueues), denied);
    assert_eq!(text(Op::SetConfig), denied);
    assert_eq!(text(Op::CreateQueue), malformed.text());
    assert_eq!(text(Op::SetAcl), malformed.text());
}

#[test]
fn admins_stay_within_their_scope() {
    let mut world = World::guarded();
    let (key_id, key) = key(&mut world, &[("admin", "orders.*")]);
    let client = world.login(P1, key.expose()).expect("known key");
    let created = world.create(client, QueueSpec::new("orders.eu"));
    assert!(matches!(created, Response::CreateQueue { .. }));
    let superadmin = Request::CreateApiKey(ApiKeySpec::new("x").superadmin(true));
    assert_eq!(
        refusal(&mut world, client, superadmin),
        "permission denied: only superadmin keys can create superadmin keys"
    );
    let created = world.call(client, Request::CreateApiKey(ApiKeySpec::new("x")));
    assert!(matches!(created, Response::CreateApiKey(_)));
    let grant = |pattern: &str| Request::SetAcl {
        key_id: key_id.clone(),
        permissions: vec![Permission::new("produce", pattern)],
    };
    assert_eq!(
        refusal(&mut world, client, grant("*")),
        "permission denied: cannot grant permissions outside your admin scope"
    );
    assert_eq!(world.call(client, grant("orders.eu.*")), Response::SetAcl);
    // Now it administers nothing any more, but an empty list passes for anyone.
    let key_id = key_id.clone();
    let nothing = Request::SetAcl {
        key_id,
        permissions: vec![],
    };
    assert_eq!(world.call(client, nothing), Response::SetAcl);
}

#[test]
fn a_revoked_key_loses_its_rights_and_stays_connected() {
    let mut world = World::guarded();
    let (key_id, key) = key(&mut world, &[("produce", "*")]);
    let client = world.login(P1, key.expose()).expect("known key");
    assert!(matches!(world.call(client, enqueue("orders")), Response::Enqueue(_)));
    let admin = world.login(P1, "root").expect("bootstrap key");
    world.call(admin, Request::RevokeApiKey { key_id });
    assert!(refusal(&mut world, client, enqueue("orders")).starts_with("permission denied: "));
    assert!(world.login(P1, key.expose()).is_err());
}

#[test]
fn framed_permissions_differ() {
    let mut world = World::guarded();
    let (key_id, key) = key(&mut world, &[("admin", "orders"), ("produce", "orders")]);
    let client = world.login(FRAMED, key.expose()).expect("known key");
    let mut denied = |request: Request, text: &str| {
        let error = world.refused(client, request);
        assert_eq!((error.code(), error.text()), (Some(0x0B), text));
    };
    let mixed = Request::Enqueue(vec![Message::new("orders", "x"), Message::new("other", "x")]);
    denied(mixed, "no produce permission on queue \"other\"");
    let item = AckItem {
        queue: "orders".into(),
        id: "bogus".into(),
    };
    denied(Request::Ack(vec![item]), "no consume permission on queue \"orders\"");
    denied(
        Request::CreateQueue(QueueSpec::new("new")),
        "no admin permission on queue \"new\"",
    );
    let global = "key does not have admin permission";
    let queue = "orders".into();
    denied(Request::QueueStats { queue }, global);
    denied(Request::ListQueues, global);
    denied(Request::ListApiKeys, global);
    let get_acl = Request::GetAcl { key_id: key_id.clone() };
    denied(get_acl, global);
    denied(Request::ListConfig { prefix: String::new() }, global);
    denied(
        Request::CreateApiKey(ApiKeySpec::new("x").superadmin(true)),
        "only superadmin keys can create other superadmin keys",
    );
    let acl = Request::SetAcl {
        key_id,
        permissions: vec![Permission::new("produce", "*")],
    };
    denied(acl, "one or more permissions exceed the caller's admin scope");
    assert_eq!(world.figures("orders").0, 0, "nothing of a refused frame was stored");
    let queue = "orders".into();
    assert_eq!(
        world.call(client, Request::DeleteQueue { queue }),
        Response::DeleteQueue
    );
}
