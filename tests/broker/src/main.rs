//! The program `fila-test-broker`: an in-memory Fila broker for tests in other languages, and by hand.

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc;

use cli::{Command, Options};

fn main() -> ExitCode {
    match Command::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => {
            print!("{}", cli::HELP);
            ExitCode::SUCCESS
        }
        Ok(Command::Version) => {
            println!("fila-test-broker {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(Command::Serve(options)) => match serve(*options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("fila-test-broker: {error}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("fila-test-broker: {error}\nTry --help.");
            ExitCode::from(2)
        }
    }
}

fn serve(options: Options) -> io::Result<()> {
    let (stop, stopped) = mpsc::channel();
    ctrlc::set_handler(move || {
        // Nobody listens any more when it stops already.
        let _ = stop.send(());
    })
    .map_err(io::Error::other)?;
    let (port_file, json, dialect) = (options.port_file.clone(), options.json, options.dialect());
    let broker = options.start()?;
    let addrs: Vec<String> = broker.addrs().iter().map(ToString::to_string).collect();
    if let Some(path) = port_file {
        std::fs::write(path, addrs.join(","))?;
    }
    let mut stdout = io::stdout().lock();
    match json {
        // None of the texts holds what JSON would escape.
        true => writeln!(
            stdout,
            "{{\"url\":\"{}\",\"addrs\":[\"{}\"],\"dialect\":\"{dialect}\"}}",
            broker.url(),
            addrs.join("\",\"")
        )?,
        false => writeln!(stdout, "listening on {}", addrs.join(","))?,
    }
    stdout.flush()?;
    // The sender lives in the handler.
    let _ = stopped.recv();
    broker.stop();
    Ok(())
}
