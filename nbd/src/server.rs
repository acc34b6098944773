//! The threads: one accepts, one per client, and those that clients with many requests in flight get besides.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::os::fd::OwnedFd;

use crate::address::Address;
use crate::connection::{Connection, Exports, negotiate};
use crate::export::Export;
use crate::limits::{CONNECTIONS_MAX, NAME_BYTES_MAX, SHUTDOWN_PATIENCE};
use crate::listen::{BindError, Listener, RemoteClients};
use crate::pool::LARGE;
use crate::socket::Socket;

/// A server that has its address and serves nobody yet: clients that connect wait.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    shared: Arc<Shared>,
}

impl Server {
    /// Takes the address for these exports, each with the name clients ask for it by. A single one also answers to the
    /// empty name. A Unix socket gets mode 0600; the file of a server that was killed is replaced.
    pub fn bind(
        address: &Address,
        exports: Vec<(String, Arc<dyn Export>)>,
        remote: RemoteClients,
    ) -> Result<Self, BindError> {
        for (place, (name, export)) in exports.iter().enumerate() {
            let block = export.min_block_bytes();
            let twice = exports[..place].iter().any(|(other, _)| other == name);
            if twice || name.len() > NAME_BYTES_MAX || !block.is_power_of_two() || !(512..=4096).contains(&block) {
                return Err(BindError::BadExport(name.clone()));
            }
        }
        let failed = |source: rustix::io::Errno| BindError::Io { address: address.clone(), source: source.into() };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let listener = Listener::bind(address, remote)?;
        Ok(Self { listener, shared: Arc::new(Shared::new(exports, wake)) })
    }

    /// Where it listens: with the port it was given if that was 0.
    pub fn address(&self) -> &Address {
        &self.listener.address
    }

    /// Starts to serve.
    pub fn start(self) -> std::io::Result<Running> {
        let address = self.listener.address.clone();
        let shared = Arc::clone(&self.shared);
        let run = move || accept(&self.listener, &self.shared);
        let accepting = thread::Builder::new().name("nbd-accept".to_owned()).spawn(run)?;
        Ok(Running { address, shared, accepting: Mutex::new(Some(accepting)) })
    }
}

/// A server that serves. Dropping it is a shutdown.
#[derive(Debug)]
pub struct Running {
    address: Address,
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// How many clients are attached to an export now.
    pub fn clients(&self) -> usize {
        self.shared.attached.load(Ordering::Relaxed)
    }

    /// Stops: no new clients, no further requests; those in progress are finished and answered, those that take too long
    /// lose their client. Returns when all threads have ended and the socket's file is gone.
    pub fn shutdown(self) {
        self.stop();
    }

    /// The same for a server that somebody else still looks at.
    pub fn stop(&self) {
        // Held until it is over, so that a second caller returns no sooner.
        let mut accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(accepting) = accepting.take() else { return };
        self.shared.stopping.store(true, Ordering::Relaxed);
        // It fails only if a wake-up is there already.
        let _ = rustix::io::write(&self.shared.wake, &[1; 8]);
        let mut clients = self.shared.lock();
        clients.iter().for_each(|(_, socket)| socket.stop_receiving());
        let waited = self.shared.left.wait_timeout_while(clients, SHUTDOWN_PATIENCE, |clients| !clients.is_empty());
        clients = waited.unwrap_or_else(PoisonError::into_inner).0;
        clients.iter().for_each(|(_, socket)| socket.close());
        drop(clients);
        // It joins the threads of the clients. A panic of an export was reported by its own thread.
        let _ = accepting.join();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the threads share.
struct Shared {
    exports: Box<Exports>,
    stopping: AtomicBool,
    wake: OwnedFd,
    attached: AtomicUsize,
    /// Clients and their sockets, also those that have not chosen an export.
    clients: Mutex<Vec<(u64, Arc<Socket>)>>,
    /// A client went.
    left: Condvar,
}

impl Shared {
    fn new(exports: Vec<(String, Arc<dyn Export>)>, wake: OwnedFd) -> Self {
        Self {
            exports: exports.into_boxed_slice(),
            stopping: AtomicBool::new(false),
            wake,
            attached: AtomicUsize::new(0),
            clients: Mutex::new(Vec::new()),
            left: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Arc<Socket>)>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.exports.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Shared").field("exports", &names).field("attached", &self.attached).finish_non_exhaustive()
    }
}

/// The accepting thread: ends, after all its clients' threads, when the server stops.
fn accept(listener: &Listener, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let mut next_id = 0;
    while !shared.stopping() {
        let mut ready = [PollFd::new(&shared.wake, PollFlags::IN), PollFd::new(&listener.socket, PollFlags::IN)];
        let _ = poll(&mut ready, None);
        match listener.accept() {
            Ok(Some(socket)) => threads.extend(attach(shared, next_id, socket)),
            Ok(None) => {}
            // No descriptors or no memory: the client that waits keeps `poll` from waiting.
            Err(_) => {
                let _ = poll(&mut ready[..1], Some(&RETRY));
            }
        }
        next_id += 1;
        for ended in threads.extract_if(.., |thread| thread.is_finished()) {
            // A panic of an export was reported by its own thread, and has cost its client the connection.
            let _ = ended.join();
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// Gives a client its thread; one too many is turned away, its socket closed.
fn attach(shared: &Arc<Shared>, id: u64, socket: Socket) -> Option<JoinHandle<()>> {
    let socket = Arc::new(socket);
    {
        let mut clients = shared.lock();
        // Under the lock: a client added after the shutdown went through them would never be told.
        if clients.len() >= CONNECTIONS_MAX || shared.stopping() {
            return None;
        }
        clients.push((id, Arc::clone(&socket)));
    }
    let client = Client { shared: Arc::clone(shared), id };
    thread::Builder::new().name("nbd-client".to_owned()).spawn(move || client.serve(&socket)).ok()
}

/// A place among the clients, given back when dropped.
struct Client {
    shared: Arc<Shared>,
    id: u64,
}

impl Client {
    fn serve(&self, socket: &Socket) {
        let shared = &*self.shared;
        let Ok(Some((export, session))) = negotiate(socket, &shared.exports) else { return };
        let Ok(own) = export.attach() else { return };
        let export = own.as_deref().unwrap_or(export);
        shared.attached.fetch_add(1, Ordering::Relaxed);
        let _attached = Attached(&shared.attached);
        Connection::new(socket, export, session, &shared.stopping, &LARGE).serve();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.lock().retain(|(id, _)| *id != self.id);
        self.shared.left.notify_all();
    }
}

struct Attached<'a>(&'a AtomicUsize);

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

const RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
