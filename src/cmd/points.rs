//! `points`: the timeline of a group.

use serde_json::Value;

use super::{Context, Outcome};
use crate::args::Points;
use crate::names::Name;
use crate::output::{list, number, text};
use crate::units::bytes;

pub(super) async fn run(context: &Context, args: &Points) -> Outcome {
    let group = Name::parse("a group", &args.group)?;
    let mut query = vec![("group", group.to_string()), ("limit", args.limit.to_string())];
    for (key, when) in [("since", &args.since), ("until", &args.until)] {
        if let Some(when) = when {
            query.push((key, context.when(when)?));
        }
    }
    let document = context.receiver()?.get("/v1/points", &query).await?;
    context.out.result(&document, || timeline(&document))?;
    Ok(0)
}

/// Points and gaps in one list, by their place in the order.
fn timeline(document: &Value) -> String {
    let mut lines: Vec<(u64, String)> = Vec::new();
    for point in list(document, "points") {
        let seq = number(point, "seq").unwrap_or(0);
        let mark = text(point, "mark").map(|name| format!("  mark:{name}")).unwrap_or_default();
        let (time, class) = (text(point, "time").unwrap_or("?"), text(point, "class").unwrap_or("?"));
        lines.push((seq, format!("{time}  seq:{seq:<12}  {class}{mark}")));
    }
    for gap in list(document, "gaps") {
        let from = number(gap, "from_seq").unwrap_or(0);
        let end = text(gap, "to").map_or_else(|| "and still open".to_owned(), |to| format!("to {to}"));
        let (time, reason) = (text(gap, "from").unwrap_or("?"), text(gap, "reason").unwrap_or("?"));
        lines.push((from, format!("{time}  seq:{from:<12}  no points from here {end}: {reason}")));
    }
    for one in list(document, "resizes") {
        let size = |key: &str| bytes(number(one, key).unwrap_or(0));
        let (seq, time) = (number(one, "seq").unwrap_or(0), text(one, "time").unwrap_or("?"));
        let (from, to) = (size("from_bytes"), size("to_bytes"));
        lines.push((
            seq,
            format!("{time}  seq:{seq:<12}  {} has {to} from here, it had {from}", text(one, "volume").unwrap_or("?")),
        ));
    }
    lines.sort_by_key(|&(seq, _)| seq);
    let mut lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
    if document.get("truncated").and_then(Value::as_bool) == Some(true) {
        lines.insert(0, "… older ones are left out: --limit, --until".to_owned());
    }
    if lines.is_empty() { "no points".to_owned() } else { lines.join("\n") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::timeline;

    #[test]
    fn points_and_gaps_stand_in_their_order() {
        let document = json!({"schema": 1, "truncated": true, "points": [
            {"seq": 5, "time": "T5", "class": "write", "mark": null},
            {"seq": 9, "time": "T9", "class": "write", "mark": "m"}],
            "gaps": [{"from_seq": 6, "to_seq": 8, "from": "T6", "to": "T8", "reason": "unclean start"}],
            "resizes": [{"seq": 7, "time": "T7", "volume": "db", "from_bytes": 4096, "to_bytes": 1024}]});
        assert_eq!(
            timeline(&document),
            "… older ones are left out: --limit, --until\nT5  seq:5             write\n\
             T6  seq:6             no points from here to T8: unclean start\n\
             T7  seq:7             db has 1.0 KiB from here, it had 4.0 KiB\nT9  seq:9             write  mark:m"
        );
        assert_eq!(timeline(&json!({"points": [], "gaps": []})), "no points");
    }
}
