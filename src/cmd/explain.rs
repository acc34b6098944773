//! `explain`: what an error code means and how to go on.

use serde_json::json;

use super::{Context, Outcome};
use crate::args::Explain;
use crate::error::{Failure, exit_of};
use crate::explain::{CODES, find};

pub(super) fn run(context: &Context, args: &Explain) -> Outcome {
    let Some(known) = find(&args.code) else {
        let codes: Vec<&str> = CODES.iter().map(|known| known.code).collect();
        return Err(Failure::argument(format!("there is no error code {:?}", args.code)).advise(codes.join(" ")));
    };
    let document = json!({
        "schema": 1, "code": known.code, "exit": exit_of(known.code), "title": known.title, "text": known.text,
    });
    let exit = exit_of(known.code).unwrap_or(1);
    context.out.result(&document, || format!("{}: {} (exit {exit})\n\n{}", known.code, known.title, known.text))?;
    Ok(0)
}
