//! One file per verb. Each takes what was typed, runs it, and says how it ended.

mod arbitrate;
pub mod certs;
pub mod check;
mod demo;
mod destination;
mod discard;
mod freeze_command;
mod generate;
mod pipe;
mod privileges;
mod pull;
mod rate;
mod receive;
mod recover;
mod send;
mod sst;
mod status;
mod verify;
mod verify_pages;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use crate::cli::{Command, parse};
use crate::error::{Error, Kind, Result};

/// Runs the command that `args` name, program name first. A failure goes to standard error; the exit code is its kind.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let typed: Vec<OsString> = args.into_iter().collect();
    let cli = match parse(typed.iter().cloned()) {
        Ok(cli) => cli,
        Err(told) => {
            // Help and version come this way too.
            if told.use_stderr() && asks_for_findings(&typed) {
                let error = Error::new(Kind::Usage, told.to_string().lines().next().unwrap_or_default().to_owned());
                let _ = check::failed(&error).and_then(|text| print(&mut std::io::stdout(), &format!("{text}\n")));
            }
            let _ = told.print();
            let code = if told.use_stderr() { Kind::Usage.exit_code() } else { 0 };
            return ExitCode::from(code);
        }
    };
    let done = match cli.command {
        Command::Receive(args) => receive::run(&args),
        Command::Send(args) => send::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Arbitrate(args) => arbitrate::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Discard(args) => discard::run(&args),
        Command::Rate(args) => rate::run(&args),
        Command::Status(args) => return exit(status::run(&args)),
        Command::Certs(args) => certs::run(&args, SystemTime::now(), &mut std::io::stdout().lock()),
        Command::Check(args) => {
            return exit(check::run(&args, SystemTime::now(), &mut std::io::stdout().lock()));
        }
        Command::Guard { hold } => {
            if hold {
                crate::pipe::hold()
            } else {
                crate::pipe::guard()
            }
            Ok(())
        }
        Command::Generate(args) => generate::run(&args),
        Command::Sst(args) => return sst::run(&args),
    };
    exit(done.map(|()| 0))
}

fn exit(done: Result<u8>) -> ExitCode {
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            crate::progress::line(&format!("highline: {}", error.report()));
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// Was it `check --json`, which promises an object?
fn asks_for_findings(typed: &[OsString]) -> bool {
    typed.get(1).is_some_and(|verb| verb == "check") && typed.iter().any(|word| word == "--json")
}

/// Prints to standard output. A reader that stops early, such as `head`, is not an error.
fn print(out: &mut dyn Write, text: &str) -> Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(Kind::Io, "cannot write to standard output").because(error))
        }
        _ => Ok(()),
    }
}

/// Runs `work` on a runtime. Threads still waiting for a hung disk do not keep the process alive.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(Kind::Io, "cannot start the threads").because(e))?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_millis(200));
    done
}

/// The result as JSON, for `--json`.
fn json(result: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(result).map_err(|e| Error::new(Kind::Io, "cannot print the result").because(e))
}
