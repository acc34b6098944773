//! A server's life: who may have its address, what it leaves behind, how it ends.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;
#[path = "common/raw.rs"]
mod raw;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use common::{Memory, Served};
use nbd::limits::CONNECTIONS_MAX;
use nbd::{Address, BindError, ErrorCode, Export, RemoteClients, Server};
use raw::{FLUSH, READ, Raw};

fn disk() -> Vec<(String, Arc<dyn Export>)> {
    vec![("disk".to_owned(), Arc::new(Memory::new(1 << 20)))]
}

#[test]
fn a_unix_socket_is_private_and_goes_with_its_server() {
    let served = Served::new(vec![("disk", Arc::new(Memory::new(1 << 20)))]);
    let path = served.socket();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let address = Address::Unix(path.clone());
    let second = Server::bind(&address, disk(), RemoteClients::Refused);
    assert!(matches!(second, Err(BindError::InUse(in_use)) if in_use == address));
    Raw::attach(&served, false);
    served.running.shutdown();
    assert!(!path.exists());
    Server::bind(&address, disk(), RemoteClients::Refused).unwrap();
    assert!(!path.exists(), "also one that never served");
}

#[test]
fn what_a_killed_server_left_is_replaced_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nbd.sock");
    let address = Address::Unix(path.clone());
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let running = Server::bind(&address, disk(), RemoteClients::Refused).unwrap().start().unwrap();
    UnixStream::connect(&path).unwrap();
    // Somebody took the name away: it is no longer ours to remove.
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    running.shutdown();
    assert!(path.exists());

    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    let refused = Server::bind(&Address::Unix(file.clone()), disk(), RemoteClients::Refused);
    assert!(matches!(refused, Err(BindError::NotASocket(_))));
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    for bad in [directory.path().join("none/nbd.sock"), directory.path().join("x".repeat(120))] {
        let failed = Server::bind(&Address::Unix(bad), disk(), RemoteClients::Refused);
        assert!(matches!(failed, Err(BindError::Io { .. })));
    }
}

#[test]
fn tcp_only_on_loopback_unless_told() {
    let bind = |text: &str, remote| Server::bind(&text.parse().unwrap(), disk(), remote);
    let first = bind("127.0.0.1:0", RemoteClients::Refused).unwrap();
    assert!(matches!(bind(&first.address().to_string(), RemoteClients::Refused), Err(BindError::InUse(_))));
    assert!(matches!(bind("0.0.0.0:0", RemoteClients::Refused), Err(BindError::NotLoopback(_))));
    assert!(bind("0.0.0.0:0", RemoteClients::Allowed).is_ok());
}

/// Serves each client by something of its own, counts them, and turns them away when told.
#[derive(Default)]
struct Counting {
    inside: AtomicUsize,
    shut: AtomicBool,
}

struct Guest<'a>(&'a Counting);

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Export for Counting {
    fn size_bytes(&self) -> u64 {
        1 << 20
    }
    fn read(&self, _offset: u64, _buffer: &mut [u8]) -> Result<(), ErrorCode> {
        unreachable!("served without being let in")
    }
    fn attach(&self) -> Result<Option<Box<dyn Export + '_>>, ErrorCode> {
        if self.shut.load(Ordering::SeqCst) {
            return Err(ErrorCode::Shutdown);
        }
        self.inside.fetch_add(1, Ordering::SeqCst);
        Ok(Some(Box::new(Guest(self))))
    }
}

impl Export for Guest<'_> {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn read(&self, _offset: u64, buffer: &mut [u8]) -> Result<(), ErrorCode> {
        buffer.fill(7);
        Ok(())
    }
}

#[test]
fn a_client_is_served_what_it_was_given_until_it_goes() {
    let counting = Arc::new(Counting::default());
    let served = Served::new(vec![("disk", Arc::clone(&counting) as Arc<dyn Export>)]);
    let mut client = Raw::attach(&served, false);
    client.request(READ, 0, 9, 0, 512);
    assert_eq!(client.simple(), (0, 9));
    assert_eq!(client.receive(512), [7; 512]);
    assert_eq!(counting.inside.load(Ordering::SeqCst), 1);
    drop(client);
    let mut rounds = 0;
    while counting.inside.load(Ordering::SeqCst) > 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
        rounds += 1;
        assert!(rounds < 10_000, "it went");
    }
    counting.shut.store(true, Ordering::SeqCst);
    let mut late = Raw::attach(&served, false);
    assert_eq!(late.until_end(), [0; 0], "turned away");
}

