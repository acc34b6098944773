//! All groups of a receiver: opened at start, made when an agent first protects one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use journal::disk::{Disk, FileDisk};
use journal::limits::SEGMENT_BYTES;
use journal::types::{GroupId, SessionId};
use journal::wire::{Refusal, RefusalCode};
use tokio::sync::watch;
use tracing::{error, info};

use super::ingest::Queue;
use super::merging::{Background, Bench, Turn};
use super::writer::{Opening, Writer};
use super::{Group, Progress, Shared, State};
use crate::catalog::{Catalog, GroupEntry, Name};
use crate::error::{Code, Error, Result};
use crate::image::Image;
use crate::retention::Cleaned;
use crate::time;

/// Every group, and the catalog that says whose they are.
#[derive(Debug)]
pub struct Groups {
    catalog: Catalog,
    /// Whether replica images are kept.
    images: bool,
    open: Mutex<HashMap<GroupId, Open>>,
    next_session: AtomicU64,
    /// One of them merges at a time.
    merging: Turn,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) group: Group,
    pub(super) writer: JoinHandle<()>,
    image: Option<(Image, JoinHandle<()>)>,
    merging: Option<Background>,
}

impl Groups {
    /// Opens all groups of the catalog, with their replica images if they are kept. A group that is damaged is there, and says
    /// so; it does not stop the others.
    pub fn open(catalog: Catalog, images: bool) -> Result<Self> {
        // Numbers of sessions stand in envelopes: the clock keeps them growing across restarts.
        let next_session = AtomicU64::new(time::now().0);
        let groups = Self { catalog, images, open: Mutex::default(), next_session, merging: Turn::default() };
        for entry in groups.catalog.groups() {
            let name = entry.name.clone();
            if let Err(error) = groups.start(&mut groups.locked(), entry) {
                error!(group = %name, ?error, "this group cannot be opened; the others can");
            }
        }
        Ok(groups)
    }

