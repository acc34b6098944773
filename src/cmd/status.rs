//! `status`: how the groups are, once, again and again, or for a monitoring system.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Context, Outcome};
use crate::args::Status;
use crate::client::Client;
use crate::error::Failure;
use crate::names::Name;
use crate::output::{Output, list, number, point, text};
use crate::units::{bytes, parse_duration, seconds};

pub(super) async fn run(context: &Context, args: &Status) -> Outcome {
    let group = args.group.as_deref().map(|group| Name::parse("a group", group)).transpose()?;
    let typed = |text: &Option<String>| text.as_deref().map(parse_duration).transpose();
    let limits = Typed { warn: typed(&args.warn)?, critical: typed(&args.crit)? };
    let client = context.either()?;
    if args.check {
        return check(context, ask(&client, group.as_ref()).await, limits);
    }
    loop {
        let document = ask(&client, group.as_ref()).await?;
        if !args.watch {
            context.out.result(&document, || table(&context.out, &document))?;
            return Ok(0);
        }
        let mut event = json!({"schema": 1, "event": "status"});
        event["groups"] = document["groups"].clone();
        context.out.result(&event, || table(&context.out, &document))?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn ask(client: &Client, group: Option<&Name>) -> Result<Value, Failure> {
    let query: Vec<(&str, String)> = group.map(|group| ("group", group.to_string())).into_iter().collect();
    client.get("/v1/status", &query).await
}

/// Ages of the oldest change that is not durable, as somebody wants them judged now.
#[derive(Clone, Copy, Debug, Default)]
struct Typed {
    warn: Option<Duration>,
    critical: Option<Duration>,
}

/// The same in seconds, as they count for one group.
#[derive(Clone, Copy, Debug)]
struct Limits {
    warn: f64,
    critical: f64,
}

/// For groups that have none of their own.
const WARN: f64 = 5.0;
const CRITICAL: f64 = 60.0;

impl Limits {
    /// What was typed, else what the group's config says.
    fn of(group: &Value, typed: Typed) -> Self {
        let limit = |typed: Option<Duration>, key: &str, default: f64| {
            let known = || group.get("rpo").and_then(|rpo| rpo.get(key)).and_then(Value::as_f64);
            typed.map(|limit| limit.as_secs_f64()).or_else(known).unwrap_or(default)
        };
        let critical = limit(typed.critical, "error_seconds", CRITICAL);
        Self { warn: limit(typed.warn, "warn_seconds", WARN), critical }
    }
}

/// In the order of monitoring plug-ins' exit codes, which is not the order of badness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    Warning,
    Critical,
    Unknown,
}

impl Level {
    /// What the plug-in says and exits with.
    fn shown(self) -> (&'static str, u8) {
        match self {
            Self::Ok => ("OK", 0),
            Self::Warning => ("WARNING", 1),
            Self::Critical => ("CRITICAL", 2),
            Self::Unknown => ("UNKNOWN", 3),
        }
    }

    fn badness(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Unknown => 1,
            Self::Warning => 2,
            Self::Critical => 3,
        }
    }
}

/// One line, and the exit codes of monitoring plug-ins; also when nobody can be asked.
fn check(context: &Context, answer: Result<Value, Failure>, limits: Typed) -> Outcome {
    let (level, about) = match &answer {
        Ok(document) => judge(list(document, "groups"), limits),
        Err(failure) => (Level::Unknown, text(&failure.document(), "message").unwrap_or("?").to_owned()),
    };
    let (word, exit) = level.shown();
    let groups = answer.as_ref().map_or_else(|_| json!([]), |document| document["groups"].clone());
    let document = json!({"schema": 1, "level": word.to_lowercase(), "message": about, "groups": groups});
    context.out.result(&document, || format!("BACKSPOOL {word} - {about}"))?;
    Ok(exit)
}

fn judge(groups: &[Value], limits: Typed) -> (Level, String) {
    let each: Vec<(Level, String)> =
        groups.iter().map(|group| (level(group, Limits::of(group, limits)), brief(group))).collect();
    let Some(worst) = each.iter().map(|&(level, _)| level).max_by_key(|level| level.badness()) else {
        return (Level::Unknown, "no groups".to_owned());
    };
    let about: Vec<String> = each.into_iter().map(|(_, about)| about).collect();
    (worst, about.join(", "))
}

fn level(group: &Value, limits: Limits) -> Level {
    let rpo = group.get("rpo_seconds").and_then(Value::as_f64);
    match (text(group, "state"), rpo) {
        (Some("halted" | "damaged" | "stopped"), _) => Level::Critical,
        (_, Some(rpo)) if rpo >= limits.critical => Level::Critical,
        (_, Some(rpo)) if rpo >= limits.warn => Level::Warning,
        (Some("live" | "behind"), Some(_)) => Level::Ok,
        // There are no new points meanwhile.
        (Some(_), _) => Level::Warning,
        (None, _) => Level::Unknown,
    }
}

