//! Backspool: continuous data protection for Linux block devices and large files.
//!
//! The command line: one file per verb in `cmd`, nothing else. What a verb does is in the crates `agent` and
//! `receiver`; verbs that look at running processes ask them over their control sockets.

mod args;
mod client;
mod cmd;
mod config;
mod error;
mod explain;
mod job;
mod names;
mod output;
mod serving;
mod units;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Global};
use error::Failure;
use output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error),
    };
    let out = Output::new(&cli.global);
    log_to_stderr(&cli.global);
    match cmd::run(cli, out) {
        Ok(exit) => ExitCode::from(exit),
        Err(failure) => {
            out.failure(&failure);
            ExitCode::from(failure.exit())
        }
    }
}

/// Help is a success; everything else is an error in the form of all errors.
fn unparsed(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--json");
    let out = Output::new(&Global { json, ..Global::default() });
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = if out.paint.shows() { error.render().ansi().to_string() } else { error.render().to_string() };
            match out.line(&text) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => ExitCode::from(failure.exit()),
            }
        }
        _ => {
            let failure = usage(&error.render().to_string());
            out.failure(&failure);
            ExitCode::from(failure.exit())
        }
    }
}

/// clap's text is: what is wrong, tips, how the verb is called, where help is.
fn usage(text: &str) -> Failure {
    let (wrong, call) = text.split_once("Usage:").unwrap_or((text, ""));
    let told = |line: &&str| !line.is_empty() && !line.starts_with("For more information");
    let wrong: Vec<&str> = wrong.lines().map(str::trim).filter(told).collect();
    let wrong = wrong.join("; ");
    let wrong = wrong.strip_prefix("error: ").unwrap_or(&wrong).replace(":; ", ": ");
    let verb = call.split_whitespace().nth(1).filter(|word| word.bytes().all(|b| b.is_ascii_lowercase()));
    Failure::new("E0201", wrong).advise(verb.map_or_else(|| HELP.to_owned(), |verb| format!("backspool {verb} --help")))
}

/// What the long-running verbs tell about their work.
fn log_to_stderr(global: &Global) {
    use tracing_subscriber::filter::LevelFilter;
    let level = match (global.quiet, global.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, _) => LevelFilter::DEBUG,
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false).init();
}

const HELP: &str = "backspool --help, or backspool VERB --help";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_error_says_what_is_wrong_and_where_help_is() {
        let said = |line: &str| {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            usage(&error.render().to_string()).text(output::Paint::plain())
        };
        assert_eq!(
            said("backspool points db --sice now"),
            "error[E0201]: unexpected argument '--sice' found; tip: a similar argument exists: '--since'\n  \
             try: backspool points --help"
        );
        assert_eq!(
            said("backspool restore db --at now"),
            "error[E0201]: the following required arguments were not provided: --to <PATH|->\n  \
             try: backspool restore --help"
        );
        assert_eq!(
            said("backspool frobnicate"),
            "error[E0201]: unrecognized subcommand 'frobnicate'\n  try: backspool --help, or backspool VERB --help"
        );
        assert!(said("backspool").starts_with("error[E0201]: 'backspool' requires a subcommand"));
    }
}
