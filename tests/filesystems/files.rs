//! Small files that come, grow, shrink, move and go, some of them synced. Every thread has a directory of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oracle::{Micros, Rng};

/// Files that one thread has at a time, and directories.
const FILES_MAX: usize = 60;
const DIRS_MAX: usize = 8;
const FILE_BYTES_MAX: u64 = 48 << 10;
/// Operations of 100 after which the file is synced.
const SYNCED_PERCENT: u8 = 15;

/// What happened.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) kept: Vec<Kept>,
    pub(crate) operations: usize,
}

/// A file that was synced, and not touched for a while.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Below the mount point.
    path: PathBuf,
    hash: blake3::Hash,
    /// When `fsync` had returned, in microseconds.
    from: u64,
    /// When the next operation on it began.
    until: Option<u64>,
}

impl Kept {
    pub(crate) fn is_kept_at(&self, instant: u64) -> bool {
        self.from <= instant && self.until.is_none_or(|until| instant < until)
    }

    /// What is wrong with it in the file system mounted there.
    pub(crate) fn check(&self, root: &Path) -> Result<(), String> {
        let found = fs::read(root.join(&self.path)).map_err(|error| error.to_string())?;
        let same = blake3::hash(&found) == self.hash;
        same.then_some(()).ok_or_else(|| format!("{} other bytes", found.len()))
    }
}

/// Keeps that many threads busy in the file system mounted there.
pub(crate) fn load(root: &Path, threads: u64, duration: Duration) -> Loaded {
    let workers: Vec<_> = (0..threads)
        .map(|number| {
            let mut worker = Worker::new(root, number);
            std::thread::spawn(move || {
                let start = Instant::now();
                while start.elapsed() < duration {
                    worker.step();
                }
                worker.loaded
            })
        })
        .collect();
    // All have ended before one that failed is told of: the file system is not in use any more.
    let all: Vec<_> = workers.into_iter().map(std::thread::JoinHandle::join).collect();
    all.into_iter().map(Result::unwrap).fold(Loaded::default(), |mut sum, mut one| {
        sum.kept.append(&mut one.kept);
        sum.operations += one.operations;
        sum
    })
}

struct Worker {
    root: PathBuf,
    rng: Rng,
    /// Its directories; the first one stays.
    dirs: Vec<PathBuf>,
    /// What each file holds, and which of `kept` says so.
    files: BTreeMap<PathBuf, (Vec<u8>, Option<usize>)>,
    loaded: Loaded,
}

impl Worker {
    fn new(root: &Path, number: u64) -> Self {
        let top = PathBuf::from(format!("thread-{number}"));
        fs::create_dir(root.join(&top)).unwrap();
        Self {
            root: root.to_owned(),
            rng: Rng::new(number),
            dirs: vec![top],
            files: BTreeMap::new(),
            loaded: Loaded::default(),
        }
    }

    fn step(&mut self) {
        self.loaded.operations += 1;
        match self.rng.below(100) {
            0..30 if self.files.len() < FILES_MAX => {
                let path = self.new_path();
                self.write(path, 0);
            }
            90..95 => self.make_dir(),
            95..100 => self.remove_dir(),
            _ if self.files.is_empty() => {}
            30..55 => {
                let path = self.any();
                let end = self.files[&path].0.len() as u64;
                self.write(path, end);
            }
            55..65 => self.truncate(),
            65..72 => {
                let path = self.any();
                let offset = self.rng.below(self.files[&path].0.len() as u64 + 1);
                self.write(path, offset);
            }
            72..82 => self.move_one(),
            _ => self.remove(),
        }
    }

    /// Writes random bytes there, as far as a file may grow.
    fn write(&mut self, path: PathBuf, offset: u64) {
        let length = self.rng.below(FILE_BYTES_MAX / 3).min(FILE_BYTES_MAX - offset.min(FILE_BYTES_MAX));
        let data: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| self.rng.next_u64().to_le_bytes()).collect();
        let mut content = self.touch(&path);
        let file = File::options().create(true).truncate(false).write(true).open(self.root.join(&path)).unwrap();
        file.write_all_at(&data, offset).unwrap();
        let (from, to) = (usize::try_from(offset).unwrap(), usize::try_from(offset).unwrap() + data.len());
        content.resize(content.len().max(to), 0);
        content[from..to].copy_from_slice(&data);
        self.done(path, content, &file);
    }

    fn truncate(&mut self) {
        let path = self.any();
        let length = self.rng.below(FILE_BYTES_MAX);
        let mut content = self.touch(&path);
        let file = File::options().write(true).open(self.root.join(&path)).unwrap();
        file.set_len(length).unwrap();
        content.resize(usize::try_from(length).unwrap(), 0);
        self.done(path, content, &file);
    }

    /// To a new name, or over another file.
    #[expect(clippy::disallowed_methods, reason = "that it is not durable is what is tested")]
    fn move_one(&mut self) {
        let from = self.any();
        let to = if self.rng.percent(30) { self.any() } else { self.new_path() };
        if from == to {
            return;
        }
        let content = self.touch(&from);
        self.touch(&to);
        fs::rename(self.root.join(&from), self.root.join(&to)).unwrap();
        let file = File::open(self.root.join(&to)).unwrap();
        self.done(to, content, &file);
    }

    fn remove(&mut self) {
        let path = self.any();
        self.touch(&path);
        fs::remove_file(self.root.join(&path)).unwrap();
    }

    fn make_dir(&mut self) {
        if self.dirs.len() < DIRS_MAX {
            let path = self.new_path();
            fs::create_dir(self.root.join(&path)).unwrap();
            self.dirs.push(path);
        }
    }

    /// The newest directory, if nothing is in it.
    fn remove_dir(&mut self) {
        let path = self.dirs.last().unwrap();
        if self.dirs.len() > 1 && fs::remove_dir(self.root.join(path)).is_ok() {
            self.dirs.pop();
        }
    }

    /// What was known of a file holds only up to now: an operation begins. Gives what it holds.
    fn touch(&mut self, path: &Path) -> Vec<u8> {
        let (content, kept) = self.files.remove(path).unwrap_or_default();
        if let Some(kept) = kept {
            self.loaded.kept[kept].until = Some(Micros::now().0);
        }
        content
    }

    /// An operation has ended; now and then the file is synced.
    fn done(&mut self, path: PathBuf, content: Vec<u8>, file: &File) {
        let synced = self.rng.percent(SYNCED_PERCENT).then(|| {
            file.sync_all().unwrap();
            let (from, hash) = (Micros::now().0, blake3::hash(&content));
            self.loaded.kept.push(Kept { path: path.clone(), hash, from, until: None });
            self.loaded.kept.len() - 1
        });
        self.files.insert(path, (content, synced));
    }

    fn any(&mut self) -> PathBuf {
        let number = usize::try_from(self.rng.below(self.files.len() as u64)).unwrap();
        self.files.keys().nth(number).unwrap().clone()
    }

    /// A name that nothing has, in one of its directories.
    fn new_path(&mut self) -> PathBuf {
        let dir = usize::try_from(self.rng.below(self.dirs.len() as u64)).unwrap();
        self.dirs[dir].join(format!("{:016x}", self.rng.next_u64()))
    }
}
