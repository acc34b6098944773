//! `completions`: a script for the shell, made from the verbs as they are.

use clap::CommandFactory;
use serde_json::json;

use super::{Context, Outcome};
use crate::args::{Cli, Completions};

pub(super) fn run(context: &Context, args: &Completions) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "backspool", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let document = json!({"schema": 1, "shell": args.shell.to_string(), "script": script});
    context.out.result(&document, || script)?;
    Ok(0)
}
