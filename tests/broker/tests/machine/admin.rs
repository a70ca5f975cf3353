//! Administrative operations and the texts of their refusals (docs/protocol/preamble.md 1.10 and 1.11).

use std::time::Duration;

use fibp_proto::admin::{ApiKeySpec, KeyStats, Permission, QueueSpec, ThrottleStats};
use fibp_proto::{Op, Request, Response};
use fila_test_broker::{ConnectionId, Faults, Output};

use crate::world::{FRAMED, P1, P2, P3, World};

fn refusal(world: &mut World, client: ConnectionId, request: Request) -> String {
    world.refused(client, request).text().to_owned()
}

fn set(key: &str, value: &str) -> Request {
    Request::SetConfig {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

fn list(prefix: &str) -> Request {
    Request::ListConfig {
        prefix: prefix.to_owned(),
    }
}

#[test]
fn creating_and_deleting_include_the_dead_letter_queue() {
    let mut world = World::new();
    let client = world.connect(P1);
    let created = world.create(client, QueueSpec::new("q"));
    assert_eq!(created, Response::CreateQueue { queue_id: "q".into() });
    let names = |world: &mut World| match world.call(client, Request::ListQueues) {
        Response::ListQueues(list) => list.queues.into_iter().map(|queue| queue.name).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(names(&mut world), ["q", "q.dlq"]);
    world.create(client, QueueSpec::new("x.dlq"));
    assert_eq!(names(&mut world), ["q", "q.dlq", "x.dlq"]);
    world.call(client, Request::DeleteQueue { queue: "q".into() });
    assert_eq!(names(&mut world), ["x.dlq"]);
}

#[test]
fn refusals_of_queue_operations() {
    let mut world = World::orders();
    let client = world.connect(P1);
    let create = |spec: QueueSpec| Request::CreateQueue(spec);
    let delete = |queue: &str| Request::DeleteQueue { queue: queue.into() };
    let stats = |queue: &str| Request::QueueStats { queue: queue.into() };
    let redrive = |dlq: &str| Request::Redrive {
        dlq: dlq.into(),
        count: 0,
    };
    world.create(client, QueueSpec::new("orphan.dlq"));
    let short = QueueSpec::new("new").visibility_timeout(Duration::from_millis(999));
    let script = QueueSpec::new("new").on_enqueue("function on_enqueue(msg) end");
    for (request, text) in [
        (create("".into()), "queue name must not be empty"),
        (delete(""), "queue name must not be empty"),
        (stats(""), "queue name must not be empty"),
        (redrive(""), "dlq_queue name must not be empty"),
        (create(short), "visibility_timeout_ms must be at least 1000 (1 second)"),
        (create("orders".into()), "queue already exists: orders"),
        (
            create(script),
            "lua script compilation failed: lua compilation error: scripts are not supported by the test broker",
        ),
        (delete("zz"), "queue not found: zz"),
        (stats("zz"), "queue not found: zz"),
        (redrive("zz"), "queue not found: zz"),
        (redrive("orders"), "not a dead-letter queue: orders"),
        (redrive("orphan.dlq"), "parent queue not found: orphan"),
    ] {
        assert_eq!(refusal(&mut world, client, request), format!("invalid payload: {text}"));
    }
    // An empty script is none, and 1000 ms are enough.
    let spec = QueueSpec::new("new")
        .on_failure("")
        .visibility_timeout(Duration::from_secs(1));
    assert!(matches!(world.create(client, spec), Response::CreateQueue { .. }));
}

#[test]
fn stats_count_what_is_there() {
    let mut world = World::orders();
    let client = world.connect(P3);
    world.fill(client, "orders", 200);
    world.consume(client, "orders", 2);
    world.deliveries();
    world.call(client, set("throttle.api", "10,20"));
    let queue = "orders".into();
    let Response::QueueStats(stats) = world.call(client, Request::QueueStats { queue }) else {
        panic!("no stats");
    };
    assert_eq!((stats.depth, stats.in_flight), (200, 128));
    assert_eq!((stats.active_fairness_keys, stats.active_consumers), (1, 1));
    assert_eq!(stats.quantum, 1000);
    let key = KeyStats::default()
        .key("default".into())
        .pending(72)
        .deficit(1000 - 128)
        .weight(1);
    assert_eq!(stats.per_key, [key]);
    let throttle = ThrottleStats::default()
        .key("api".into())
        .tokens(20.0)
        .rate_per_second(10.0)
        .burst(20.0);
    assert_eq!(stats.per_throttle, [throttle]);
}

#[test]
fn configuration_is_kept_in_key_order() {
    let mut world = World::new();
    let client = world.connect(P1);
    for (key, value) in [("b", "2"), ("a", "1"), ("ab", "3"), ("throttle.x", "1.5,0")] {
        assert_eq!(world.call(client, set(key, value)), Response::SetConfig);
    }
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let entries = vec![pair("a", "1"), pair("ab", "3")];
    assert_eq!(world.call(client, list("a")), Response::ListConfig { entries });
    world.call(client, set("a", ""));
    let get = |key: &str| Request::GetConfig { key: key.to_owned() };
    assert_eq!(
        world.call(client, get("a")),
        Response::GetConfig { value: String::new() }
    );
    assert_eq!(world.call(client, get("ab")), Response::GetConfig { value: "3".into() });
}

#[test]
fn refusals_of_configuration() {
    let mut world = World::new();
    let client = world.connect(P1);
    let get = Request::GetConfig { key: String::new() };
    for (request, text) in [
        (set("", "x"), "config key must not be empty"),
        (get, "config key must not be empty"),
        (set("throttle.", "1,1"), "throttle key name must not be empty"),
        (
            set("throttle.a", "nonsense"),
            "throttle value must be 'rate_per_second,burst', got: nonsense",
        ),
        (set("throttle.a", "x,1"), "invalid rate_per_second: x"),
        (
            set("throttle.a", "-1,1"),
            "rate_per_second must be a finite non-negative number, got: -1",
        ),
        (set("throttle.a", "1,x"), "invalid burst: x"),
        (
            set("throttle.a", "1,inf"),
            "burst must be a finite non-negative number, got: inf",
        ),
    ] {
        assert_eq!(refusal(&mut world, client, request), format!("invalid payload: {text}"));
    }
}

#[test]
fn api_keys_share_the_configuration_store() {
    let mut world = World::new();
    let client = world.connect(P1);
    let spec = ApiKeySpec::new("svc").superadmin(true);
    let Response::CreateApiKey(created) = world.call(client, Request::CreateApiKey(spec)) else {
        panic!("no key");
    };
    assert_eq!(created.key.expose().len(), 32);
    assert_eq!(&created.key_id[14..15], "4");
    let Response::ListConfig { entries } = world.call(client, list("")) else {
        panic!("no list");
    };
    assert_eq!(entries[0].0, format!("auth:key:{}", created.key_id));
    assert!(entries[0].1.contains("\"name\":\"svc\""), "{}", entries[0].1);
    world.call(client, set(&entries[0].0, ""));
    assert_eq!(world.call(client, Request::ListApiKeys), Response::ListApiKeys(vec![]));
}

#[test]
fn refusals_of_key_operations() {
    let mut world = World::new();
    let client = world.connect(P1);
    let revoke = |key_id: &str| Request::RevokeApiKey {
        key_id: key_id.to_owned(),
    };
    let get_acl = |key_id: &str| Request::GetAcl {
        key_id: key_id.to_owned(),
    };
    let set_acl = |key_id: &str, kind: &str| Request::SetAcl {
        key_id: key_id.to_owned(),
        permissions: vec![Permission::new(kind, "*")],
    };
    for (request, text) in [
        (
            Request::CreateApiKey(ApiKeySpec::new("")),
            "api key name must not be empty",
        ),
        (revoke(""), "key_id must not be empty"),
        (get_acl(""), "key_id must not be empty"),
        (set_acl("", "fly"), "key_id must not be empty"),
        (set_acl("k9", "fly"), "invalid permission kind: fly"),
        (set_acl("k9", "produce"), "api key not found: k9"),
        (revoke("k9"), "api key not found: k9"),
        (get_acl("k9"), "api key not found: k9"),
    ] {
        assert_eq!(refusal(&mut world, client, request), format!("invalid payload: {text}"));
    }
}

#[test]
fn the_probe_is_always_refused() {
    for (dialect, text) in [
        (P1, "operation 0x14 not implemented"),
        (P2, "invalid payload: dlq_queue name must not be empty"),
        (
            P3,
            "wire decode error: invalid payload: unexpected end of payload reading u16",
        ),
    ] {
        let mut world = World::new();
        let client = world.connect(dialect);
        assert_eq!(refusal(&mut world, client, Request::ProbeAdmin), text);
    }
}

#[test]
fn framed_servers_refuse_less() {
    let mut world = World::new();
    let client = world.connect(FRAMED);
    let quick = QueueSpec::new("").visibility_timeout(Duration::from_millis(1));
    assert!(matches!(world.create(client, quick), Response::CreateQueue { .. }));
    assert_eq!(world.call(client, set("", "x")), Response::SetConfig);
    let code = |world: &mut World, request| {
        let error = world.refused(client, request);
        (error.code().expect("framed errors have codes"), error.text().to_owned())
    };
    let spec = QueueSpec::new("");
    assert_eq!(code(&mut world, Request::CreateQueue(spec)), (0x03, String::new()));
    let queue = "zz".into();
    assert_eq!(
        code(&mut world, Request::QueueStats { queue }),
        (0x01, "queue not found".into())
    );
    let dlq = ".dlq".into();
    let redriven = world.call(client, Request::Redrive { dlq, count: 0 });
    assert_eq!(redriven, Response::Redrive { redriven: 0 });
    assert_eq!(code(&mut world, set("throttle.a", "x")).0, 0x08);
    let acl = Request::SetAcl {
        key_id: "k9".to_owned(),
        permissions: vec![Permission::new("fly", "*")],
    };
    let text = "invalid permission kind \"fly\": expected produce, consume, or admin";
    assert_eq!(code(&mut world, acl), (0x08, text.into()));
}

#[test]
fn failing_storage_is_told_by_where_it_failed() {
    let mut world = World::faulty(Faults::default().storage_failing(true));
    let client = world.connect(P1);
    let storage = "storage engine error: simulated failure";
    for (request, text) in [
        (Request::ListQueues, format!("invalid payload: {storage}")),
        (list(""), format!("storage error: {storage}")),
        (Request::ListApiKeys, format!("storage error: {storage}")),
    ] {
        assert_eq!(refusal(&mut world, client, request), text);
    }
    let results = world.enqueue_results(client, vec![fibp_proto::Message::new("orders", "x")]);
    let item = results[0].as_ref().expect_err("refused");
    assert_eq!((item.code(), item.text()), (Some(2), storage));
}

#[test]
fn an_overloaded_scheduler_closes_or_refuses() {
    let mut world = World::faulty(Faults::default().overloaded(true));
    let client = world.connect(P1);
    assert_eq!(
        refusal(&mut world, client, Request::ListQueues),
        "broker unavailable: scheduler command channel full"
    );
    world.send(client, Request::Enqueue(vec![]));
    assert_eq!(world.outputs(), [Output::Close { connection: client }]);
    let client = world.connect(FRAMED);
    let error = world.refused(client, Request::Enqueue(vec![]));
    assert_eq!((error.code(), error.text()), (Some(0x09), "scheduler overloaded"));
    let queue = "orders".into();
    world.send(client, Request::Consume { queue, credit: 0 });
    assert_eq!(world.outputs(), [Output::Close { connection: client }]);
}

#[test]
fn the_handler_behind_tls_is_older() {
    let mut world = World::guarded();
    let admin = world.login(P1, "root").expect("bootstrap key");
    let Response::CreateApiKey(created) = world.call(admin, Request::CreateApiKey(ApiKeySpec::new("svc"))) else {
        panic!("no key");
    };
    let permissions = vec![Permission::new("admin", "orders"), Permission::new("consume", "orders")];
    let acl = Request::SetAcl {
        key_id: created.key_id,
        permissions,
    };
    assert_eq!(world.call(admin, acl), Response::SetAcl);
    world.machine.set_faults(Faults::default().tls_quirks(true));
    let client = world.login(P1, created.key.expose()).expect("known key");
    // Global admin, before anything else is looked at.
    for queue in ["orders", ""] {
        let queue = queue.into();
        assert_eq!(
            refusal(&mut world, client, Request::QueueStats { queue }),
            "permission denied"
        );
    }
    assert_eq!(
        refusal(
            &mut world,
            client,
            Request::Enqueue(vec![fibp_proto::Message::new("orders", "x")])
        ),
        "permission denied"
    );
    world.consume(client, "orders", 1);
    let queue = "orders".into();
    assert_eq!(
        refusal(&mut world, client, Request::Consume { queue, credit: 1 }),
        "consume session already active"
    );
    assert_eq!(refusal(&mut world, client, set("a", "b")), "unknown operation 0x17");
    assert_eq!(
        refusal(&mut world, client, Request::ListApiKeys),
        "unknown operation 0x33"
    );
    // Before decoding, too.
    world.machine.handle_malformed(client, 77, Some(Op::CreateQueue), None);
    let outputs = world.outputs();
    let Some(Output::Answer {
        response: Response::Error(error),
        ..
    }) = outputs.first()
    else {
        panic!("{outputs:?}");
    };
    assert_eq!(error.text(), "permission denied");

    let client = world.login(P2, created.key.expose()).expect("known key");
    assert_eq!(refusal(&mut world, client, list("")), "unknown operation 0x17");
    assert_eq!(refusal(&mut world, client, Request::ProbeAdmin), "permission denied");
}
