//! `drill`: a command that works on a volume as it was, as after a restore; how long it took until it could.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::{Context, Outcome};
use crate::args::Drill;
use crate::client::Answer;
use crate::error::Failure;
use crate::names::Target;
use crate::output::{point, text};
use crate::units::{parse_duration, parse_size, seconds};

/// What a command has after SIGTERM, before SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// How often is looked whether they are gone.
const STEP: Duration = Duration::from_millis(10);
/// The first verified bytes.
const FIRST_BYTES: u64 = 4096;
/// Verification found something.
const FAILED: u8 = 14;

pub(super) async fn run(context: &Context, args: &Drill) -> Outcome {
    let began = Instant::now();
    context.refuse_dry_run("drill")?;
    let target = Target::parse(&args.target)?;
    let timeout = args.timeout.as_deref().map(parse_duration).transpose()?;
    let body = json!({
        "group": target.group.as_str(), "volume": target.volume.as_ref().map(ToString::to_string),
        "at": context.when(&args.at)?, "nearest": args.nearest, "command": args.run,
        "scratch_bytes": args.scratch_size.as_deref().map(parse_size).transpose()?,
    });
    let mut signals = Signals::new()?;
    let client = context.receiver()?;
    let mut answer = client.stream("/v1/drill", &body).await?;
    let ready = tokio::select! {
        ready = ready(context, &mut answer) => ready?,
        // The view goes with this process.
        number = signals.next() => return Ok(exit_of(number)),
    };
    let image = text(&ready, "image").unwrap_or_default().to_owned();
    let opened = first_bytes(image.clone()).await;
    let open_seconds = began.elapsed().as_secs_f64();
    let mut told = json!({"id": ready["id"]});
    let mut interrupted = None;
    match opened {
        Err(error) => told["why"] = json!(format!("the image cannot be read: {error}")),
        Ok(()) => {
            told["open_seconds"] = json!(open_seconds);
            let started = Instant::now();
            let (mut child, group) = start(&args.run, &image, text(&ready, "uri").unwrap_or_default())?;
            let why = tokio::select! {
                _ = child.wait() => None,
                () = after(timeout) => Some("it took longer than --timeout".to_owned()),
                number = signals.next() => {
                    interrupted = Some(number);
                    Some(format!("it was interrupted by signal {number}"))
                }
                _ = answer.line() => {
                    end(&mut child, group).await;
                    let failure = Failure::new("E1603", "the view went away while the command ran");
                    return Err(failure.advise("see whether the receiver runs, and call again"));
                }
            };
            // What it left running does not count, and would lose the view.
            told["command_seconds"] = json!(started.elapsed().as_secs_f64());
            let status = end(&mut child, group).await;
            told["command_status"] = json!(status.map(status_of));
            told["why"] = json!(why);
        }
    }
    let document = client.post("/v1/drilled", &told).await?;
    context.out.result(&document, || report(&target, &document))?;
    let is_ok = document.get("ok").and_then(Value::as_bool) == Some(true);
    Ok(interrupted.map_or(if is_ok { 0 } else { FAILED }, exit_of))
}

/// Until the view is there.
async fn ready(context: &Context, answer: &mut Answer) -> Result<Value, Failure> {
    loop {
        let Some(document) = answer.line().await? else {
            return Err(Failure::new("E1603", "the answer ended without a view").advise("call again"));
        };
        match text(&document, "event") {
            Some("plan") => {
                let at = point(document.get("point").unwrap_or(&Value::Null));
                context.out.say(&format!("plan: point {at}, a writable view of it"))?;
            }
            Some("ready") => return Ok(document),
            _ => {}
        }
    }
}

/// What is read was checked, or there is an error.
async fn first_bytes(image: String) -> std::io::Result<()> {
    let read = move || File::open(image)?.take(FIRST_BYTES).read_to_end(&mut Vec::new()).map(drop);
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

/// In a process group of its own, so that all of it can be ended. What it says goes beside the result.
fn start(command: &str, image: &str, uri: &str) -> Result<(Child, Option<Pid>), Failure> {
    let failed = |error: std::io::Error| Failure::caused("cannot run the command", &error);
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().map_err(failed)?;
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).env("BACKSPOOL_IMAGE", image).env("BACKSPOOL_NBD", uri);
    shell.stdin(Stdio::null()).stdout(stderr).process_group(0).kill_on_drop(true);
    let child = shell.spawn().map_err(failed)?;
    // Once it has ended it has no number any more, but its group still has.
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    Ok((child, group))
}

/// Ends what is left of the command and of what it started.
async fn end(child: &mut Child, group: Option<Pid>) -> Option<ExitStatus> {
    if let Some(group) = group {
        let began = Instant::now();
        // It fails when nobody is left.
        let mut is_left = kill_process_group(group, Signal::TERM).is_ok();
        while is_left && began.elapsed() < GRACE {
            tokio::time::sleep(STEP).await;
            // Until its end is taken note of it belongs to the group.
            _ = child.try_wait();
            is_left = test_kill_process_group(group).is_ok();
        }
        if is_left {
            _ = kill_process_group(group, Signal::KILL);
        }
    }
    child.wait().await.ok()
}

async fn after(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

/// As a shell has it.
fn status_of(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

fn exit_of(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(FAILED)
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let failed = |error| Failure::caused("cannot wait for signals", &error);
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let terminate = signal(SignalKind::terminate()).map_err(failed)?;
        Ok(Self { interrupt, terminate })
    }

    /// The next one's number.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
        }
    }
}

fn report(target: &Target, document: &Value) -> String {
    let at = point(document.get("point").unwrap_or(&Value::Null));
    let took = |key: &str| document.get("rto").and_then(|rto| rto.get(key)).and_then(Value::as_f64).map(seconds);
    let opened = took("open_seconds").map_or_else(|| "never opened".to_owned(), |took| format!("open after {took}"));
    let mut parts = vec![opened];
    parts.extend(took("command_seconds").map(|took| format!("the command took {took}")));
    parts.extend(
        document.get("command_status").and_then(Value::as_i64).map(|status| format!("and ended with {status}")),
    );
    parts.extend(text(document, "why").map(|why| format!("({why})")));
    let result = if document.get("ok").and_then(Value::as_bool) == Some(true) { "passed" } else { "FAILED" };
    format!("drill of {target} as of {at} {result}: {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_how_long_and_how_it_ended() {
        let target = Target::parse("db").unwrap();
        let at = json!({"seq": 7, "time": "T", "class": "write", "mark": null});
        let mut document = json!({"point": at, "ok": true, "command_status": 0, "why": null,
            "rto": {"open_seconds": 0.0125, "command_seconds": 1.5}});
        assert_eq!(
            report(&target, &document),
            "drill of db as of T (seq 7, write) passed: open after 12.5 ms, the command took 1.5 s, and ended with 0"
        );
        document["ok"] = json!(false);
        document["command_status"] = Value::Null;
        document["rto"] = json!({"open_seconds": null, "command_seconds": null});
        document["why"] = json!("the image cannot be read: no");
        assert_eq!(
            report(&target, &document),
            "drill of db as of T (seq 7, write) FAILED: never opened, (the image cannot be read: no)"
        );
    }
}
