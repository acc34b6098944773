//! Two points of a volume: what differs between them, and an image that is taken from one to the other, also by a receiver that is
//! killed meanwhile.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::PATIENCE;
use common::cluster::{Cluster, assert_equal, random};
use oracle::{Client, Rng};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

const SIZE: usize = 48 << 20;
const BLOCK: usize = 4096;
const KILLS: usize = 10;

/// Writes at random: some of it is what was there, some is thrown away, some zeroes.
fn write(cluster: &Cluster, rng: &mut Rng, count: usize) {
    let mut client = Client::connect(&cluster.tap(), "db").unwrap();
    let data = random(rng.next_u64(), 16 * BLOCK);
    for _ in 0..count {
        let sectors = 1 + rng.below(64);
        let at = rng.below((SIZE / 512) as u64 - sectors) * 512;
        let length = usize::try_from(sectors * 512).unwrap();
        let from = 512 * usize::try_from(rng.below(64)).unwrap();
        match rng.below(8) {
            0 => client.trim(at, u32::try_from(length).unwrap()).unwrap(),
            1 => client.write_zeroes(at, u32::try_from(length).unwrap()).unwrap(),
            2 => {
                let mut same = vec![0; length];
                client.read(at, &mut same).unwrap();
                client.write(at, &same, false).unwrap();
            }
            _ => client.write(at, &data[from..from + length], false).unwrap(),
        }
    }
}

#[track_caller]
fn restore(cluster: &Cluster, args: &[&str], to: &Path) -> Value {
    cluster.ask(&[&["restore", "db"], args, &["--to", to.to_str().unwrap()]].concat()).document()
}

/// Runs of blocks in which the two differ, in bytes.
fn runs(a: &[u8], b: &[u8]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let blocks = a.chunks(BLOCK).zip(b.chunks(BLOCK)).enumerate().filter(|(_, (a, b))| a != b);
    for at in blocks.map(|(number, _)| (number * BLOCK) as u64) {
        match runs.last_mut() {
            Some((start, length)) if *start + *length == at => *length += BLOCK as u64,
            _ => runs.push((at, BLOCK as u64)),
        }
    }
    runs
}

#[test]
fn what_differs_is_found_and_written_whenever_the_receiver_dies() {
    let mut cluster = Cluster::live(&random(1, SIZE));
    let mut rng = Rng::new(2);
    write(&cluster, &mut rng, 200);
    cluster.mark("a");
    write(&cluster, &mut rng, 1500);
    cluster.mark("b");
    write(&cluster, &mut rng, 100);
    cluster.mark("c");
    let whole = |name: &str| {
        let to = cluster.path(&format!("{name}.img"));
        restore(&cluster, &["--at", &format!("mark:{name}")], &to);
        fs::read(to).unwrap()
    };
    let [a, b, c] = ["a", "b", "c"].map(whole);

    let differ = |from: &str, to: &str| cluster.ask(&["diff", "db", "--from", from, "--to", to, "--map"]).document();
    let extents = |document: &Value| -> Vec<(u64, u64)> {
        let number = |extent: &Value, key: &str| extent[key].as_u64().unwrap();
        let all = document["extents"].as_array().unwrap().iter();
        all.map(|extent| (number(extent, "offset_bytes"), number(extent, "length_bytes"))).collect()
    };
    let document = differ("mark:a", "mark:b");
    assert_eq!(extents(&document), runs(&a, &b), "as a comparison of the two images says");
    assert_eq!(extents(&differ("mark:b", "mark:a")), runs(&a, &b));
    assert_eq!(document["bytes"].as_u64().unwrap(), runs(&a, &b).iter().map(|(_, length)| length).sum::<u64>());
    assert_eq!((&differ("mark:b", "mark:b")["bytes"], extents(&differ("mark:b", "mark:b"))), (&0.into(), vec![]));

    let image = cluster.path("image");
    let update = ["restore", "db", "--since", "mark:a", "--at", "mark:b", "--to", image.to_str().unwrap()];
    fs::write(&image, &c).unwrap();
    cluster.ask(&update).refused(14, "is neither as of --since nor as of --at");
    assert_equal(&fs::read(&image).unwrap(), &c);
    fs::write(&image, &a).unwrap();
    let dry = cluster.ask(&[&update[..], &["--dry-run"]].concat()).document();
    assert_eq!(dry["bytes_written"], 0);
    assert_equal(&fs::read(&image).unwrap(), &a);

    let mut mixed = 0;
    for _ in 0..KILLS {
        let pid = cluster.receiver.as_ref().unwrap().pid();
        let (delay, early) = (rng.below(400), rng.below(3) == 0);
        let (file, first) = (fs::File::open(&image).unwrap(), usize::try_from(runs(&a, &b)[0].0).unwrap());
        let target = b[first..first + BLOCK].to_vec();
        let kill = std::thread::spawn(move || {
            // At any time, or shortly after the first block was written.
            let mut block = vec![0; BLOCK];
            let began = Instant::now();
            while !early && block != target && began.elapsed() < PATIENCE {
                file.read_exact_at(&mut block, first as u64).unwrap();
            }
            std::thread::sleep(if early { Duration::from_millis(delay) } else { Duration::from_micros(10 * delay) });
            kill_process(pid, Signal::KILL).unwrap();
        });
        let call = cluster.ask(&update);
        kill.join().unwrap();
        assert!(call.exit == 0 || call.exit == 16, "{call:?}");
        let now = fs::read(&image).unwrap();
        assert_eq!(now.len(), SIZE);
        for (sector, now) in now.chunks(512).enumerate() {
            let of = |image: &[u8]| image[sector * 512..][..512] == *now;
            assert!(of(&a) || of(&b), "sector {sector} is of neither");
        }
        mixed += usize::from(now != a && now != b);
        cluster.kill_receiver();
        cluster.start_receiver();
        if call.exit == 0 {
            assert_equal(&now, &b);
            fs::write(&image, &a).unwrap();
        }
    }
    let last = cluster.ask(&update).document();
    assert_equal(&fs::read(&image).unwrap(), &b);
    assert_eq!(last["blake3"]["db"].as_str(), Some(blake3::hash(&b).to_string().as_str()));
    assert_eq!(restore(&cluster, &update[2..6], &image)["bytes_written"], 0, "it is there");
    println!("{mixed} of {KILLS} kills left a mixture behind");
}
