//! `retention`: what is kept of a group, for how long, and who said so.

use serde_json::{Value, json};

use super::{Context, Outcome};
use crate::args::Retention;
use crate::names::Name;
use crate::output::{number, text};
use crate::units::{bytes, parse_keep, seconds};

/// The values by their names in the documents and as flags.
const VALUES: [(&str, &str); 4] =
    [("every_write", "every write"), ("every_minute", "every minute"), ("hourly", "hourly"), ("marks", "marks")];

pub(super) async fn run(context: &Context, args: &Retention) -> Outcome {
    let group = Name::parse("a group", &args.group)?;
    let typed = [&args.every_write, &args.every_minute, &args.hourly, &args.marks];
    let mut body = json!({"group": group.as_str(), "trust_clock": args.trust_clock, "dry_run": true});
    for (value, (key, _)) in typed.into_iter().zip(VALUES) {
        if let Some(value) = value {
            body[format!("{key}_seconds")] = json!(parse_keep(value)?);
        }
    }
    let client = context.receiver()?;
    let sets = typed.into_iter().any(Option::is_some);
    if !sets && !args.trust_clock {
        context.refuse_dry_run("retention")?;
        let document = client.get("/v1/retention", &[("group", group.to_string())]).await?;
        context.out.result(&document, || shown(&document, args.explain))?;
        return Ok(0);
    }
    // What it comes to is shown before anything is given up.
    let plan = client.post("/v1/retention", &body).await?;
    if context.global.dry_run {
        context.out.result(&plan, || format!("{}\nnothing was changed", planned(&plan)))?;
        return Ok(0);
    }
    if plan["shortens"] == true || args.trust_clock {
        if !context.global.yes && sets {
            context.out.beside(&planned(&plan));
        }
        let question = match (sets, args.trust_clock) {
            (true, _) => format!("Keep less of {group}? What is not kept any more cannot be brought back."),
            (false, _) => "Is the clock of this machine right? History expires by it.".to_owned(),
        };
        context.out.confirm(&context.global, &question)?;
    }
    body["dry_run"] = json!(false);
    let document = client.post("/v1/retention", &body).await?;
    context.out.result(&document, || shown(&document, args.explain))?;
    Ok(0)
}

fn kept(document: &Value, explain: bool) -> Vec<String> {
    let Some(keeps) = document.get("keeps").filter(|keeps| !keeps.is_null()) else {
        return vec!["everything is kept: no retention is set for this group, nor in the config file".to_owned()];
    };
    let line = |(key, name): (&str, &str)| {
        let value = keeps.get(key)?;
        let length = value.get("seconds").and_then(Value::as_f64).map(|length| match length {
            0.0 => "not kept".to_owned(),
            length => seconds(length),
        })?;
        let from = match text(value, "from")? {
            "group" => "set for this group",
            "config" => "from the config file",
            _ => "the default",
        };
        Some(if explain { format!("{name:<13} {length}  ({from})") } else { format!("{name:<13} {length}") })
    };
    VALUES.into_iter().filter_map(line).collect()
}

fn shown(document: &Value, explain: bool) -> String {
    let mut lines = kept(document, explain);
    lines.extend(text(document, "horizon").map(|from| format!("oldest point  {from}")));
    lines.extend(text(document, "every_write_from").map(|from| format!("every write   from {from}")));
    let count = |key: &str| number(document, key).unwrap_or(0);
    lines.push(format!("store         {}", bytes(count("store_bytes"))));
    if explain {
        lines.push(format!("points        {} before that", count("points")));
        lines.push(format!(
            "thinned       {}, of which no point sees {}",
            bytes(count("thinned_bytes")),
            bytes(count("dead_bytes"))
        ));
        lines.push(format!(
            "cleaned       {} freed, {} written for it",
            bytes(count("freed_bytes")),
            bytes(count("rewritten_bytes"))
        ));
    }
    let clock = document.get("clock").and_then(|clock| text(clock, "why"));
    let why = text(document, "why").filter(|why| Some(*why) != clock);
    lines.extend(clock.into_iter().chain(why).map(|why| format!("why           {why}")));
    lines.join("\n")
}

fn planned(plan: &Value) -> String {
    let mut lines = kept(plan, true);
    if let Some(left) = plan.get("left").filter(|left| !left.is_null()) {
        let time = |key: &str| text(left, key).unwrap_or("?").to_owned();
        let points = number(left, "points").unwrap_or(0);
        lines.push(format!("oldest point  {} (now {})", time("horizon"), time("horizon_before")));
        lines.push(format!("every write   from {}, {points} points before that", time("every_write_from")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_told_with_who_said_so() {
        let document = json!({
            "schema": 1, "keeps": {"every_write": {"seconds": 86400, "from": "group"}, "every_minute": {"seconds": 0, "from": "config"},
            "hourly": {"seconds": 2_592_000, "from": "default"}, "marks": {"seconds": 31_536_000, "from": "default"}},
            "horizon": "T1", "every_write_from": "T2", "store_bytes": 4096, "points": 3, "thinned_bytes": 2048, "dead_bytes": 1024,
            "freed_bytes": 10, "rewritten_bytes": 5, "clock": {"trusted": false, "why": "it jumped"}, "why": "it jumped"});
        let short = shown(&document, false);
        assert_eq!(
            short,
            "every write   24 h 00 min\nevery minute  not kept\nhourly        30.0 d\nmarks         365.0 d\noldest point  T1\n\
             every write   from T2\nstore         4.0 KiB\nwhy           it jumped"
        );
        let long = shown(&document, true);
        assert!(long.contains("every write   24 h 00 min  (set for this group)"), "{long}");
        assert!(long.contains("thinned       2.0 KiB, of which no point sees 1.0 KiB"), "{long}");
        assert!(shown(&json!({"keeps": null}), true).starts_with("everything is kept"));
    }
}
