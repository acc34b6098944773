//! `export`: a volume as it was at an instant, over NBD, until stopped.

use std::path::Path;

use agent::Address;
use serde_json::{Value, json};

use super::{Context, Outcome};
use crate::args::Export;
use crate::error::Failure;
use crate::names::Target;
use crate::output::{number, point, text};
use crate::serving;
use crate::units::{bytes, parse_size};

pub(super) async fn run(context: &Context, args: &Export) -> Outcome {
    context.refuse_dry_run("export")?;
    let target = Target::parse(&args.target)?;
    let nbd = address(&args.nbd)?;
    let client = context.receiver()?;
    let release = json!({"group": target.group.as_str(), "kind": "nbd", "where": nbd});
    let Some(at) = args.at.as_deref() else {
        let document = client.post("/v1/release", &release).await?;
        context.out.result(&document, || format!("{nbd} is served no more"))?;
        return Ok(0);
    };
    let body = json!({
        "group": target.group.as_str(), "volume": target.volume.as_ref().map(ToString::to_string),
        "at": context.when(at)?, "nearest": args.nearest, "nbd": nbd, "remote": args.nbd_remote,
        "writable": args.writable, "scratch_bytes": args.scratch_size.as_deref().map(parse_size).transpose()?,
    });
    serving::run(context, &client, "/v1/export", &body, &release, |ready| told(&target, ready)).await
}

/// The receiver listens, and it runs elsewhere than here.
fn address(typed: &str) -> Result<String, Failure> {
    let address: Address = typed.parse().map_err(|error| Failure::argument(format!("{error}")))?;
    let Address::Unix(path) = &address else { return Ok(address.to_string()) };
    let path = std::path::absolute(path).map_err(|error| Failure::caused("cannot tell where --nbd is", &error))?;
    let path = Path::to_str(&path).ok_or_else(|| Failure::argument("--nbd must be UTF-8"))?;
    Ok(format!("unix:{path}"))
}

fn told(target: &Target, ready: &Value) -> String {
    let at = point(ready.get("point").unwrap_or(&Value::Null));
    let size = bytes(number(ready, "size_bytes").unwrap_or(0));
    let how = match number(ready, "scratch_limit_bytes") {
        Some(limit) => format!("writable, up to {} of changes", bytes(limit)),
        None => "read-only".to_owned(),
    };
    format!("{target} as of {at}, {size}, {how}: {}", text(ready, "uri").unwrap_or("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_named_so_that_another_process_finds_it() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(address("unix:a.sock").unwrap(), format!("unix:{}/a.sock", here.display()));
        assert_eq!(address("unix:/a.sock").unwrap(), "unix:/a.sock");
        assert_eq!(address("localhost:10809").unwrap(), "localhost:10809");
        assert_eq!(address("a.sock").unwrap_err().exit(), 2);
    }
}
