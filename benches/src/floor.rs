//! The least that has to be done to bytes, done by nothing but the primitives.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::net::UdpSocket;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Instant;

use anyhow::Result;

use crate::samples::Samples;

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

/// So many times: something here, a question over loopback, something there, an answer; ms. Both are told which time it is.
pub fn asked(
    count: usize,
    mut here: impl FnMut(usize) -> Result<()>,
    mut there: impl FnMut(usize) -> Result<()> + Send + 'static,
) -> Result<Samples> {
    let (near, far) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    near.connect(far.local_addr()?)?;
    far.connect(near.local_addr()?)?;
    let answering = thread::spawn(move || {
        (0..count).try_for_each(|time| {
            let mut byte = [0];
            far.recv(&mut byte)?;
            there(time)?;
            far.send(&byte)?;
            anyhow::Ok(())
        })
    });
    let mut byte = [0];
    let rounds = (0..count).map(|time| {
        let start = Instant::now();
        here(time)?;
        near.send(&byte)?;
        near.recv(&mut byte)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    });
    let samples = rounds.collect::<Result<Samples>>()?;
    answering.join().map_err(|_| anyhow::anyhow!("the answering thread panicked"))??;
    Ok(samples)
}