fn brief(group: &Value) -> String {
    let rpo = group.get("rpo_seconds").and_then(Value::as_f64).map_or_else(|| "unknown".to_owned(), seconds);
    format!("{} {} rpo {rpo}", text(group, "name").unwrap_or("?"), text(group, "state").unwrap_or("?"))
}

fn table(out: &Output, document: &Value) -> String {
    let groups = list(document, "groups");
    if groups.is_empty() {
        return "no groups".to_owned();
    }
    groups.iter().map(|group| block(out, group)).collect::<Vec<_>>().join("\n")
}

/// A group: its head line, and what there is to say below it.
fn block(out: &Output, group: &Value) -> String {
    let state = text(group, "state").unwrap_or("?");
    let state = match state {
        "live" => out.paint.green(state),
        "halted" | "damaged" | "stopped" => out.paint.red(state),
        _ => out.paint.yellow(state),
    };
    let rpo = group.get("rpo_seconds").and_then(Value::as_f64).map_or_else(|| "unknown".to_owned(), seconds);
    let mut lines = vec![format!("{}  {state}  rpo {rpo}", out.paint.bold(text(group, "name").unwrap_or("?")))];
    lines.extend(text(group, "why").map(|why| format!("  why     {why}")));
    let lag = |key: &str| group.get("lag").and_then(|lag| lag.get(key)).and_then(Value::as_f64).map(seconds);
    if let (Some(p50), Some(p99), Some(max)) = (lag("p50_seconds"), lag("p99_seconds"), lag("max_seconds")) {
        lines.push(format!("  lag     p50 {p50}, p99 {p99}, max {max}"));
    }
    let store = number(group, "store_bytes").map(bytes);
    let window = group.get("window");
    let end = |key: &str| window.and_then(|window| text(window, key));
    match (end("from"), end("to")) {
        (Some(from), Some(to)) => lines.push(format!("  window  {from} … {to}")),
        // The agent does not know.
        _ if store.is_none() => {}
        _ => lines.push("  window  nothing is covered yet".to_owned()),
    }
    let spool = |key: &str| group.get("spool").and_then(|spool| number(spool, key)).map(bytes);
    // Without a session nobody knows.
    let has_spool = group.pointer("/spool/limit_bytes").and_then(Value::as_u64).is_some_and(|limit| limit > 0);
    if let (true, Some(used), Some(limit)) = (has_spool, spool("bytes"), spool("limit_bytes")) {
        lines.push(format!("  spool   {used} of {limit}"));
    }
    lines.extend(number(group, "limit_bytes_per_second").map(|limit| format!("  limit   {}/s", bytes(limit))));
    lines.extend(store.map(|store| format!("  store   {store}")));
    for volume in list(group, "volumes") {
        let mut about = vec![bytes(number(volume, "size_bytes").unwrap_or(0))];
        about.extend(text(volume, "tracker").map(str::to_owned));
        let held = if volume["image_held"] == true { " (held at a point: rollback --undo)" } else { "" };
        about.extend(text(volume, "image").map(|image| format!("image {image}{held}")));
        lines.push(format!("  volume  {}: {}", text(volume, "name").unwrap_or("?"), about.join(", ")));
    }
    lines.extend(
        group.get("last_drill").filter(|drill| drill.is_object()).map(|drill| format!("  drill   {}", drilled(drill))),
    );
    lines.extend(list(group, "exports").iter().map(|export| format!("  {}", exported(export))));
    lines.extend(number(group, "gaps_total").filter(|&gaps| gaps > 0).map(|gaps| format!("  gaps    {gaps}")));
    lines.join("\n")
}

/// The last drill: how it went, how long it took, of which point.
fn drilled(drill: &Value) -> String {
    let took = |key: &str| drill.get("rto").and_then(|rto| rto.get(key)).and_then(Value::as_f64).map(seconds);
    let ok = drill.get("ok").and_then(Value::as_bool) == Some(true);
    let mut about = vec![if ok { "passed".to_owned() } else { "FAILED".to_owned() }];
    about.extend(took("open_seconds").map(|took| format!("open after {took}")));
    about.extend(took("command_seconds").map(|took| format!("command {took}")));
    let at = point(drill.get("point").unwrap_or(&Value::Null));
    format!("{} at {}, of {at}", about.join(", "), text(drill, "time").unwrap_or("?"))
}

