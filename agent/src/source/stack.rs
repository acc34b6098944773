//! What block devices stand on, as `/sys` tells: partitions on disks, maps on devices, loop devices on files.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, makedev, minor};

use crate::{Error, Result};

/// Something that data is stored on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    /// A block device, by its number.
    Device(u64),
    /// A file, by the device number of its file system and its inode.
    File { dev: u64, inode: u64 },
}

/// All that `path` is stored on: its device, what that stands on, and so on.
pub(super) fn below(path: &Path) -> Result<BTreeSet<Node>> {
    let path = path.canonicalize()?;
    let mut found = BTreeSet::new();
    let mut open = vec![Node::Device(device_of(&path)?)];
    while let Some(node) = open.pop() {
        if let Node::Device(dev) = node
            && found.insert(node)
        {
            open.extend(directly_below(dev)?);
        } else if found.insert(node)
            && let Node::File { dev, .. } = node
        {
            open.push(Node::Device(dev));
        }
    }
    Ok(found)
}

/// Loop devices by name, and the file behind each.
pub(super) fn loops() -> Vec<(String, Node)> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name.starts_with("loop"))
        .filter_map(|name| {
            let file = backing_file(&Path::new("/sys/block").join(&name))?;
            Some((name, file))
        })
        .collect()
}

/// Whether the kernel lets nobody write to a device.
pub(super) fn is_read_only(dev: u64) -> bool {
    let said = fs::read(format!("/sys/dev/block/{}:{}/ro", major(dev), minor(dev)));
    said.is_ok_and(|said| said.trim_ascii() == b"1")
}

/// The type of the file system that `path` is on.
pub(super) fn file_system(path: &Path) -> Option<String> {
    mount_of(&path.canonicalize().ok()?).map(|mount| mount.kind)
}

/// The number of the device that a file's file system is on. Some have numbers of their own there: their mount names it.
fn device_of(path: &Path) -> Result<u64> {
    let dev = fs::metadata(path)?.dev();
    if major(dev) != 0 {
        return Ok(dev);
    }
    let source = mount_of(path).and_then(|mount| fs::metadata(mount.source).ok());
    Ok(source.filter(|meta| meta.file_type().is_block_device()).map_or(dev, |meta| meta.rdev()))
}

fn directly_below(dev: u64) -> Result<Vec<Node>> {
    let sys = PathBuf::from(format!("/sys/dev/block/{}:{}", major(dev), minor(dev)));
    // No such device: a file system in memory, or on a network.
    let Ok(sys) = sys.canonicalize() else { return Ok(Vec::new()) };
    let mut found = Vec::from_iter(backing_file(&sys));
    if sys.join("partition").exists() {
        found.extend(sys.parent().map(number_in).transpose()?);
    }
    if let Ok(slaves) = fs::read_dir(sys.join("slaves")) {
        for slave in slaves.flatten() {
            found.push(number_in(&slave.path())?);
        }
    }
    Ok(found)
}

/// The file behind a loop device; of a device that is none, or has none, nothing.
fn backing_file(sys: &Path) -> Option<Node> {
    let mut path = fs::read(sys.join("loop/backing_file")).ok()?;
    path.truncate(path.trim_ascii_end().len());
    let meta = fs::metadata(PathBuf::from(std::ffi::OsString::from_vec(path))).ok()?;
    Some(match meta.file_type().is_block_device() {
        true => Node::Device(meta.rdev()),
        false => Node::File { dev: meta.dev(), inode: meta.ino() },
    })
}

/// The device whose directory in `/sys` this is.
fn number_in(sys: &Path) -> Result<Node> {
    let text = fs::read_to_string(sys.join("dev"))?;
    let numbers = text.trim().split_once(':').and_then(|(a, b)| Some(makedev(a.parse().ok()?, b.parse().ok()?)));
    numbers.map(Node::Device).ok_or_else(|| Error::unsupported("a device without a number").with_path(sys))
}

struct Mount {
    kind: String,
    source: PathBuf,
}

/// The mount that an absolute path without links is in: of those whose place is a prefix the longest, of equals the last.
fn mount_of(path: &Path) -> Option<Mount> {
    let table = fs::read("/proc/self/mountinfo").ok()?;
    let lines = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let place = unescape(fields.nth(4)?);
        // Optional fields end with a dash.
        fields.find(|field| *field == b"-")?;
        let kind = String::from_utf8_lossy(fields.next()?).into_owned();
        path.starts_with(&place).then_some((place.as_os_str().len(), Mount { kind, source: unescape(fields.next()?) }))
    });
    lines.max_by_key(|(length, _)| *length).map(|(_, mount)| mount)
}

/// Spaces and the like stand there as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut rest = field;
    let mut out = Vec::with_capacity(field.len());
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'\\').then(|| std::str::from_utf8(tail.get(..3)?).ok()).flatten();
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&out))
}