#[test]
fn exports_must_be_told_apart() {
    struct Odd;
    impl Export for Odd {
        fn size_bytes(&self) -> u64 {
            0
        }
        fn min_block_bytes(&self) -> u32 {
            768
        }
        fn read(&self, _: u64, _: &mut [u8]) -> Result<(), ErrorCode> {
            Err(ErrorCode::Io)
        }
    }
    let long = vec![("x".repeat(4097), disk().remove(0).1)];
    let odd: Vec<(String, Arc<dyn Export>)> = vec![("odd".to_owned(), Arc::new(Odd))];
    for exports in [[disk(), disk()].concat(), long, odd] {
        let refused = Server::bind(&"127.0.0.1:0".parse().unwrap(), exports, RemoteClients::Refused);
        assert!(matches!(refused, Err(BindError::BadExport(_))));
    }
}

#[test]
fn one_client_too_many_is_turned_away() {
    let served = Served::new(vec![("disk", Arc::new(Memory::new(1 << 20)))]);
    let attach = |_| {
        let mut raw = Raw::attach(&served, false);
        // Once it is answered, it is counted.
        raw.request(FLUSH, 0, 1, 0, 0);
        assert_eq!(raw.simple(), (0, 1));
        raw
    };
    let clients: Vec<Raw> = (0..CONNECTIONS_MAX).map(attach).collect();
    assert_eq!(served.running.clients(), CONNECTIONS_MAX);
    let mut refused = Raw(UnixStream::connect(served.socket()).unwrap());
    assert!(refused.until_end().is_empty());
    drop(clients);
    // Their threads end in their own time; sooner or later there is room.
    while Raw(UnixStream::connect(served.socket()).unwrap()).0.peer_greets().is_none() {
        std::thread::yield_now();
    }
}

trait Greets {
    fn peer_greets(&mut self) -> Option<()>;
}

impl Greets for UnixStream {
    fn peer_greets(&mut self) -> Option<()> {
        std::io::Read::read_exact(self, &mut [0; 18]).ok()
    }
}

/// A volume whose flushes wait until they are let go.
struct Slow {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Slow {
    fn wait_for(&self, begun: usize) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |state| state.0 < begun).unwrap());
    }

    fn release(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

impl Export for Slow {
    fn size_bytes(&self) -> u64 {
        1 << 20
    }

    fn capabilities(&self) -> nbd::Capabilities {
        nbd::Capabilities::ALL
    }

    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), ErrorCode> {
        Ok(())
    }

    fn flush(&self) -> Result<(), ErrorCode> {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| !state.1).unwrap());
        Ok(())
    }
}

#[test]
fn a_shutdown_answers_what_was_begun_and_closes_the_idle() {
    let slow = Arc::new(Slow { state: Mutex::new((0, false)), changed: Condvar::new() });
    let served = Served::new(vec![("disk", slow.clone())]);
    let mut idle = Raw::attach(&served, false);
    let mut undecided = Raw::connect(&served);
    let mut busy = Raw::attach(&served, false);
    busy.request(FLUSH, 0, 1, 0, 0);
    slow.wait_for(1);
    // A slow request does not hold up the next one on its connection.
    busy.request(READ, 0, 2, 0, 512);
    assert_eq!(busy.simple(), (0, 2));
    busy.receive(512);
    busy.request(FLUSH, 0, 3, 0, 0);
    slow.wait_for(2);

    let Served { running, directory } = served;
    let stopping = std::thread::spawn(move || running.shutdown());
    assert!(idle.until_end().is_empty() && undecided.until_end().is_empty());
    slow.release();
    let mut answered = [busy.simple(), busy.simple()];
    answered.sort_unstable();
    assert_eq!(answered, [(0, 1), (0, 3)]);
    assert!(busy.until_end().is_empty());
    stopping.join().unwrap();
    assert!(!directory.path().join("nbd.sock").exists());
}
