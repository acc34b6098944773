//! `demo`: the main job on an embedded example. Receiver and agent are real processes; what comes back is judged by a
//! record that the workload keeps by itself.

mod judge;
mod process;
mod stage;
mod view;

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use self::judge::Judgement;
use self::stage::Stage;
use super::{Context, Outcome};
use crate::args::Demo;
use crate::error::Failure;
use crate::units::{bytes, parse_size, seconds};

pub(super) async fn run(context: &Context, args: &Demo) -> Outcome {
    context.refuse_dry_run("demo")?;
    let size = parse_size(&args.size)?;
    if !size.is_multiple_of(SIZE_STEP) || size > SIZE_MAX {
        return Err(Failure::argument(format!("--size {}: a demo has whole MiB, at most 16GiB", args.size)));
    }
    let failed = |error: std::io::Error| Failure::caused("cannot make a directory for the demo", &error);
    let dir = tempfile::Builder::new().prefix("backspool-demo-").tempdir().map_err(failed)?;
    let outcome = tokio::select! {
        outcome = play(context, args, dir.path(), size) => outcome,
        // The children are in our process group and were told as well; those that are left are killed.
        _ = tokio::signal::ctrl_c() => Ok(128 + SIGINT),
    };
    if args.keep {
        context.out.hint(&format!("kept: {}", dir.keep().display()));
    }
    outcome
}

/// The whole story, from an empty directory to the verdict.
async fn play(context: &Context, args: &Demo, dir: &Path, size: u64) -> Outcome {
    let (started, say) = (Instant::now(), |text: String| context.out.say(&text));
    let mut stage = Stage::set(dir, size).await?;
    say(format!("receiver and agent are running, {} of content are protected while they are written to", bytes(size)))?;
    stage.first_copy().await?;
    say(format!("the first copy is whole after {}", seconds(started.elapsed().as_secs_f64())))?;
    let mark = stage.live(std::time::Duration::from_secs(args.seconds)).await?;
    let disaster = stage.disaster().await?;
    say(format!(
        "disaster after {} writes: the agent is killed, the source is overwritten",
        disaster.history.ops().len()
    ))?;
    let judgement = Judgement::of(context, &stage, &disaster, &mark).await?;
    stage.close().await?;
    report(context, args, dir, &judgement, started)
}

fn report(context: &Context, args: &Demo, dir: &Path, judgement: &Judgement, started: Instant) -> Outcome {
    let document = json!({
        "schema": 1, "instants": judgement.instants, "wrong": judgement.wrong.len(),
        "bytes_compared": judgement.bytes_compared, "writes_total": judgement.writes,
        "rpo": {"missing_total": judgement.missing, "missing_seconds": judgement.missing_seconds,
            "reported_max_seconds": judgement.rpo_reported},
        "rto": {"first_byte_p50_seconds": judgement.first_byte_p50, "first_byte_max_seconds": judgement.first_byte_max,
            "image_seconds": judgement.image_seconds},
        "seconds": started.elapsed().as_secs_f64(), "findings": judgement.wrong,
        "directory": args.keep.then(|| dir.display().to_string()),
    });
    context.out.result(&document, || {
        format!(
            "{} instants restored, {} compared with the record of {} writes: {}\n\
             RPO  {} of these writes missing at the newest point ({} before the kill); at most {} reported before\n\
             RTO  first verified byte after {} (at most {}), the whole image after {}\n\
             done in {}",
            judgement.instants,
            bytes(judgement.bytes_compared),
            judgement.writes,
            match judgement.wrong.len() {
                0 => context.out.paint.green("every byte is right"),
                count => context.out.paint.red(&format!("{count} instants are wrong")),
            },
            judgement.missing,
            seconds(judgement.missing_seconds),
            seconds(judgement.rpo_reported),
            seconds(judgement.first_byte_p50),
            seconds(judgement.first_byte_max),
            seconds(judgement.image_seconds),
            seconds(started.elapsed().as_secs_f64()),
        )
    })?;
    match judgement.wrong.is_empty() {
        true => Ok(0),
        false => Err(Failure::new("E1402", format!("bytes are wrong at {} instants", judgement.wrong.len()))
            .advise("backspool demo --keep --json")),
    }
}

/// The one group, and its volume.
const GROUP: &str = "demo";
const SIZE_STEP: u64 = 1 << 20;
const SIZE_MAX: u64 = 16 << 30;
const SIGINT: u8 = 2;
