//! A scratch against a vector of bytes.

use std::sync::atomic::AtomicBool;

use journal::disk::sim::Rng;

use super::*;

impl Below for Vec<u8> {
    fn size_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let start = index(offset);
        buf.copy_from_slice(&self[start..start + buf.len()]);
        Ok(())
    }
}

fn scratch(limit_bytes: u64) -> (tempfile::TempDir, Scratch) {
    let dir = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(&dir.path().join("scratch"), limit_bytes).unwrap();
    (dir, scratch)
}

#[test]
fn it_is_a_vector_of_bytes() {
    // No multiple of a block, so that the last one is short.
    const BYTES: usize = 64 * 4096 + 3 * 512;
    let (mut refused, mut done) = (0, 0);
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let mut below = vec![0; BYTES];
        rng.fill(&mut below);
        let mut model = below.clone();
        let (_dir, scratch) = scratch(48 * 4096);
        for _ in 0..300 {
            let start = rng.below_len(BYTES);
            let longest = 1 + rng.below_len(9 * 4096);
            let length = 1 + rng.below_len((BYTES - start).min(longest));
            let (offset, part) = (start as u64, start..start + length);
            let kind = rng.below(6);
            let outcome = match kind {
                0 => scratch.zero(&below, offset, length as u64),
                1 => scratch.trim(&below, offset, length as u64),
                _ => {
                    let mut data = vec![0; length];
                    rng.fill(&mut data);
                    let outcome = scratch.write(&below, offset, &data);
                    if outcome.is_ok() {
                        model[part.clone()].copy_from_slice(&data);
                    }
                    outcome
                }
            };
            match (outcome, kind) {
                (Ok(()), 0) => model[part].fill(0),
                (Ok(()), 1) => {
                    let end = if start + length == BYTES { BYTES } else { (start + length) / 4096 * 4096 };
                    let first = start.next_multiple_of(4096);
                    if first < end {
                        model[first..end].fill(0);
                    }
                }
                (Ok(()), _) => done += 1,
                (Err(error), _) => {
                    assert_eq!(error.code(), Code::NO_SPACE);
                    refused += 1;
                    // What it holds there now is some of both.
                    scratch.read(&below, offset, &mut model[part]).unwrap();
                }
            }
            assert!(scratch.bytes().0 <= 48 * 4096);
            let mut found = vec![0; BYTES];
            scratch.read(&below, 0, &mut found).unwrap();
            assert!(found == model, "seed {seed}");
            let at = rng.below_len(BYTES);
            let mut part = vec![0; 1 + rng.below_len(BYTES - at)];
            scratch.read(&below, at as u64, &mut part).unwrap();
            assert!(part == model[at..at + part.len()], "seed {seed}");
        }
    }
    assert!(refused > 100 && done > 3000, "{refused} refused, {done} done");
}

/// 16 TiB and a sector.
struct Huge;

impl Below for Huge {
    fn size_bytes(&self) -> u64 {
        (16 << 40) + 512
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        assert!(offset + buf.len() as u64 <= self.size_bytes());
        for (at, byte) in (offset..).zip(buf) {
            *byte = of_huge(at);
        }
        Ok(())
    }
}

fn of_huge(at: u64) -> u8 {
    u8::try_from(at >> 9 & 0x7f).unwrap() | 0x80
}

#[test]
fn any_size_is_right_and_takes_what_was_written() {
    let (_dir, scratch) = scratch(1 << 20);
    let size = Huge.size_bytes();
    for offset in [0, (4 << 30) - 100, (8 << 40) - 1, (16 << 40) - 4096, size - 512, size - 1] {
        scratch.write(&Huge, offset, &[7]).unwrap();
        let mut found = [0; 1];
        scratch.read(&Huge, offset, &mut found).unwrap();
        assert_eq!(found, [7], "{offset}");
        if offset > 0 {
            scratch.read(&Huge, offset - 1, &mut found).unwrap();
            assert!(found == [of_huge(offset - 1)] || found == [7], "{offset}");
        }
    }
    assert_eq!(scratch.bytes().0, 5 * 4096);
    scratch.trim(&Huge, 4096, size - 4096).unwrap();
    assert_eq!(scratch.bytes().0, 4096, "what is discarded takes no room");
    let mut found = [1; 2];
    scratch.read(&Huge, 4095, &mut found).unwrap();
    assert_eq!(found, [of_huge(4095), 0]);
    scratch.read(&Huge, size - 2, &mut found).unwrap();
    assert_eq!(found, [0, 0]);
}

#[test]
fn a_full_one_refuses_and_keeps_what_it_has() {
    let below = vec![5; 64 * 4096];
    let (_dir, scratch) = scratch(4 * 4096);
    scratch.write(&below, 0, &[1; 4 * 4096]).unwrap();
    assert_eq!(scratch.write(&below, 4 * 4096, &[2]).unwrap_err().code(), Code::NO_SPACE);
    scratch.write(&below, 100, &[3; 4096]).unwrap();
    // What is discarded makes room, and nobody finds what was there.
    scratch.trim(&below, 0, 4096).unwrap();
    scratch.write(&below, 8 * 4096 + 10, &[2]).unwrap();
    let mut found = vec![0; 9 * 4096];
    scratch.read(&below, 0, &mut found).unwrap();
    assert!(found[..4096].iter().all(|&byte| byte == 0));
    assert!(found[4096..4196].iter().all(|&byte| byte == 3) && found[4196..4 * 4096].iter().all(|&byte| byte == 1));
    assert!(found[4 * 4096..8 * 4096 + 10].iter().all(|&byte| byte == 5));
    assert_eq!((found[8 * 4096 + 10], found[8 * 4096 + 11]), (2, 5));
    assert_eq!(scratch.write(&below, 9 * 4096, &[2]).unwrap_err().code(), Code::NO_SPACE);
}

#[test]
fn slots_that_change_hands_show_nobody_elses_data() {
    // Block n holds n, or nothing: whoever reads sees no other number there.
    let below: Vec<u8> = (0..64_u8).flat_map(|block| [block; 4096]).collect();
    let (_dir, scratch) = scratch(32 * 4096);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut found = vec![0; below.len()];
            let mut reads = 0;
            while !over.load(Ordering::Relaxed) {
                scratch.read(&below, 0, &mut found).unwrap();
                for (block, content) in (0_u8..).zip(found.chunks(4096)) {
                    assert!(content.iter().all(|&byte| byte == block || byte == 0), "block {block}");
                }
                reads += 1;
            }
            reads
        });
        let mut rng = Rng::new(2);
        for _ in 0..20_000 {
            let block = rng.below(64);
            let content = [u8::try_from(block).unwrap(); 4096];
            if scratch.write(&below, block * 4096, &content).is_err() {
                scratch.trim(&below, 0, 64 * 4096).unwrap();
            }
        }
        over.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 100);
    });
}

#[test]
fn nothing_is_left_behind() {
    let (dir, scratch) = scratch(1 << 20);
    let place = dir.path().join("scratch");
    scratch.write(&vec![0; 8192], 0, &[1; 8192]).unwrap();
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "it has no name");
    fs::write(place.join("1.0"), "left by a process that was killed").unwrap();
    Scratch::clear(&place).unwrap();
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    Scratch::clear(&dir.path().join("none")).unwrap();
}
