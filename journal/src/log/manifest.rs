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
    /// `None`: it is gone.
    file: Option<Arc<dyn File>>,
    next: u64,
}

/// A manifest as it was read.
pub(super) struct Opened {
    pub(super) manifest: Manifest,
    pub(super) entries: Vec<ManifestEntry>,
    /// Whether a torn append was cut.
    pub(super) cut: bool,
    /// Why it does not say all there is.
    pub(super) damage: Option<String>,
}

impl Manifest {
    /// Reads it, or makes the first one.
    pub(super) fn open(disk: &dyn Disk, group: GroupId, entropy: Entropy) -> Result<Opened> {
        // Opened before it is read: an entry whose sync failed must not be read from a cache.
        let (file, bytes) = match disk.open(NAME, Open::Existing) {
            Ok(file) => (file, read_file(disk, NAME, MANIFEST_BYTES)?.unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if disk.list()?.iter().any(|name| name.ends_with(".seg")) {
                    let damage = Some("it is gone, and there are segments".to_owned());
                    return Ok(Opened {
                        manifest: Self { group, file: None, next: 0 },
                        entries: vec![],
                        cut: false,
                        damage,
                    });
                }
                let bytes = create(disk, group, entropy)?;
                (disk.open(NAME, Open::Existing)?, bytes)
            }
            Err(error) => return Err(error),
        };
        let Parsed { entries, good, damage } = parse(&bytes, group)?;
        let end = good * MANIFEST_ENTRY_BYTES as u64;
        let cut = damage.is_none() && bytes.len() as u64 != end;
        if cut {
            file.set_len(end)?;
            file.sync()?;
        }
        Ok(Opened { manifest: Self { group, file: Some(file), next: good }, entries, cut, damage })
    }

    /// Appends an entry and makes it durable.
    pub(super) fn append(&mut self, entry: ManifestEntry) -> Result<()> {
        let bytes = ManifestLine { number: self.next, group: self.group, entry }.encode();
        let file = self.file.as_ref().ok_or_else(|| Error::poisoned("the manifest is gone"))?;
        file.write_at(self.next * MANIFEST_ENTRY_BYTES as u64, &[std::io::IoSlice::new(&bytes)])?;
        file.sync()?;
        self.next += 1;
        Ok(())
    }

    /// How many entries it has.
    pub(super) fn len(&self) -> u64 {
        self.next
    }

    /// Writes it anew with only these entries behind its header.
    pub(super) fn rewrite(&mut self, disk: &dyn Disk, entropy: Entropy, entries: &[ManifestEntry]) -> Result<()> {
        let header = ManifestEntry::Header { salt: Salt(entropy()) };
        let lines = (0..).zip([&header].into_iter().chain(entries));
        let bytes: Vec<u8> =
            lines.flat_map(|(number, &entry)| ManifestLine { number, group: self.group, entry }.encode()).collect();
        replace_file(disk, NAME, &bytes)?;
        self.file = Some(disk.open(NAME, Open::Existing)?);
        self.next = entries.len() as u64 + 1;
        Ok(())
    }
}

fn create(disk: &dyn Disk, group: GroupId, entropy: Entropy) -> Result<Vec<u8>> {
    let entry = ManifestEntry::Header { salt: Salt(entropy()) };
    let bytes = ManifestLine { number: 0, group, entry }.encode();
    replace_file(disk, NAME, &bytes)?;
    Ok(bytes)
}

/// What a manifest holds.
struct Parsed {
    entries: Vec<ManifestEntry>,
    /// How many are there, without a torn one at the end.
    good: u64,
    damage: Option<String>,
}

/// Only the last entry may be torn; an unreadable one before it is damage, and the others count all the same.
fn parse(bytes: &[u8], group: GroupId) -> Result<Parsed> {
    let mut parsed = Parsed { entries: Vec::new(), good: 0, damage: None };
    let lines = bytes.chunks(MANIFEST_ENTRY_BYTES);
    let count = lines.len() as u64;
    for (number, line) in (0u64..).zip(lines) {
        let why = match line.first_chunk().map(ManifestLine::decode) {
            Some(Ok(line)) if line.number == number && line.group == group => {
                parsed.entries.push(line.entry);
                continue;
            }
            Some(Ok(line)) if line.group != group => return Err(Error::corrupt("a manifest of another group")),
            Some(Ok(_)) => "it belongs elsewhere".to_owned(),
            Some(Err(why)) if line.first_chunk().is_some_and(ManifestLine::is_intact) => {
                return Err(Error::unsupported(format!("manifest entry {number} was made by a newer version: {why}")));
            }
            Some(Err(_)) | None if number + 1 == count && number > 0 => {
                parsed.good = number;
                return Ok(parsed);
            }
            Some(Err(why)) => why.to_string(),
            None => "it is cut off".to_owned(),
        };
        let place = number * MANIFEST_ENTRY_BYTES as u64;
        parsed.damage.get_or_insert_with(|| format!("entry {number} at byte {place} cannot be read: {why}"));
    }
    if !matches!(parsed.entries.first(), Some(ManifestEntry::Header { .. })) {
        parsed.damage.get_or_insert_with(|| "it has no header".to_owned());
    }
    parsed.good = count;
    Ok(parsed)
}