/// A view that is held: where, which, how long, by how many.
fn exported(export: &Value) -> String {
    let place = text(export, "where").unwrap_or("?");
    let kind = if text(export, "kind") == Some("mount") { "mount " } else { "export" };
    let Some(at) = export.get("point").filter(|at| at.is_object()) else { return format!("{kind}  {place}") };
    let held = seconds(export.get("held_seconds").and_then(Value::as_f64).unwrap_or(0.0));
    let clients = match number(export, "clients") {
        Some(1) => "1 client".to_owned(),
        clients => format!("{} clients", clients.unwrap_or(0)),
    };
    let mut about = vec![format!("held for {held}"), clients];
    let scratch = |key: &str| export.get("scratch").and_then(|scratch| number(scratch, key)).map(bytes);
    if let (Some(used), Some(limit)) = (scratch("bytes"), scratch("limit_bytes")) {
        about.push(format!("{used} of {limit} changed"));
    }
    let volume = text(export, "volume").unwrap_or("?");
    format!("{kind}  {volume} as of {} at {place}: {}", point(at), about.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Color, Global};

    #[track_caller]
    fn check(state: &str, rpo: Option<f64>, expect: Level) {
        let group = json!({"name": "db", "state": state, "rpo_seconds": rpo});
        assert_eq!(judge(&[group], Typed::default()).0, expect, "{state} {rpo:?}");
    }

    #[test]
    fn a_level_follows_state_and_age() {
        check("live", Some(0.0), Level::Ok);
        check("live", Some(4.9), Level::Ok);
        check("behind", Some(4.9), Level::Ok);
        check("behind", Some(5.0), Level::Warning);
        check("behind", Some(60.0), Level::Critical);
        check("seeding", Some(0.0), Level::Warning);
        check("resync", None, Level::Warning);
        check("spooling", Some(61.0), Level::Critical);
        check("stopped", None, Level::Critical);
        check("halted", Some(0.0), Level::Critical);
        check("damaged", Some(0.0), Level::Critical);
        assert_eq!(judge(&[], Typed::default()).0, Level::Unknown);
    }

    #[test]
    fn a_group_brings_its_own_limits_and_what_is_typed_counts_more() {
        let group = |rpo: f64| {
            let limits = json!({"warn_seconds": 1.0, "error_seconds": 2.0});
            json!({"name": "db", "state": "behind", "rpo_seconds": rpo, "rpo": limits})
        };
        let none = Typed::default();
        let levels = [0.9, 1.0, 2.0].map(|rpo| judge(&[group(rpo)], none).0);
        assert_eq!(levels, [Level::Ok, Level::Warning, Level::Critical]);
        let typed = Typed { critical: Some(Duration::from_secs(3)), ..none };
        let levels = [2.0, 3.0].map(|rpo| judge(&[group(rpo)], typed).0);
        assert_eq!(levels, [Level::Warning, Level::Critical]);
        // One of them is enough, and a receiver that does not know sends null.
        let half = json!({"name": "db", "state": "live", "rpo_seconds": 7.0, "rpo": {"warn_seconds": 10.0, "error_seconds": null}});
        assert_eq!(judge(&[half], none).0, Level::Ok);
    }

    #[test]
    fn the_worst_group_decides() {
        let group = |state: &str, rpo: f64| json!({"name": state, "state": state, "rpo_seconds": rpo});
        let (level, about) = judge(&[group("halted", 0.0), group("live", 0.0)], Typed::default());
        assert_eq!((level, about.as_str()), (Level::Critical, "halted halted rpo 0 s, live live rpo 0 s"));
    }

    #[test]
    fn a_group_is_told_in_a_block() {
        let out = Output::new(&Global { color: Color::Never, ..Global::default() });
        let document = json!({"groups": [{
            "name": "db", "state": "live", "rpo_seconds": 0.25, "why": null,
            "lag": {"p50_seconds": 0.001, "p99_seconds": 0.004, "max_seconds": 0.01},
            "window": {"from": "A", "to": "B"}, "spool": {"bytes": 0, "limit_bytes": 8_589_934_592_u64},
            "limit_bytes_per_second": 419_430_400, "store_bytes": 1024, "volumes": [{"name": "db", "size_bytes": 4096, "tracker": "tap", "image": null}],
            "exports": [
                {"kind": "mount", "where": "/mnt/t", "volume": null, "point": null},
                {"kind": "nbd", "where": "unix:/t", "volume": "db", "point": {"seq": 7, "time": "T", "class": "write", "mark": null},
                 "held_seconds": 2.0, "clients": 1, "scratch": {"bytes": 4096, "limit_bytes": 8192}}],
            "gaps_total": 1}]});
        assert_eq!(
            table(&out, &document),
            "db  live  rpo 250.0 ms\n  lag     p50 1.0 ms, p99 4.0 ms, max 10.0 ms\n  window  A … B\n  \
             spool   0 B of 8.0 GiB\n  limit   400.0 MiB/s\n  store   1.0 KiB\n  volume  db: 4.0 KiB, tap\n  mount   /mnt/t\n  \
             export  db as of T (seq 7, write) at unix:/t: held for 2.0 s, 1 client, 4.0 KiB of 8.0 KiB changed\n  gaps    1"
        );
    }
}
