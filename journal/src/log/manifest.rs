//! The manifest: an append-only list of what segments there are.

use std::sync::Arc;

use super::Entropy;
use crate::codec::{MANIFEST_ENTRY_BYTES, ManifestEntry, ManifestLine};
use crate::disk::{Disk, File, Open, read_file, replace_file};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::MANIFEST_BYTES;
use crate::types::{GroupId, Salt};

const NAME: &str = "manifest";

/// Where entries are appended.
#[derive(Debug)]
pub(super) struct Manifest {
    group: GroupId,
    file: Arc<dyn File>,
    next: u64,
}

/// A manifest as it was read.
pub(super) struct Opened {
    pub(super) manifest: Manifest,
    pub(super) entries: Vec<ManifestEntry>,
    /// Whether a torn append was cut.
    pub(super) cut: bool,
}

impl Manifest {
    /// Reads it, or makes the first one.
    pub(super) fn open(disk: &dyn Disk, group: GroupId, entropy: Entropy) -> Result<Opened> {
        // Opened before it is read: an entry whose sync failed must not be read from a cache.
        let (file, bytes) = match disk.open(NAME, Open::Existing) {
            Ok(file) => (file, read_file(disk, NAME, MANIFEST_BYTES)?.unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let bytes = create(disk, group, entropy)?;
                (disk.open(NAME, Open::Existing)?, bytes)
            }
            Err(error) => return Err(error),
        };
        let (entries, good) = parse(&bytes, group)?;
        let end = good * MANIFEST_ENTRY_BYTES as u64;
        let cut = bytes.len() as u64 != end;
        if cut {
            file.set_len(end)?;
            file.sync()?;
        }
        Ok(Opened { manifest: Self { group, file, next: good }, entries, cut })
    }

    /// Appends an entry and makes it durable.
    pub(super) fn append(&mut self, entry: ManifestEntry) -> Result<()> {
        let bytes = ManifestLine { number: self.next, group: self.group, entry }.encode();
        self.file.write_at(self.next * MANIFEST_ENTRY_BYTES as u64, &[std::io::IoSlice::new(&bytes)])?;
        self.file.sync()?;
        self.next += 1;
        Ok(())
    }

    /// Writes it anew with only these entries behind its header.
    pub(super) fn rewrite(&mut self, disk: &dyn Disk, entropy: Entropy, entries: &[ManifestEntry]) -> Result<()> {
        let header = ManifestEntry::Header { salt: Salt(entropy()) };
        let lines = (0..).zip([&header].into_iter().chain(entries));
        let bytes: Vec<u8> =
            lines.flat_map(|(number, &entry)| ManifestLine { number, group: self.group, entry }.encode()).collect();
        replace_file(disk, NAME, &bytes)?;
        self.file = disk.open(NAME, Open::Existing)?;
        self.next = entries.len() as u64 + 1;
        Ok(())
    }
}

fn create(disk: &dyn Disk, group: GroupId, entropy: Entropy) -> Result<Vec<u8>> {
    if disk.list()?.iter().any(|name| name.ends_with(".seg")) {
        return Err(Error::corrupt("segments without the manifest that names them"));
    }
    let entry = ManifestEntry::Header { salt: Salt(entropy()) };
    let bytes = ManifestLine { number: 0, group, entry }.encode();
    replace_file(disk, NAME, &bytes)?;
    Ok(bytes)
}

/// The entries, and how many are good. Only the last may be unreadable.
fn parse(bytes: &[u8], group: GroupId) -> Result<(Vec<ManifestEntry>, u64)> {
    let mut entries = Vec::new();
    let lines = bytes.chunks(MANIFEST_ENTRY_BYTES);
    let count = lines.len();
    for (number, line) in (0u64..).zip(lines) {
        let last = number + 1 == count as u64;
        let parsed = line.first_chunk().map(ManifestLine::decode);
        match parsed {
            Some(Ok(line)) if line.number == number && line.group == group => entries.push(line.entry),
            Some(Ok(_)) => return Err(Error::corrupt(format!("manifest entry {number} belongs elsewhere"))),
            Some(Err(why)) if line.first_chunk().is_some_and(ManifestLine::is_intact) => {
                return Err(Error::unsupported(format!("manifest entry {number} was made by a newer version: {why}")));
            }
            Some(Err(_)) | None if last && number > 0 => break,
            Some(Err(why)) => return Err(Error::corrupt(format!("manifest entry {number}: {why}"))),
            None => return Err(Error::corrupt(format!("manifest entry {number} is cut off"))),
        }
    }
    if !matches!(entries.first(), Some(ManifestEntry::Header { .. })) {
        return Err(Error::corrupt("a manifest without its header"));
    }
    let good = entries.len() as u64;
    Ok((entries, good))
}
