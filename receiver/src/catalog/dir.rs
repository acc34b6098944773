//! The store's directory: whether it is ours, which version made it, and that we are the only process in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal::codec::{Malformed, Reader, Writer};
use journal::disk::{FileDisk, Reserve, read_file, replace_file};

use crate::error::{Code, Error, Result};

const STORE_FILE: &str = "backspool.store";
const LOCK_FILE: &str = "lock";
const MAGIC: [u8; 8] = *b"BSPLSTOR";
const VERSION: u16 = 1;
const STORE_BYTES: usize = 64;

/// A store's directory, locked for this process while it lives.
#[derive(Debug)]
pub struct StoreDir {
    path: PathBuf,
    disk: FileDisk,
    reserve: Arc<Reserve>,
    id: StoreId,
    /// Whoever holds it has the store.
    _lock: File,
}

/// Identity of a store: random, made with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub [u8; 16]);

impl StoreDir {
    /// Opens a store, or makes one in a directory that is missing or empty. `fresh` is the identity of a new one.
    pub fn open(path: &Path, fresh: StoreId) -> Result<Self> {
        let path = std::path::absolute(path)?;
        if path.exists() && !path.join(STORE_FILE).exists() {
            refuse_foreign(&path)?;
        }
        let disk = FileDisk::create(&path)?;
        let lock = take_lock(&path)?;
        let reserve = Arc::new(Reserve::open(&path)?);
        let disk = disk.with_reserve(Some(Arc::clone(&reserve)));
        let id = match read_file(&disk, STORE_FILE, STORE_BYTES as u64)? {
            Some(bytes) => decode(&bytes).map_err(|error| error.context(path.join(STORE_FILE).display()))?,
            None => {
                replace_file(&disk, STORE_FILE, &encode(fresh))?;
                fresh
            }
        };
        Ok(Self { path, disk, reserve, id, _lock: lock })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its flat files.
    pub fn disk(&self) -> &FileDisk {
        &self.disk
    }

    /// Room for what has to be written when the disk is full.
    pub fn reserve(&self) -> &Arc<Reserve> {
        &self.reserve
    }

    /// Its identity.
    pub fn id(&self) -> StoreId {
        self.id
    }
}

/// A directory that holds something else is left alone: whoever named it has mistaken it.
fn refuse_foreign(path: &Path) -> Result<()> {
    /// What a crash while making a store leaves, and what file systems put there.
    const HARMLESS: [&str; 4] = [LOCK_FILE, "backspool.store.tmp", "reserve", "lost+found"];
    if !path.is_dir() {
        return Err(Error::new(Code::NOT_OURS, format!("{} is not a directory", path.display())));
    }
    let mut found: Vec<String> = fs::read_dir(path)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .filter(|name: &Result<String>| !name.as_ref().is_ok_and(|name| HARMLESS.contains(&name.as_str())))
        .collect::<Result<_>>()?;
    if found.is_empty() {
        return Ok(());
    }
    found.sort_unstable();
    let more = if found.len() > 3 { format!(" and {} more", found.len() - 3) } else { String::new() };
    found.truncate(3);
    let message = format!("{} is not a store: it holds {}{more}", path.display(), found.join(", "));
    Err(Error::new(Code::NOT_OURS, message).hint("name an empty or a new directory"))
}

/// Takes the lock and leaves our process id in it, for whoever finds it taken.
fn take_lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // A holder that has not written it yet has none.
            let _ = file.take(20).read_to_string(&mut holder);
            let holder = holder.trim();
            let who = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
            let message = format!("{} is in use by another process{who}", dir.display());
            return Err(Error::new(Code::LOCKED, message).hint("stop that one first, or name another directory"));
        }
        Err(TryLockError::Error(error)) => {
            return Err(Error::from(error).context(format!("cannot lock {}", path.display())));
        }
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// ```text
/// 0 magic  8 CRC of 12..64  12 version u16  14 reserved 2  16 id 16  32 reserved 32
/// ```
fn encode(id: StoreId) -> Vec<u8> {
    let mut w = Writer::with_capacity(STORE_BYTES);
    w.put(&MAGIC).u32(0).u16(VERSION).zeroes(2).put(&id.0).zeroes(32);
    w.finish_with_crc(8, 12)
}

fn decode(bytes: &[u8]) -> Result<StoreId> {
    let malformed = |Malformed(why)| Error::new(Code::DAMAGED, why);
    let mut r = Reader::new(bytes);
    r.magic(MAGIC).map_err(malformed)?;
    let crc = r.u32().map_err(malformed)?;
    // Magic, CRC and version stay where they are for ever; what follows is a version's own.
    let version = r.u16().map_err(malformed)?;
    if version > VERSION {
        let message = format!("made by a newer version (format {version}, this one knows {VERSION})");
        return Err(Error::new(Code::NEWER, message).hint("use the version that made it, or a newer one"));
    }
    let mut parse = || -> std::result::Result<StoreId, Malformed> {
        r.reserved(2)?;
        let id = StoreId(r.array()?);
        r.reserved(32)?;
        Ok(id)
    };
    let id = parse().map_err(malformed)?;
    r.end().map_err(malformed)?;
    if version == 0 || encode(id)[8..12] != crc.to_le_bytes() {
        return Err(Error::new(Code::DAMAGED, "does not match its checksum"));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: StoreId = StoreId([7; 16]);

    #[test]
    fn a_store_is_made_once_and_keeps_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/store");
        assert_eq!(StoreDir::open(&path, ID).unwrap().id(), ID);
        assert_eq!(StoreDir::open(&path, StoreId([8; 16])).unwrap().id(), ID);
        assert_eq!(fs::read(path.join(STORE_FILE)).unwrap().len(), STORE_BYTES);
    }

    #[test]
    fn a_crash_while_making_it_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("lock"), "12").unwrap();
        fs::write(dir.path().join("backspool.store.tmp"), "torn").unwrap();
        assert_eq!(StoreDir::open(dir.path(), ID).unwrap().id(), ID);
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["d", "b", "c", "a"] {
            fs::write(dir.path().join(name), "mine").unwrap();
        }
        let error = StoreDir::open(dir.path(), ID).unwrap_err();
        assert_eq!(error.code(), Code::NOT_OURS);
        assert!(error.to_string().ends_with("it holds a, b, c and 1 more"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "nothing was put there");
        assert_eq!(StoreDir::open(&dir.path().join("a"), ID).unwrap_err().code(), Code::NOT_OURS);
    }

    #[test]
    fn a_second_process_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = StoreDir::open(dir.path(), ID).unwrap();
        let error = StoreDir::open(dir.path(), ID).unwrap_err();
        assert_eq!(error.code().exit(), 11);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(held);
        StoreDir::open(dir.path(), ID).unwrap();
    }

    #[test]
    fn a_newer_format_and_a_flipped_bit_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        drop(StoreDir::open(dir.path(), ID).unwrap());
        let good = fs::read(dir.path().join(STORE_FILE)).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x80;
            fs::write(dir.path().join(STORE_FILE), &bad).unwrap();
            let code = StoreDir::open(dir.path(), ID).unwrap_err().code();
            let version = at == 12 || at == 13;
            assert_eq!(code, if version { Code::NEWER } else { Code::DAMAGED }, "byte {at}");
        }
        fs::write(dir.path().join(STORE_FILE), &good[..20]).unwrap();
        assert_eq!(StoreDir::open(dir.path(), ID).unwrap_err().code(), Code::DAMAGED);
    }
}
