//! The least that has to be done to bytes, done by nothing but the primitives.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt;

/// Copies, checks and hashes each part, and writes it behind the one before.
///
/// `scratch` is at least as long as the longest part.
pub fn copy_check_hash_write<'a>(
    parts: impl Iterator<Item = &'a [u8]>,
    scratch: &mut [u8],
    file: &File,
) -> io::Result<()> {
    let mut at = 0;
    for part in parts {
        let copy = &mut scratch[..part.len()];
        copy_check_hash(part, copy);
        file.write_all_at(copy, at)?;
        at += part.len() as u64;
    }
    Ok(())
}

/// memcpy, CRC-32 and BLAKE3.
pub fn copy_check_hash(part: &[u8], copy: &mut [u8]) {
    copy.copy_from_slice(part);
    black_box(crc32fast::hash(copy));
    black_box(blake3::hash(copy));
}
