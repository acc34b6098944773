//! Runs the agent: all threads, tasks and channels are started here, and end here, in order.
//!
//! ```text
//!  start: groups (sources, spool, epoch) ─▶ taps ─▶ control socket ─▶ sender ─▶ "ready"
//!  stop:  taps ─▶ capture ─▶ what is left is sent, for a while ─▶ spools, proofs of the sources
//! ```

mod alarm;
mod begin;
mod crash;
mod group;
mod hot;
mod ladder;
pub mod lineage;
mod look;
mod mark;
pub mod opening;
mod rates;
mod report;
mod rollback;
pub mod rungs;
mod switch;
pub mod unread;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use journal::disk::Reserve;
use nbd::{Address, BindError, RemoteClients, Running, Server};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

pub use alarm::Rpo;
pub use begin::GroupOptions;
pub(crate) use crash::Verdicts;
pub(crate) use group::{Group, Link};
pub(crate) use mark::Unmarked;
pub(crate) use report::Condition;
pub use rollback::ALLOW_MAX;
pub(crate) use rollback::{Denied, Turn};

use crate::control::Control;
use crate::join;
use crate::sender;
use crate::{Error, Result};

/// How long what is left may take to be sent when the agent stops. With what ends after it, less than 10 s.
const GOODBYE: Duration = Duration::from_secs(5);
/// How often it is remembered how far the receiver is: only so that its losses are noticed.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether there is room for the reserve.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether a group that only tracks changes can record them again.
const CLIMB_EVERY: Duration = Duration::from_millis(100);

/// What to protect, and how.
#[derive(Clone, Debug)]
pub struct ProtectOptions {
    /// The agent's directory.
    pub state_dir: PathBuf,
    /// The groups.
    pub groups: Vec<GroupOptions>,
    /// Where volumes are served, by group and volume; those that are not in here: on `STATE/VOLUME.sock`.
    pub nbd: BTreeMap<(String, String), Address>,
    /// Whether clients on other machines may connect.
    pub remote: RemoteClients,
    /// Where the agent answers; `None`: on `STATE/agent.sock`.
    pub socket: Option<PathBuf>,
}

/// What a watcher of the process is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The taps accept clients, and what they write is captured.
    Ready {
        /// What is served where.
        volumes: Vec<Served>,
        /// Where the agent answers.
        socket: PathBuf,
    },
    /// It has stopped.
    Stopped,
}

/// A volume that is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Served {
    /// Its group.
    pub group: String,
    /// Its name, which is the export's too.
    pub volume: String,
    /// `unix:PATH` or `HOST:PORT`.
    pub nbd: String,
}

/// Protects the groups until `shutdown` is done, then stops cleanly. Needs a tokio runtime; one worker thread is enough.
///
/// # Errors
/// What keeps it from starting, and a receiver that refuses for good before it ever took a group. Later refusals do not end it: the
/// clients of the taps have no other way to their volumes.
pub async fn protect(
    options: ProtectOptions,
    events: impl Fn(Event),
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let peer = join::peer(&options.state_dir)?;
    let identity = join::identity(&options.state_dir)?;
    let (options, reserve, groups) = blocking(move || {
        let reserve = Arc::new(Reserve::open(&options.state_dir)?);
        let groups = options.groups.iter().map(|group| Group::start(&options.state_dir, &reserve, group).map(Arc::new));
        let groups: Vec<_> = groups.collect::<Result<_>>()?;
        Ok((options, reserve, groups))
    })
    .await?;
    let socket = options.socket.clone().unwrap_or_else(|| options.state_dir.join("agent.sock"));
    let opened = match serve(&options, &groups) {
        Ok(served) => Control::start(&socket, peer.pin, groups.clone()).map(|control| (served, control)),
        Err(error) => Err(error),
    };
    let ((taps, volumes), control) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // Nobody was served: what the last stop proved still holds, and is remembered again.
            groups.iter().for_each(|group| group.close());
            blocking(move || finish(&groups)).await?;
            return Err(error);
        }
    };
    let (stop, stopping) = watch::channel(false);
    let mut sender = tokio::spawn(sender::run(identity, peer, groups.clone(), stopping));
    let saver = tokio::spawn(save(groups.clone()));
    let looker = tokio::spawn(look::run(groups.clone()));
    let tender = tokio::spawn(hot::tend(groups.clone()));
    let climber = tokio::spawn(climb(groups.clone()));
    let keeper = tokio::spawn(keep(reserve));
    events(Event::Ready { volumes, socket });

    let refused = tokio::select! {
        () = shutdown => None,
        error = refused_at_start(&mut sender, &groups) => Some(error),
    };
    climber.abort();
    // Clients are let go before capture ends: whatever they were answered is captured. None waits for a receiver any more.
    groups.iter().for_each(|group| group.end_waiting());
    blocking(move || {
        drop(taps);
        Ok(())
    })
    .await?;
    groups.iter().for_each(|group| group.close());
    // It fails only if the sender has ended.
    let _ = stop.send(true);
    let connected = groups.iter().any(|group| group.link().borrow().connected);
    if !connected || timeout(GOODBYE, &mut sender).await.is_err() {
        sender.abort();
    }
    saver.abort();
    looker.abort();
    tender.abort();
    keeper.abort();
    control.stop().await;
    blocking(move || finish(&groups)).await?;
    events(Event::Stopped);
    refused.map_or(Ok(()), Err)
}

