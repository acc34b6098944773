//! `man`: the manual pages, made from the verbs as they are.

use clap::CommandFactory;
use serde_json::json;

use super::{Context, Outcome};
use crate::args::{Cli, Man};
use crate::error::Failure;

pub(super) fn run(context: &Context, args: &Man) -> Outcome {
    context.refuse_dry_run("man")?;
    let refused = |error: std::io::Error| Failure::caused(format!("cannot write into {}", args.dir.display()), &error);
    std::fs::create_dir_all(&args.dir).map_err(refused)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(refused)?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&args.dir).map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("backspool") && name.ends_with(".1") {
            files.push(path.display().to_string());
        }
    }
    files.sort();
    context.out.result(&json!({"schema": 1, "files": files}), || files.join("\n"))?;
    Ok(0)
}
