//! Unix sockets that listen: for their owner only, never in the way of somebody alive, gone after a clean stop.
//!
//! ```text
//!   bind to a name of our own ─▶ mode 0600 ─▶ listen ─▶ the name that was asked for, in one step
//! ```
//!
//! **Invariant:** whoever sees the file can connect, and nobody but its owner ever could, whatever the umask is.
//! **Invariant:** of several that want a name at once one gets it, and the file of somebody who answers is never removed.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, fstat, open, renameat, statat};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen as start, socket_with,
};

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers there, or it is not ours to ask.
    #[error("somebody answers on {} already", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket has the name: it is left alone.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The system said no.
    #[error("cannot listen on {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// The file of a socket that listens. Dropped, it is removed if it is still that one: drop it before its listener, so that nobody
/// takes it for dead meanwhile.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Holds the inode, so that its number is nobody else's.
    file: OwnedFd,
}

/// Listens on `path`, without blocking in `accept`. The file that a killed process left behind is replaced.
///
/// # Errors
/// As [`ListenError`] says; nothing has changed then.
pub fn listen(path: &Path) -> Result<(UnixListener, SocketFile), ListenError> {
    let failed = |source: io::Error| ListenError::Io { path: path.to_owned(), source };
    let fresh = own_name(path);
    let listener = bind_private(&fresh).map_err(failed)?;
    let placed = open(&fresh, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let placed = placed.map_err(|errno| failed(errno.into())).and_then(|file| place(&fresh, path).map(|()| file));
    match placed {
        Ok(file) => Ok((listener, SocketFile { path: path.to_owned(), file })),
        Err(error) => {
            let _ = fs::remove_file(&fresh);
            Err(error)
        }
    }
}

impl SocketFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_at(file: impl AsFd, path: &Path) -> bool {
    let (ours, found) = (fstat(file), statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW));
    ours.is_ok_and(|ours| found.is_ok_and(|found| (ours.st_dev, ours.st_ino) == (found.st_dev, found.st_ino)))
}

/// A name beside `path` that nobody else uses.
fn own_name(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    path.with_file_name(format!(".{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Nobody can connect before `listen`, so nobody connects who may not.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    let listening =
        fs::set_permissions(path, Permissions::from_mode(0o600)).and_then(|()| Ok(start(&socket, BACKLOG)?));
    if let Err(error) = listening {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(UnixListener::from(socket))
}

/// Gives the socket at `fresh` the name `path`.
fn place(fresh: &Path, path: &Path) -> Result<(), ListenError> {
    let failed = |source: io::Error| ListenError::Io { path: path.to_owned(), source };
    SocketAddrUnix::new(path).map_err(|errno| failed(errno.into()))?;
    let _alone = Turn::take(path).map_err(failed)?;
    match found_at(path).map_err(failed)? {
        Found::Alive => Err(ListenError::InUse(path.to_owned())),
        Found::Other => Err(ListenError::NotASocket(path.to_owned())),
        Found::Nothing | Found::Dead => renameat(CWD, fresh, CWD, path).map_err(|errno| failed(errno.into())),
    }
}

/// Between finding a dead one and having replaced it, nobody else may do the same. A lock on the directory would be simpler, but a
/// store holds that for as long as it is open.
struct Turn {
    name: PathBuf,
    /// Locked.
    _file: File,
}

impl Turn {
    fn take(path: &Path) -> io::Result<Self> {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(".turn");
        let name = path.with_file_name(name);
        loop {
            let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&name)?;
            retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))?;
            // Whoever had it may have removed it: then the others lock another one.
            if is_at(&file, &name) {
                return Ok(Self { name, _file: file });
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // While it is locked, so that it is this one.
        let _ = fs::remove_file(&self.name);
    }
}

enum Found {
    Nothing,
    Dead,
    Alive,
    Other,
}

fn found_at(path: &Path) -> io::Result<Found> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => return Ok(Found::Other),
        Ok(_) => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let client = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&client, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => Ok(Found::Dead),
        Err(Errno::NOENT) => Ok(Found::Nothing),
        // Also one whose queue is full, or that is not ours to ask.
        _ => Ok(Found::Alive),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Barrier;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_stale_one_is_replaced_a_live_one_is_not_and_a_clean_stop_removes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (listener, file) = listen(&path).unwrap();
        assert_eq!(file.path(), path);
        UnixStream::connect(&path).unwrap();
        assert!(matches!(listen(&path), Err(ListenError::InUse(at)) if at == path));
        UnixStream::connect(&path).expect("the live one was not touched");
        assert_eq!(names(dir.path()), ["s"]);
        drop((file, listener));
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn one_whose_queue_is_full_is_alive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (_listener, _file) = listen(&path).unwrap();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let client = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let mut waiting = Vec::new();
        loop {
            waiting.push(client());
            match connect(waiting.last().unwrap(), &SocketAddrUnix::new(&path).unwrap()) {
                Ok(()) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(matches!(listen(&path), Err(ListenError::InUse(_))));
    }

    #[test]
    fn what_is_no_socket_and_what_is_somebody_elses_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(listen(&path), Err(ListenError::NotASocket(_))));
        assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"mine".to_vec(), vec!["s".to_owned()]));
        fs::remove_file(&path).unwrap();
        let (listener, file) = listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop((file, listener));
        assert!(path.exists(), "it is no longer ours to remove");
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(listen(&long), Err(ListenError::Io { .. })));
        assert!(matches!(listen(&dir.path().join("none/s")), Err(ListenError::Io { .. })));
        assert_eq!(names(dir.path()), ["s"]);
    }

    #[test]
    fn of_several_at_once_one_gets_it() {
        const ROUNDS: usize = 200;
        const THREADS: usize = 4;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let barrier = Barrier::new(THREADS);
        let mut won = 0;
        for _ in 0..ROUNDS {
            drop(UnixListener::bind(&path).unwrap());
            let contend = || {
                barrier.wait();
                let got = listen(&path);
                // Nobody gives up before all have tried.
                barrier.wait();
                got
            };
            let got: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(contend)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let mut winners: Vec<_> = got.into_iter().filter_map(Result::ok).collect();
            let [(listener, _file)] = &mut winners[..] else { panic!("{} got it", winners.len()) };
            let _client = UnixStream::connect(&path).unwrap();
            listener.accept().expect("the file is the winner's");
            assert_eq!(names(dir.path()), ["s"]);
            won += 1;
            for (listener, file) in winners {
                drop((file, listener));
            }
        }
        assert_eq!(won, ROUNDS);
    }
}
