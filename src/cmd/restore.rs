//! `restore`: a volume as it was at an instant, into a file, a device or stdout.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::{Context, Outcome};
use crate::args::Restore;
use crate::client::Client;
use crate::error::Failure;
use crate::job;
use crate::names::Target;
use crate::output::{asks, number, point, text};
use crate::units::{bytes, seconds};

pub(super) async fn run(context: &Context, args: &Restore) -> Outcome {
    let target = Target::parse(&args.target)?;
    let at = context.when(&args.at)?;
    let client = context.receiver()?;
    let stdout = args.to == Path::new("-");
    let mut body = json!({
        "group": target.group.as_str(), "volume": target.volume.as_ref().map(ToString::to_string),
        "at": at, "nearest": args.nearest, "to": destination(&args.to)?, "force": args.force,
        "dry_run": context.global.dry_run || stdout,
    });
    if let Some(since) = &args.since {
        if stdout {
            return Err(Failure::argument("--since is for an image that is there").advise("--to PATH, or no --since"));
        }
        body["since"] = json!(context.when(since)?);
    }
    if stdout && !context.global.dry_run {
        if std::io::stdout().is_terminal() {
            return Err(Failure::argument("an image does not belong on a terminal").advise("--to - | some-command"));
        }
        return to_stdout(context, &client, &target, body).await;
    }
    if args.force && !context.global.dry_run && !context.global.yes && asks() {
        confirm(context, &client, &mut body).await?;
    }
    let document = job::run(context, &client, "/v1/restore", &body).await?;
    context.out.result(&document, || report(&target, &document, context.global.dry_run))?;
    Ok(0)
}

/// Shows the plan and asks. What is done then is what was shown: the point is pinned by its place in the order.
async fn confirm(context: &Context, client: &Client, body: &mut Value) -> Result<(), Failure> {
    body["dry_run"] = json!(true);
    let plan = job::run(context, client, "/v1/restore", body).await?;
    context.out.confirm(&context.global, &format!("Overwrite {}?", text(body, "to").unwrap_or("it")))?;
    pin(body, &plan)?;
    body["dry_run"] = json!(false);
    Ok(())
}

/// The point is settled first, then its bytes are copied; what was written is told on stderr.
async fn to_stdout(context: &Context, client: &Client, target: &Target, mut body: Value) -> Outcome {
    let started = Instant::now();
    let plan = job::run(context, client, "/v1/restore", &body).await?;
    pin(&mut body, &plan)?;
    let mut query = vec![("group", target.group.to_string()), ("at", text(&body, "at").unwrap_or("latest").to_owned())];
    query.extend(target.volume.as_ref().map(|volume| ("volume", volume.to_string())));
    let mut answer = client.read("/v1/read", &query).await?;
    let bar = context.out.progress();
    bar.set_length(answer.length().unwrap_or(0));
    let mut hasher = blake3::Hasher::new();
    let mut written: u64 = 0;
    while let Some(chunk) = answer.chunk().await? {
        context.out.bytes(&chunk)?;
        hasher.update(&chunk);
        written += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        bar.set_position(written);
    }
    bar.finish_and_clear();
    let volume = target.volume.as_ref().unwrap_or(&target.group).to_string();
    let volume = text(&plan, "volume").map_or(volume, str::to_owned);
    let document = json!({
        "schema": 1, "point": plan["point"], "bytes_written": written, "blocks_written": written.div_ceil(BLOCK_BYTES),
        "seconds": started.elapsed().as_secs_f64(), "blake3": {volume: hasher.finalize().to_string()},
    });
    match context.out.json() {
        true => context.out.beside(&document.to_string()),
        false => context.out.hint(&report(target, &document, false)),
    }
    Ok(0)
}

fn pin(body: &mut Value, plan: &Value) -> Result<(), Failure> {
    let seq = plan.get("point").and_then(|at| number(at, "seq"));
    let seq = seq.ok_or_else(|| Failure::new("E0103", "the receiver's plan names no point"))?;
    body["at"] = json!(format!("seq:{seq}"));
    body["nearest"] = json!(false);
    Ok(())
}

/// The receiver writes, and it runs elsewhere than here.
fn destination(to: &Path) -> Result<String, Failure> {
    if to == Path::new("-") {
        return Ok("-".to_owned());
    }
    let path = std::path::absolute(to).map_err(|error| Failure::caused("cannot tell where --to is", &error))?;
    path.into_os_string().into_string().map_err(|_| Failure::argument("--to must be UTF-8"))
}

fn report(target: &Target, document: &Value, dry_run: bool) -> String {
    let at = point(document.get("point").unwrap_or(&Value::Null));
    if dry_run {
        return format!("{target} would be restored as of {at}: nothing was written");
    }
    let size = bytes(number(document, "bytes_written").unwrap_or(0));
    let took = seconds(document.get("seconds").and_then(Value::as_f64).unwrap_or(0.0));
    let mut lines = vec![format!("{target} restored as of {at}: {size} written in {took}")];
    for (volume, hash) in document.get("blake3").and_then(Value::as_object).into_iter().flatten() {
        lines.push(format!("blake3 {volume} {}", hash.as_str().unwrap_or("?")));
    }
    lines.join("\n")
}

const BLOCK_BYTES: u64 = 4096;
