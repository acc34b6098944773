//! `serve`: the receiver, until it is stopped.

use receiver::{Ready, ServeOptions, serve};
use serde_json::json;

use super::{Context, Outcome, allow_many_files, stopped};
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
        retention: config.receiver.retention.said()?,
    };
    context.arm_failpoints()?;
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
