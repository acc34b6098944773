//! One file per verb.

mod allow;
mod completions;
mod demo;
mod diff;
mod drill;
mod explain;
mod export;
mod invite;
mod join;
mod man;
mod mark;
mod mount;
mod points;
mod protect;
mod restore;
mod retention;
mod rollback;
mod serve;
mod status;
mod verify;

use std::path::PathBuf;

use agent::priority;
use jiff::Zoned;
use journal::failpoint;
use receiver::when::When;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Cli, Global, Verb};
use crate::client::Client;
use crate::config::Config;
use crate::error::Failure;
use crate::output::Output;

/// The exit status, or the failure that holds it.
pub(crate) type Outcome = Result<u8, Failure>;

/// What every verb needs.
#[derive(Debug)]
pub(crate) struct Context {
    /// The flags of every verb.
    pub(crate) global: Global,
    /// Where words go.
    pub(crate) out: Output,
}

/// Does what was typed.
pub(crate) fn run(cli: Cli, out: Output) -> Outcome {
    let context = Context { global: cli.global, out };
    match cli.verb {
        Verb::Demo(args) => wait(demo::run(&context, &args)),
        Verb::Serve(args) => wait_behind(serve::run(&context, &args)),
        Verb::Invite(args) => wait(invite::run(&context, &args)),
        Verb::Join(args) => wait(join::run(&context, &args)),
        Verb::Protect(args) => wait_first(protect::run(&context, &args)),
        Verb::Agent(args) => wait_first(protect::run_config(&context, &args)),
        Verb::Status(args) => wait(status::run(&context, &args)),
        Verb::Points(args) => wait(points::run(&context, &args)),
        Verb::Mark(args) => wait(mark::run(&context, &args)),
        Verb::Allow(args) => wait(allow::run(&context, &args)),
        Verb::Restore(args) => wait(restore::run(&context, &args)),
        Verb::Rollback(args) => wait(rollback::run(&context, &args)),
        Verb::Drill(args) => wait(drill::run(&context, &args)),
        Verb::Diff(args) => wait(diff::run(&context, &args)),
        Verb::Export(args) => wait(export::run(&context, &args)),
        Verb::Mount(args) => wait(mount::run(&context, &args)),
        Verb::Unmount(args) => mount::run_unmount(&context, &args),
        Verb::Retention(args) => wait(retention::run(&context, &args)),
        Verb::Verify(args) => wait(verify::run(&context, &args)),
        Verb::Completions(args) => completions::run(&context, &args),
        Verb::Man(args) => man::run(&context, &args),
        Verb::Explain(args) => explain::run(&context, &args),
    }
}

impl Context {
    /// A client of the receiver on this machine.
    pub(crate) fn receiver(&self) -> Result<Client, Failure> {
        self.client(|config, _| vec![config.store().join("control.sock")])
    }

    /// A client of the agent on this machine.
    pub(crate) fn agent(&self) -> Result<Client, Failure> {
        self.client(|config, global| vec![config.state(global).join("agent.sock")])
    }

    /// A client of whichever runs on this machine; the receiver, if both do and no `--state` was given.
    pub(crate) fn either(&self) -> Result<Client, Failure> {
        self.client(|config, global| {
            let agent = config.state(global).join("agent.sock");
            if global.state.is_some() { vec![agent] } else { vec![config.store().join("control.sock"), agent] }
        })
    }

    /// An instant, in the text form of the control API.
    pub(crate) fn when(&self, text: &str) -> Result<String, Failure> {
        let when = When::parse(text, &Zoned::now()).map(|when| when.to_string());
        when.map_err(|error| {
            Failure::from_document(&error.json()).unwrap_or_else(|| Failure::caused("cannot read a time", &error))
        })
    }

    /// A verb that changes something and has no plan to show cannot honour `--dry-run`: it must not ignore it.
    pub(crate) fn refuse_dry_run(&self, verb: &str) -> Result<(), Failure> {
        match self.global.dry_run {
            true => Err(Failure::argument(format!("`{verb}` has no --dry-run"))
                .advise("leave it out; restore and rollback have it")),
            false => Ok(()),
        }
    }

    /// For tests: the steps at which this process is to end, or to fail. Whoever did not mean that is told.
    pub(crate) fn arm_failpoints(&self) -> Result<(), Failure> {
        let Some(steps) = std::env::var_os(failpoint::VARIABLE) else { return Ok(()) };
        let steps = steps.to_string_lossy();
        failpoint::arm(&steps).map_err(|error| {
            Failure::argument(error.to_string()).advise(format!("unset {}: it is for tests", failpoint::VARIABLE))
        })?;
        self.out.beside(&format!("{}={steps}: this process ends, or fails, at these steps", failpoint::VARIABLE));
        Ok(())
    }

    fn client(&self, sockets: impl Fn(&Config, &Global) -> Vec<PathBuf>) -> Result<Client, Failure> {
        match &self.global.socket {
            Some(socket) => Ok(Client::new(vec![socket.clone()])),
            None => Ok(Client::new(sockets(&Config::load(&self.global)?, &self.global))),
        }
    }
}

/// SIGTERM or SIGINT: a clean stop of what runs in the foreground.
pub(crate) fn stopped() -> Result<impl Future<Output = ()>, Failure> {
    let failed = |error| Failure::caused("cannot wait for signals", &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Each segment of 64 MiB of a receiver is an open file, and each volume of an agent some: as many as the system lets this process
/// have. The usual 1024 would be 64 GiB of history.
fn allow_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Raising it to what is allowed does not fail; if it did, opening the file beyond it would say so.
    _ = setrlimit(Resource::Nofile, limit);
}

/// Runs what waits for others.
fn wait(verb: impl Future<Output = Outcome>) -> Outcome {
    wait_on(|| {}, verb)
}

/// The same, with threads that give way to those which serve the protected system's writes.
fn wait_behind(verb: impl Future<Output = Outcome>) -> Outcome {
    wait_on(priority::behind, verb)
}

/// The same, where the calling thread starts those which serve.
fn wait_first(verb: impl Future<Output = Outcome>) -> Outcome {
    priority::first();
    wait_behind(verb)
}

fn wait_on(threads_are: fn(), verb: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(threads_are)
        .build()
        .map_err(|error| Failure::caused("cannot start threads", &error))?;
    runtime.block_on(verb)
}
