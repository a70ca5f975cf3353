//! The program, run as one.
#![cfg(feature = "cli")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fila-test-broker"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A broker that is stopped when the test ends, however it does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn serves_until_it_is_told_to_stop() {
    let port_file = std::env::temp_dir().join(format!("fila-test-broker-{}", std::process::id()));
    let path = port_file.to_str().expect("a plain path");
    let arguments = ["--listen", "127.0.0.1:0", "--port-file", path, "--queue", "orders"];
    let mut running = Running(program(&arguments).spawn().expect("it was built"));
    let mut line = String::new();
    let mut stdout = BufReader::new(running.0.stdout.take().expect("piped"));
    stdout.read_line(&mut line).expect("it prints its address");
    let addr = line.strip_prefix("listening on ").expect("its address").trim_end();
    assert_eq!(std::fs::read_to_string(&port_file).expect("it was written"), addr);
    std::fs::remove_file(&port_file).expect("it was written");

    let mut client = TcpStream::connect(addr).expect("it listens");
    client
        .write_all(b"FIBP\x01\0\0\0\0\x06\0\x21\0\0\0\x07")
        .expect("it reads");
    let mut answer = [0; 16];
    client.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"FIBP\x01\0\0\0\0\x06\0\x21\0\0\0\x07");

    #[cfg(unix)]
    {
        let told = Command::new("kill")
            .args(["-TERM", &running.0.id().to_string()])
            .status();
        assert!(told.expect("every unix has it").success());
        let status = running.0.wait().expect("it was started");
        assert!(status.success(), "{status}");
        assert_eq!(client.read(&mut answer).unwrap_or(0), 0);
    }
}

#[test]
fn explains_itself_and_refuses_what_it_does_not_know() {
    let help = program(&["--help"]).output().expect("it was built");
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).starts_with("An in-memory Fila broker"));
    let refused = program(&["--fly"]).output().expect("it was built");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("invalid option '--fly'"));
    let unbound = program(&["--listen", "nowhere"]).output().expect("it was built");
    assert_eq!(unbound.status.code(), Some(1));
}

#[test]
fn serves_a_cluster_and_says_where_in_json() {
    let arguments = [
        "--listen",
        "127.0.0.1:0",
        "--cluster",
        "3",
        "--json",
        "--dialect",
        "framed",
    ];
    let mut running = Running(program(&arguments).spawn().expect("it was built"));
    let mut line = String::new();
    let mut stdout = BufReader::new(running.0.stdout.take().expect("piped"));
    stdout.read_line(&mut line).expect("it prints its addresses");
    let ready: serde_json::Value = serde_json::from_str(&line).expect("one line of JSON");
    let addrs: Vec<&str> = ready["addrs"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(serde_json::Value::as_str)
        .collect();
    assert_eq!(ready["url"], format!("fila://{}", addrs.join(",")));
    assert_eq!((ready["dialect"].as_str(), addrs.len()), (Some("handshake"), 3));
    for (id, addr) in (1..).zip(addrs) {
        let mut client = TcpStream::connect(addr).expect("it listens");
        client.write_all(b"\0\0\0\x09\x01\0\0\0\0\0\0\x01\0").expect("it reads");
        let mut answer = [0; 24];
        client.read_exact(&mut answer).expect("it answers");
        assert_eq!(answer[19], id, "{answer:02x?}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn serves_tls_from_files() {
    let identity = fila_test_broker::certs::self_signed(&["localhost"]).expect("can be made");
    let folder = std::env::temp_dir().join(format!("fila-test-broker-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("temporary files can be written");
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    std::fs::write(&chain, &identity.chain_pem).expect("temporary files can be written");
    std::fs::write(&key, &identity.key_pem).expect("temporary files can be written");
    let (chain, key) = (chain.to_str().expect("plain"), key.to_str().expect("plain"));
    let arguments = ["--listen", "127.0.0.1:0", "--tls-cert", chain, "--tls-key", key];
    let mut running = Running(program(&arguments).spawn().expect("it was built"));
    let mut line = String::new();
    let mut stdout = BufReader::new(running.0.stdout.take().expect("piped"));
    stdout.read_line(&mut line).expect("it prints its address");
    std::fs::remove_dir_all(&folder).expect("they were written");
    let addr = line.strip_prefix("listening on ").expect("its address").trim_end();
    let mut client = TcpStream::connect(addr).expect("it listens");
    client.write_all(b"FIBP\x01\0").expect("it reads");
    let mut answer = Vec::new();
    // It may end with a reset.
    let _ = client.read_to_end(&mut answer);
    assert_eq!(answer, [0x15, 3, 3, 0, 2, 2, 0x32], "an alert");
}
