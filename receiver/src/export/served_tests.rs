//! Where a view says that there is nothing there is nothing, with a scratch and without.

use journal::disk::sim::Rng;
use journal::store::When;

use super::*;
use crate::testing::History;

fn read(served: &Served, bytes: &Range<u64>) -> Vec<u8> {
    let mut found = vec![0; usize::try_from(bytes.end - bytes.start).unwrap()];
    served.read(bytes.start, &mut found).unwrap();
    found
}

#[test]
fn what_is_said_to_be_a_hole_is_zero() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(5);
    let mut holes = 0;
    for seed in 0..10 {
        let mut history = History::new(seed, &[2003, 77]);
        history.run(15);
        let version = history.version();
        let point = version.find(&When::Latest).unwrap().unwrap();
        let view = version.view(point.seq).unwrap();
        let volume = view.volumes()[0].clone();
        let scratch = (seed % 2 == 0).then(|| Scratch::new(dir.path(), 1 << 20).unwrap());
        let served = Served::new("db", view, volume, point, scratch);
        let size = served.size_bytes();
        if served.is_writable() {
            served.write(rng.below(size - 5000), &[1; 5000]).unwrap();
            served.trim(size / 2, size / 4).unwrap();
        } else {
            assert_eq!(served.write(0, &[1]).unwrap_err().code(), Code::USAGE);
        }
        for _ in 0..50 {
            let start = rng.below(size);
            let bytes = start..start + 1 + rng.below(size - start);
            let runs = served.runs(bytes.clone(), usize::MAX).unwrap();
            let mut at = bytes.start;
            for run in &runs {
                assert!(run.bytes.start == at && run.bytes.end > at, "{runs:?}");
                at = run.bytes.end;
                if !run.data {
                    holes += 1;
                    assert!(read(&served, &run.bytes).iter().all(|&byte| byte == 0), "{run:?}");
                }
            }
            assert_eq!(at, bytes.end);
            assert!(runs.windows(2).all(|pair| pair[0].data != pair[1].data), "{runs:?}");
            let few = served.runs(bytes, 2).unwrap();
            assert_eq!(few, runs[..few.len()]);
            assert!(few.len() == runs.len().min(2));
            for data in [true, false] {
                let all = served.runs(start..size, usize::MAX).unwrap();
                let first = all.iter().find(|run| run.data == data).map(|run| run.bytes.start);
                assert_eq!(served.seek(start, data).unwrap(), first);
            }
        }
        for beyond in [served.write(size, &[1]), served.zero(size - 1, 2), served.trim(u64::MAX, 2)] {
            let code = beyond.unwrap_err().code();
            assert_eq!(code, if served.is_writable() { Code::NO_SPACE } else { Code::USAGE });
        }
        assert_eq!(served.seek(size, true).unwrap(), None);
    }
    assert!(holes > 50, "{holes}");
}
