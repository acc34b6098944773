//! What the agent does with each write once it is captured: into a frame, which is closed.

use std::hint::black_box;

use anyhow::Result;
use benches::chain::Chain;
use benches::options::Options;
use benches::samples::{gigabytes_per_second, pairs, timed};
use benches::table::{self, Aim, Row};
use benches::{data, floor};
use journal::limits::{FRAME_PAYLOAD_TARGET, UNIT_BYTES};

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let bytes = options.size(64 << 20, 2 << 20);
    let contents = [("incompressible", data::incompressible(bytes, 7)), ("text", data::text(bytes, 8))];
    let mut rows = Vec::new();
    for (content, bytes) in &contents {
        for (size, block) in [("4 KiB", 4096), ("64 KiB", 65536)] {
            for compress in [false, true] {
                let codec = if compress { ", compressed" } else { "" };
                let what = format!("{size} writes, {content}{codec}");
                rows.push(row(what, bytes, block, compress, &options)?);
            }
        }
    }
    table::print("frames: building and closing frames of 1 MiB", &rows, &options);
    Ok(())
}

fn row(what: String, content: &[u8], block: usize, compress: bool, options: &Options) -> Result<Row> {
    let mut chain = Chain::new(content.len() as u64, compress);
    let mut offset = 0;
    let ours = || {
        let ((), took) = timed(|| {
            for chunk in content.chunks(block) {
                chain.write(offset, chunk);
                offset = (offset + chunk.len() as u64) % content.len() as u64;
                if chain.is_full() {
                    black_box(chain.close());
                }
            }
            Ok::<_, anyhow::Error>(())
        })?;
        anyhow::Ok(gigabytes_per_second(content.len(), took))
    };
    let mut copy = vec![0; FRAME_PAYLOAD_TARGET];
    let least = || {
        let ((), took) = timed(|| {
            for part in content.chunks(FRAME_PAYLOAD_TARGET) {
                if compress {
                    part.chunks(UNIT_BYTES).for_each(|unit| drop(black_box(lz4_flex::block::compress(unit))));
                }
                floor::copy_check_hash(part, &mut copy[..part.len()]);
            }
            Ok::<_, anyhow::Error>(())
        })?;
        Ok(gigabytes_per_second(content.len(), took))
    };
    let (ours, least) = pairs(options.rounds(7), ours, least)?;
    let lz4 = if compress { " + LZ4" } else { "" };
    let floor = Some((format!("memcpy + CRC-32 + BLAKE3{lz4}"), least));
    Ok(Row { what, unit: "GB/s", ours, floor, aim: Aim::Known })
}
