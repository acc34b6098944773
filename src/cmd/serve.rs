//! `serve`: the receiver, until it is stopped.

use receiver::{Ready, ServeOptions, serve};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;

use super::{Context, Outcome, stopped};
use crate::args::Serve;
use crate::config::Config;
use crate::error::Failure;

pub(super) async fn run(context: &Context, args: &Serve) -> Outcome {
    context.refuse_dry_run("serve")?;
    let config = Config::load(&context.global)?;
    let listen = args.listen.as_ref().or(config.receiver.listen.as_ref()).map_or(LISTEN, String::as_str);
    let listen = listen.parse().map_err(|_| {
        Failure::argument(format!("{listen:?} is not where a receiver can listen"))
            .advise(format!("an address and a port, as in {LISTEN}"))
    })?;
    let options = ServeOptions {
        dir: args.dir.clone().unwrap_or_else(|| config.store()),
        listen,
        control_socket: context.global.socket.clone(),
        images: !args.no_images && config.receiver.images != Some(false),
    };
    allow_many_files();
    let out = context.out;
    let ready = move |Ready { listen, id, .. }: Ready| {
        let ready = json!({"event": "ready", "listen": listen.to_string(), "http": null, "id": id.to_string()});
        // Whoever started it may not read: that does not stop a receiver.
        _ = out.line(&ready.to_string());
    };
    let failed = |error: receiver::Error| {
        Failure::from_document(&error.json()).unwrap_or_else(|| Failure::caused("the receiver", &error))
    };
    serve(options, ready, stopped()?).await.map_err(failed)?;
    Ok(0)
}

const LISTEN: &str = "0.0.0.0:7440";

/// Each segment of 64 MiB is an open file: as many as the system lets this process have. The usual 1024 would be 64 GiB of history.
fn allow_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Raising it to what is allowed does not fail; if it did, opening the segment beyond it would say so.
    _ = setrlimit(Resource::Nofile, limit);
}
