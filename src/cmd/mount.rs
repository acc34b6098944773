//! `mount`: a group's past as files, until stopped. `unmount`: takes one off, also one that nobody serves any more.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::Zoned;
use receiver::mount::SOURCE;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use serde_json::{Value, json};

use super::{Context, Outcome};
use crate::args::{Mount, Unmount};
use crate::error::Failure;
use crate::names::Name;
use crate::output::{list, text};
use crate::serving;

/// `mount`
pub(super) async fn run(context: &Context, args: &Mount) -> Outcome {
    context.refuse_dry_run("mount")?;
    let group = Name::parse("a group", &args.group)?;
    let dir = absolute(&args.dir)?;
    let client = context.receiver()?;
    let now = Zoned::now();
    let body = json!({
        "group": group.as_str(), "dir": utf8(&dir)?, "zone": now.time_zone().iana_name(),
        "offset_seconds": now.offset().seconds(),
    });
    // As the receiver names it.
    let release = json!({"group": group.as_str(), "kind": "mount", "where": utf8(&real(&dir))?});
    let was_mounted = Cell::new(false);
    let ready = |ready: &Value| {
        was_mounted.set(true);
        told(ready)
    };
    let ended = serving::run(context, &client, "/v1/mount", &body, &release, ready).await;
    if ended.is_err() && was_mounted.get() && mounts_of_ours().contains(&real(&dir)) {
        // Its receiver went without being able to: nobody would answer there for ever.
        _ = take_off(&real(&dir), true);
    }
    ended
}

/// `unmount`
pub(super) fn run_unmount(context: &Context, args: &Unmount) -> Outcome {
    context.refuse_dry_run("unmount")?;
    let dir = real(&absolute(&args.dir)?);
    if !mounts_of_ours().contains(&dir) {
        let message = format!("nothing of backspool is mounted on {}", dir.display());
        return Err(Failure::new("E1003", message).advise("backspool status; other mounts: umount"));
    }
    take_off(&dir, args.force).map_err(|errno| match errno {
        Errno::BUSY => Failure::new("E1104", format!("{} is in use", dir.display()))
            .advise("detach the loop devices on it and leave it (fuser -vm DIR), or --force: who uses it gets errors"),
        errno => Failure::caused(format!("cannot unmount {}", dir.display()), &std::io::Error::from(errno)),
    })?;
    let document = json!({"schema": 1, "unmounted": dir.display().to_string()});
    context.out.result(&document, || format!("{} is unmounted", dir.display()))?;
    Ok(0)
}

fn told(ready: &Value) -> String {
    let dir = text(ready, "where").unwrap_or("?");
    let volumes: Vec<&str> = list(ready, "volumes").iter().filter_map(Value::as_str).collect();
    let first = if let [_] = volumes[..] { String::new() } else { format!("{}/", volumes.first().unwrap_or(&"?")) };
    format!("{} is mounted: '{dir}/{first}10 minutes ago.img', or ls {dir}", text(ready, "group").unwrap_or("?"))
}

/// Without force only if nobody uses it; by force who does gets errors.
fn take_off(dir: &Path, force: bool) -> rustix::io::Result<()> {
    let flags = if force { UnmountFlags::FORCE | UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match unmount(dir, flags) {
        // Whoever mounted it without being root may take it off.
        Err(Errno::PERM) => {
            let mut helper = Command::new("fusermount3");
            helper.arg("-u").args(force.then_some("-z")).arg("--").arg(dir);
            if helper.output().is_ok_and(|done| done.status.success()) { Ok(()) } else { Err(Errno::PERM) }
        }
        other => other,
    }
}

fn absolute(dir: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(dir).map_err(|error| Failure::caused("cannot tell where DIR is", &error))
}

/// Without links, also where nobody answers.
fn real(dir: &Path) -> PathBuf {
    let beside = || Some(dir.parent()?.canonicalize().ok()?.join(dir.file_name()?));
    dir.canonicalize().ok().or_else(beside).unwrap_or_else(|| dir.to_owned())
}

fn utf8(dir: &Path) -> Result<&str, Failure> {
    dir.to_str().ok_or_else(|| Failure::argument("DIR must be UTF-8"))
}

/// Where something of ours is mounted.
fn mounts_of_ours() -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    table.split(|&byte| byte == b'\n').filter_map(mount_of_ours).collect()
}

/// `36 35 0:45 / /mnt/a\040b ro,nosuid - fuse backspool:db ro`
fn mount_of_ours(line: &[u8]) -> Option<PathBuf> {
    let mut fields = line.split(|&byte| byte == b' ');
    let place = fields.nth(4)?;
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let (kind, source) = (fields.next()?, fields.next()?);
    let is_ours = (kind == b"fuse" || kind.starts_with(b"fuse.")) && source.starts_with(SOURCE.as_bytes());
    is_ours.then(|| PathBuf::from(OsString::from_vec(unescaped(place))))
}

/// Space, tab, newline and backslash stand there as three octal digits.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &behind[3..];
            }
            None => {
                plain.push(first);
                rest = behind;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_ours_are_told_from_others() {
        let of = |line: &str| mount_of_ours(line.as_bytes());
        assert_eq!(
            of("36 35 0:45 / /mnt/a\\040b\\134 ro,nosuid shared:7 - fuse.backspool backspool:db ro"),
            Some("/mnt/a b\\".into())
        );
        assert_eq!(of("36 35 0:45 / /mnt/a ro - fuse.backspool backspool:db ro"), Some("/mnt/a".into()));
        assert_eq!(of("36 35 0:45 / /mnt/a ro - fuse backspool:db ro"), Some("/mnt/a".into()));
        assert_eq!(of("36 35 0:45 / /mnt/a ro - fuse.sshfs host:/backspool: ro"), None);
        assert_eq!(of("36 35 0:45 / /mnt/a ro - nfs4 backspool:/db ro"), None);
        assert_eq!(of("36 35 0:45 / /mnt/a ro - ext4 /dev/sda rw"), None);
        assert_eq!((of(""), of("36 35")), (None, None));
    }
}
