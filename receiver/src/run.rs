//! The receiver as a whole: what is started in which order, and how it ends.
//!
//! ```text
//!  start   lock DIR → catalog → groups (recovery) → control socket → QUIC → ready
//!  stop    QUIC closed, sessions end → exports and mounts end → control socket gone → images stop → writers drain, note the clean stop
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use journal::disk::Reserve;
use journal::wire::ReceiverId;
use link::Identity;
use quinn::{Endpoint, VarInt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::catalog::{Catalog, StoreDir, StoreId};
use crate::control::{self, App, Running, socket};
use crate::drill::{Drills, Stage, stage_dir};
use crate::error::{Error, Result};
use crate::export::{Holdings, Scratch, scratch_dir};
use crate::group::Groups;
use crate::retention::{Retention, Wanted, read_clocks};
use crate::session::Sessions;

/// How long sessions, and then clients of the control socket, may take to end. Both, and the writers' last fdatasync, fit
/// into the 10 s of a clean stop.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often it is looked whether there is room for the reserve.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The store; made if it is missing or empty.
    pub dir: PathBuf,
    /// Where agents come in: UDP.
    pub listen: SocketAddr,
    /// The control socket, `DIR/control.sock` unless it is elsewhere.
    pub control_socket: Option<PathBuf>,
    /// Whether replica images are kept.
    pub images: bool,
    /// How long what is kept, where a group says nothing of its own.
    pub retention: Wanted,
}

/// What is told once the receiver accepts.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Where agents come in, with the port that was chosen if none was asked for.
    pub listen: SocketAddr,
    /// Who it is.
    pub id: ReceiverId,
    /// The control socket.
    pub socket: PathBuf,
}

/// Serves until `shutdown`, then stops cleanly.
pub async fn serve(
    options: ServeOptions,
    on_ready: impl FnOnce(Ready),
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let ServeOptions { dir, listen, control_socket, images, retention } = options;
    let (groups, identity) = open(dir, images).await?;
    let retention = Arc::new(Retention::new(Arc::clone(&groups), retention, Box::new(read_clocks))?);
    let id = ReceiverId(identity.pin());
    let path = control_socket.unwrap_or_else(|| groups.catalog().dir().path().join("control.sock"));
    let (listener, socket) = socket::bind(&path)?;
    let endpoint = link::server_endpoint(&identity, listen)?;
    let listen = endpoint.local_addr()?;
    let (stop_control, stopped) = oneshot::channel::<()>();
    let holdings = Holdings::default();
    let app = App {
        groups: Arc::clone(&groups),
        holdings: holdings.clone(),
        drills: Drills::open(groups.catalog().dir().path())?,
        running: Running::default(),
        retention: Arc::clone(&retention),
        id,
        listen,
    };
    let router = control::router(app);
    let control = tokio::spawn(async move {
        let until = async { drop(stopped.await) };
        axum::serve(listener, router).with_graceful_shutdown(until).await
    });
    let sessions = Arc::new(Sessions::new(Arc::clone(&groups), id));
    let accepting = endpoint.clone();
    let accept = tokio::spawn(async move { sessions.accept(&accepting).await });
    let cleaning = retention.start()?;
    let keeper = tokio::spawn(keep(Arc::clone(groups.catalog().dir().reserve())));
    info!(%listen, receiver = %id, socket = %socket.path().display(), "ready");
    on_ready(Ready { listen, id, socket: socket.path().to_owned() });
    shutdown.await;
    info!("stopping");
    end_sessions(&endpoint, accept).await;
    end("what is exported and mounted", tokio::spawn(async move { holdings.stop().await })).await;
    // Its receiver is gone only if the API has ended by itself.
    let _ = stop_control.send(());
    // While somebody answers: who finds it dead may replace it.
    drop(socket);
    end("the control socket", control).await;
    keeper.abort();
    retention.stop();
    // Its writers are asked to help until it has ended.
    let cleaned = tokio::task::spawn_blocking(move || cleaning.join().is_ok());
    end("retention", cleaned).await;
    groups.stop().await;
    Ok(())
}

/// Opens the store and all groups.
async fn open(dir: PathBuf, images: bool) -> Result<(Arc<Groups>, Identity)> {
    let opened = tokio::task::spawn_blocking(move || {
        let dir = StoreDir::open(&dir, StoreId(link::random()))?;
        Scratch::clear(&scratch_dir(dir.path()))?;
        Stage::clear(&stage_dir(dir.path()));
        let identity = Identity::open(&dir.path().join("identity"))?;
        let groups = Groups::open(Catalog::open(dir)?, images)?;
        Ok((Arc::new(groups), identity))
    });
    opened.await.unwrap_or_else(|_| Err(Error::new(crate::error::Code::FAILED, "the store could not be opened")))
}

/// Looks after the reserve, and says when the disk is full and when it is not any more.
async fn keep(reserve: Arc<Reserve>) {
    let mut due = interval(KEEP_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_in_use = false;
    loop {
        due.tick().await;
        let kept = Arc::clone(&reserve);
        // A panic there was reported there.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || kept.tend()).await {
            warn!(%error, "the reserve cannot be looked after");
        }
        let (is_in_use, path) = (reserve.is_in_use(), reserve.path().display());
        match (was_in_use, is_in_use) {
            (false, true) => error!(%path, "the disk is full: what has to be written is written into the reserve"),
            (true, false) => warn!(%path, "the disk has room again"),
            _ => {}
        }
        was_in_use = is_in_use;
    }
}

async fn end_sessions(endpoint: &Endpoint, accept: JoinHandle<()>) {
    endpoint.close(VarInt::from_u32(0), b"stopping");
    end("sessions", accept).await;
    // Peers are told; those that do not hear it notice by themselves.
    let _ = tokio::time::timeout(PATIENCE, endpoint.wait_idle()).await;
}

/// Waits for a task, but not for ever.
async fn end<T>(what: &str, mut task: JoinHandle<T>) {
    if tokio::time::timeout(PATIENCE, &mut task).await.is_err() {
        warn!("{what} did not end in time");
        task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &std::path::Path) -> ServeOptions {
        let listen = "127.0.0.1:0".parse().unwrap();
        ServeOptions { dir: dir.to_owned(), listen, control_socket: None, images: true, retention: Wanted::default() }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_serves_until_told_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut ids = Vec::new();
        for _ in 0..2 {
            let (tell, ready) = oneshot::channel();
            let (stop, stopped) = oneshot::channel::<()>();
            let running = tokio::spawn(serve(options(dir.path()), move |ready| tell.send(ready).unwrap(), async {
                stopped.await.unwrap();
            }));
            let ready: Ready = ready.await.unwrap();
            assert_ne!(ready.listen.port(), 0);
            ids.push(ready.id);
            tokio::net::UnixStream::connect(&ready.socket).await.unwrap();
            let second = serve(options(dir.path()), |_| panic!("twice"), std::future::pending()).await;
            assert_eq!(second.unwrap_err().code().exit(), 11);
            stop.send(()).unwrap();
            running.await.unwrap().unwrap();
            assert!(!ready.socket.exists());
        }
        assert_eq!(ids[0], ids[1], "its identity stays");
    }
}
