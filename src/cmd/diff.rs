//! `diff`: what differs between two points.

use serde_json::{Value, json};

use super::{Context, Outcome};
use crate::args::Diff;
use crate::error::Failure;
use crate::job;
use crate::names::Target;
use crate::output::{list, number, point, text};
use crate::units::bytes;

/// Written to stdout at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// A run of bytes that differ: the place of its volume among the names, offset, length.
type Run = (usize, u64, u64);

pub(super) async fn run(context: &Context, args: &Diff) -> Outcome {
    let target = Target::parse(&args.target)?;
    let body = json!({
        "group": target.group.as_str(), "volume": target.volume.as_ref().map(ToString::to_string),
        "from": context.when(&args.from)?, "to": context.when(&args.to)?, "nearest": args.nearest, "map": args.map,
    });
    let client = context.receiver()?;
    // For programs one document has them all; for people each is said as it comes.
    let (mut names, mut runs): (Vec<String>, Vec<Run>) = (Vec::new(), Vec::new());
    let document = job::run_with(context, &client, "/v1/diff", &body, |part| match context.out.json() {
        true => {
            let name = text(part, "volume").unwrap_or("?");
            if names.last().is_none_or(|last| last != name) {
                names.push(name.to_owned());
            }
            runs.extend(extents(part).map(|(offset, length)| (names.len() - 1, offset, length)));
            Ok(())
        }
        false => context.out.bytes(lines(part).as_bytes()),
    })
    .await?;
    match context.out.json() {
        true => write_document(context, document, &names, &runs)?,
        false => context.out.line(&report(&target, &document))?,
    }
    Ok(0)
}

fn extents(part: &Value) -> impl Iterator<Item = (u64, u64)> {
    let number = |extent: &Value, place: usize| extent.get(place).and_then(Value::as_u64).unwrap_or(0);
    list(part, "extents").iter().map(move |extent| (number(extent, 0), number(extent, 1)))
}

/// Offset and length in bytes, and whose they are.
fn lines(part: &Value) -> String {
    let name = text(part, "volume").unwrap_or("?");
    extents(part).map(|(offset, length)| format!("{offset:>16} {length:>12}  {name}\n")).collect()
}

/// The document on one line, a piece at a time: there may be millions of extents.
fn write_document(context: &Context, mut document: Value, names: &[String], runs: &[Run]) -> Result<(), Failure> {
    if let Some(map) = document.as_object_mut() {
        map.remove("extents");
    }
    let document = document.to_string();
    let mut chunk = format!("{},\"extents\":[", document.strip_suffix('}').unwrap_or(&document));
    for (place, (name, offset, length)) in runs.iter().enumerate() {
        let volume = names.get(*name).map_or("?", String::as_str);
        let extent = json!({"offset_bytes": offset, "length_bytes": length, "volume": volume});
        chunk.push_str(if place == 0 { "" } else { "," });
        chunk.push_str(&extent.to_string());
        if chunk.len() >= CHUNK_BYTES {
            context.out.bytes(chunk.as_bytes())?;
            chunk.clear();
        }
    }
    chunk.push_str("]}\n");
    context.out.bytes(chunk.as_bytes())
}

fn report(target: &Target, document: &Value) -> String {
    let at = |key: &str| point(document.get(key).unwrap_or(&Value::Null));
    let volumes = list(document, "volumes");
    let mut text = format!("{target} from {} to {}", at("from"), at("to"));
    if volumes.len() == 1 {
        for volume in volumes {
            text.push_str(&format!(": {}", of_volume(volume)));
        }
        return text;
    }
    let count = |key: &str| number(document, key).unwrap_or(0);
    text.push_str(&format!(": {}", amount(count("bytes"), count("blocks"), count("extents_total"), None)));
    for volume in volumes {
        text.push_str(&format!("\n  {}: {}", crate::output::text(volume, "name").unwrap_or("?"), of_volume(volume)));
    }
    text
}

fn of_volume(volume: &Value) -> String {
    let (from, to) = (number(volume, "from_bytes"), number(volume, "to_bytes"));
    let count = |key: &str| number(volume, key).unwrap_or(0);
    let whole = from.max(to).unwrap_or(0);
    let mut text = amount(count("bytes"), count("blocks"), count("extents_total"), Some(whole));
    match (from, to) {
        (Some(from), Some(to)) if from != to => {
            text.push_str(&format!("; it had {} and has {}", bytes(from), bytes(to)));
        }
        (None, _) => text.push_str("; it was not there at the first point"),
        (_, None) => text.push_str("; it is not there at the second point"),
        _ => {}
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
fn amount(size: u64, blocks: u64, extents: u64, whole: Option<u64>) -> String {
    if size == 0 {
        return "nothing differs".to_owned();
    }
    let share = whole.filter(|&whole| whole > 0);
    let share = share.map(|whole| format!(", {:.2} % of {}", size as f64 * 100.0 / whole as f64, bytes(whole)));
    format!("{} in {blocks} blocks, {extents} extents{} differ", bytes(size), share.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(volumes: Value) -> Value {
        let at = |seq: u64| json!({"seq": seq, "time": format!("T{seq}"), "class": "write", "mark": null});
        json!({"schema": 1, "from": at(3), "to": at(7), "bytes": 8192, "blocks": 2, "extents_total": 1, "volumes": volumes})
    }

    #[test]
    fn a_report_says_how_much_of_what() {
        let target = Target::parse("db").unwrap();
        let volume = |name: &str, from: Option<u64>, to: Option<u64>, bytes: u64| {
            json!({"name": name, "from_bytes": from, "to_bytes": to, "bytes": bytes, "blocks": bytes / 4096,
                "extents_total": u64::from(bytes > 0)})
        };
        let one = document(json!([volume("data", Some(1 << 20), Some(1 << 20), 8192)]));
        let points = "db from T3 (seq 3, write) to T7 (seq 7, write)";
        assert_eq!(
            report(&target, &one),
            format!("{points}: 8.0 KiB in 2 blocks, 1 extents, 0.78 % of 1.0 MiB differ")
        );
        let two = document(json!([volume("a", Some(1 << 20), Some(1 << 10), 0), volume("b", None, Some(16384), 8192)]));
        assert_eq!(
            report(&target, &two),
            format!(
                "{points}: 8.0 KiB in 2 blocks, 1 extents differ\n  a: nothing differs; it had 1.0 MiB and has 1.0 KiB\n  \
                 b: 8.0 KiB in 2 blocks, 1 extents, 50.00 % of 16.0 KiB differ; it was not there at the first point"
            )
        );
    }
}