/// Ends the runs, every one of them, whatever becomes of the others.
fn finish(groups: &[Arc<Group>]) -> Result<()> {
    let ended: Vec<_> = groups.iter().map(|group| group.finish()).collect();
    ended.into_iter().collect()
}

/// Ends only when the sender was refused for good, and nothing was ever sent.
async fn refused_at_start(sender: &mut JoinHandle<Result<()>>, groups: &[Arc<Group>]) -> Error {
    let ended = sender.await;
    let error = match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(error) => Some(Error::unavailable("the sender failed").with_source(error)),
    };
    match error {
        Some(error) if !groups.iter().any(|group| group.was_connected()) => error,
        _ => std::future::pending().await,
    }
}

/// Opens the taps. Volumes with one address share a server.
fn serve(options: &ProtectOptions, groups: &[Arc<Group>]) -> Result<(Vec<Running>, Vec<Served>)> {
    let mut servers: Vec<(Address, Vec<_>)> = Vec::new();
    let mut volumes = Vec::new();
    for (group, volume) in groups.iter().flat_map(|group| group.volumes().iter().map(move |volume| (group, volume))) {
        let chosen = options.nbd.get(&(group.name().to_owned(), volume.name.clone())).cloned();
        let own = || Address::Unix(options.state_dir.join(format!("{}.sock", volume.name)));
        let address = chosen.unwrap_or_else(own);
        let export = (volume.name.clone(), switch::export(&volume.switch));
        volumes.push((group.name().to_owned(), volume.name.clone(), address.clone()));
        match servers.iter_mut().find(|(known, _)| *known == address) {
            Some((_, exports)) => exports.push(export),
            None => servers.push((address, vec![export])),
        }
    }
    let mut taps = Vec::new();
    for (address, exports) in servers {
        let server = Server::bind(&address, exports, options.remote).map_err(|error| no_tap(&address, error))?;
        let bound = server.address().clone();
        volumes.iter_mut().filter(|(.., at)| *at == address).for_each(|(.., at)| *at = bound.clone());
        taps.push(server.start()?);
    }
    let served = volumes.into_iter().map(|(group, volume, nbd)| Served { group, volume, nbd: nbd.to_string() });
    Ok((taps, served.collect()))
}

/// Why a tap cannot listen, by what has to be done about it.
fn no_tap(address: &Address, error: BindError) -> Error {
    match error {
        BindError::InUse(_) => Error::locked(error.to_string()),
        BindError::Io { source, .. } => Error::from(source).context(format!("cannot listen on {address}")),
        BindError::BadExport(name) => Error::invalid(format!(
            "two volumes are called {name} on {address}: give each an address of its own (`nbd`)"
        )),
        _ => Error::invalid(error.to_string()),
    }
}

async fn save(groups: Vec<Arc<Group>>) {
    let mut due = interval(SAVE_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let groups = groups.clone();
        if let Err(error) = blocking(move || groups.iter().try_for_each(|group| group.save_durable())).await {
            tracing::error!(?error, "the state cannot be written");
        }
    }
}

/// Looks after the reserve, and says when the disk is full and when it is not any more.
async fn keep(reserve: Arc<Reserve>) {
    let mut due = interval(KEEP_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_in_use = false;
    loop {
        due.tick().await;
        let kept = Arc::clone(&reserve);
        if let Err(error) = blocking(move || kept.tend()).await {
            tracing::error!(?error, "the reserve cannot be looked after");
        }
        let (is_in_use, path) = (reserve.is_in_use(), reserve.path().display());
        match (was_in_use, is_in_use) {
            (false, true) => {
                tracing::error!(%path, "the disk is full: what has to be written is written into the reserve");
            }
            (true, false) => tracing::warn!(%path, "the disk has room again"),
            _ => {}
        }
        was_in_use = is_in_use;
    }
}

async fn climb(groups: Vec<Arc<Group>>) {
    let mut due = interval(CLIMB_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let groups = groups.clone();
        let climbed = blocking(move || {
            groups.iter().for_each(|group| group.observe());
            groups.iter().try_for_each(|group| group.climb().and_then(|()| group.end_what_is_over()))
        });
        if let Err(error) = climbed.await {
            tracing::error!(?error, "changes cannot be recorded again yet");
            sleep(SAVE_EVERY).await;
        }
    }
}

/// Runs what reads and writes files on a thread that may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(|error| Error::unavailable("a thread failed").with_source(error))?
}
