//! Parses the command line, runs the command, exits.

use std::process::ExitCode;

fn main() -> ExitCode {
    highline::commands::run(std::env::args_os())
}