    /// Who is known here.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// A number for a new connection, higher than any before.
    pub fn next_session(&self) -> SessionId {
        SessionId(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    /// The group that `agent` wants to send for; made if nobody has it yet, refused if somebody else has it.
    ///
    /// Reads and writes the disk: not for a thread that must not wait.
    pub fn claim(&self, agent: &Name, id: GroupId, name: &str) -> std::result::Result<Group, Refusal> {
        let refused = |error: Error| {
            let code = match error.code() {
                Code::FENCED => RefusalCode::Fenced,
                Code::USAGE => RefusalCode::Malformed,
                Code::NO_SPACE => RefusalCode::NoSpace,
                _ => RefusalCode::Internal,
            };
            Refusal::new(code, error.to_string())
        };
        let name = Name::parse(name).map_err(refused)?;
        // Under one lock, so that a group is opened once.
        let mut open = self.locked();
        let entry = self.catalog.claim(agent, id, &name).map_err(refused)?;
        match open.get(&id) {
            Some(known) => Ok(known.group.clone()),
            None => {
                info!(group = %entry.name, agent = %entry.agent, "a new group");
                self.start(&mut open, entry).map_err(refused)
            }
        }
    }

    /// The group of this name.
    pub fn by_name(&self, name: &str) -> Result<Group> {
        let open = self.locked();
        let found = open.values().find(|known| known.group.name().as_str() == name);
        found.map(|known| known.group.clone()).ok_or_else(|| Error::no_group(name))
    }

    /// The group with this identity.
    pub fn by_id(&self, id: GroupId) -> Option<Group> {
        self.locked().get(&id).map(|known| known.group.clone())
    }

    /// The replica image of a group; `None`: none is kept.
    pub fn image(&self, id: GroupId) -> Option<Image> {
        self.locked().get(&id).and_then(|known| known.image.as_ref()).map(|(image, _)| image.clone())
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<Group> {
        let mut all: Vec<Group> = self.locked().values().map(|known| known.group.clone()).collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }

    /// Ends every image where it is, and every writer after what it has in its queue, and notes the clean stop. No group can
    /// be used after it.
    pub async fn stop(&self) {
        let open: Vec<Open> = self.locked().drain().map(|(_, open)| open).collect();
        for Open { group, image, merging, .. } in &open {
            if let Some(merging) = merging {
                merging.stop();
            }
            if let Some((image, _)) = image {
                image.stop();
            }
            let queue = group.queue().take();
            if let Some(queue) = queue {
                queue.stop().await;
            }
        }
        let joined = tokio::task::spawn_blocking(move || {
            for Open { group, writer, image, merging } in open {
                let threads = [Some(writer), image.map(|(_, thread)| thread), merging.map(Background::into_thread)];
                for thread in threads.into_iter().flatten() {
                    if thread.join().is_err() {
                        error!(group = %group.name(), "a thread of it had panicked");
                    }
                }
            }
        });
        if joined.await.is_err() {
            error!("the writers could not be waited for");
        }
    }

    fn start(&self, open: &mut HashMap<GroupId, Open>, entry: GroupEntry) -> Result<Group> {
        // Not through io_uring: the kernel hands a buffered append to a worker thread, which costs more than it saves.
        let reserve = self.catalog.dir().reserve();
        let disk = FileDisk::create(self.catalog.group_dir(entry.id))?.with_reserve(Some(Arc::clone(reserve)));
        let runs: Arc<dyn Disk> = Arc::new(FileDisk::open(self.catalog.group_dir(entry.id))?);
        let (disk, reserve): (Arc<dyn Disk>, _) = (Arc::new(disk), Arc::clone(reserve));
        let opening = Opening {
            disk,
            reserve: Some(Arc::clone(&reserve)),
            segment_bytes: SEGMENT_BYTES,
            entropy: link::random,
            now: time::now,
        };
        let mut started = spawn(entry, opening)?;
        let (group, turn) = (started.group.clone(), Arc::clone(&self.merging));
        // Without it views are slower, not wrong.
        match Background::start(Bench { group, disk: runs, reserve, entropy: link::random, turn }) {
            Ok(merging) => started.merging = Some(merging),
            Err(error) => error!(group = %started.group.name(), ?error, "indexes are not merged"),
        }
        if self.images {
            // An image that cannot be kept is no reason to refuse what is captured.
            match Image::start(started.group.clone(), &self.catalog.images_dir(), self.catalog.dir().reserve()) {
                Ok(image) => started.image = Some(image),
                Err(error) => error!(group = %started.group.name(), ?error, "no replica image is kept"),
            }
        }
        let group = started.group.clone();
        open.insert(group.id(), started);
        Ok(group)
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<GroupId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a group's journal and starts its writer.
pub(super) fn spawn(entry: GroupEntry, opening: Opening) -> Result<Open> {
    let (group, writer) = stepped(entry, opening);
    let name = format!("write-{:.8}", group.id());
    let writer = std::thread::Builder::new().name(name).spawn(move || writer.run())?;
    Ok(Open { group, writer, image: None, merging: None })
}

/// Opens a group's journal without a thread: whoever has the writer steps it.
pub fn stepped(entry: GroupEntry, opening: Opening) -> (Group, Writer) {
    let (queue, commands) = Queue::new();
    let state = State {
        library: None,
        findings: Vec::new(),
        report: None,
        orders: None,
        last_verified: None,
        busy: None,
        cleaned: Cleaned::default(),
    };
    let shared = Shared {
        entry,
        session: AtomicU64::new(0),
        queue: Mutex::new(Some(queue)),
        progress: watch::Sender::new(Progress::default()),
        state: Mutex::new(state),
        pins: Mutex::default(),
    };
    let group = Group { shared: Arc::new(shared) };
    let writer = Writer::open(group.clone(), opening, commands);
    (group, writer)
}
