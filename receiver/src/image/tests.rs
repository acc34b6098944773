use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};

use journal::disk::sim::Rng;
use journal::store::When;

use super::*;
use crate::testing::{GROUP, History, uuid};

fn go(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn roll(files: &mut Files, history: &History, goal: Goal, pace: files::Pace<'_>) -> Result<RolledBack> {
    let version = history.version();
    files.settle(&version, &mut go)?;
    let (point, poses) = decide(files.state(), &version, goal)?;
    let moves = files.plan(&version, point.seq, &mut go)?;
    let (bytes, blocks) = (moves.bytes(), moves.blocks());
    let held = matches!(poses.last(), Some(Pose::Held(_)));
    files.carry_out(&moves, poses, pace)?;
    Ok(RolledBack { point, held, bytes, blocks })
}

fn to(history: &History, seq: Seq) -> Goal {
    Goal::To(history.version().find(&When::Seq(seq)).unwrap().unwrap())
}

#[track_caller]
fn check(dir: &Path, history: &History, seq: Seq) {
    for (number, expect) in (0..).zip(&history.points[&seq]) {
        let image = fs::read(dir.join(format!("{}.img", uuid(number)))).unwrap();
        assert_eq!(image.len(), expect.len(), "volume {number} at {seq}");
        assert!(image == *expect, "volume {number} at {seq}");
    }
}

fn newest(history: &History) -> Seq {
    *history.points.last_key_value().unwrap().0
}

#[test]
fn it_follows_and_rolls_back_to_any_point_and_undoes_it() {
    for seed in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::new(seed, &[700, 33]);
        let mut files = Files::load(dir.path(), GROUP, None).unwrap();
        for _ in 0..6 {
            history.run(8);
            files.settle(&history.version(), &mut go).unwrap();
            files.follow(&history.version(), &mut go).unwrap();
            check(dir.path(), &history, newest(&history));
            let (one, two) = (history.any_point(), history.any_point());
            roll(&mut files, &history, to(&history, one), &mut go).unwrap();
            check(dir.path(), &history, one);
            let mode = fs::metadata(files.path(uuid(0))).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o444);
            history.run(2);
            roll(&mut files, &history, to(&history, two), &mut go).unwrap();
            check(dir.path(), &history, two);
            // The same process goes on, or another one.
            if seed % 2 == 0 {
                drop(files);
                files = Files::load(dir.path(), GROUP, None).unwrap();
            }
            if one != two {
                roll(&mut files, &history, Goal::Undo, &mut go).unwrap();
                check(dir.path(), &history, one);
            }
            let back = roll(&mut files, &history, Goal::Undo, &mut go).unwrap();
            assert!(!back.held);
            check(dir.path(), &history, newest(&history));
        }
        let error = roll(&mut files, &history, Goal::Undo, &mut go).unwrap_err();
        assert_eq!(error.code(), Code::NOTHING_TO_UNDO);
    }
}

#[test]
fn only_blocks_that_differ_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(1, &[4000]);
    let mut files = Files::load(dir.path(), GROUP, None).unwrap();
    history.run(60);
    files.settle(&history.version(), &mut go).unwrap();
    for _ in 0..20 {
        let (from, target) = (files.state().at().unwrap(), history.any_point());
        let done = roll(&mut files, &history, to(&history, target), &mut go).unwrap();
        let (old, new) = (&history.points[&from][0], &history.points[&target][0]);
        let blocks = new.chunks(4096).enumerate().filter(|(i, block)| {
            let old = old.get(i * 4096..(i * 4096 + block.len()).min(old.len())).unwrap_or_default();
            // What the shorter state does not have reads as zeroes.
            !block.iter().enumerate().all(|(i, byte)| old.get(i).copied().unwrap_or(0) == *byte)
        });
        assert_eq!(done.blocks, blocks.count() as u64, "{from} to {target}");
    }
}

/// The process dies in the middle of following, of a rollback, of an undo, and in the middle of finishing those.
#[test]
fn a_crash_at_any_place_is_finished_at_the_next_start() {
    let mut crashes = 0;
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::new(seed, &[900, 60]);
        let mut files = Files::load(dir.path(), GROUP, None).unwrap();
        let mut expect = None;
        for _ in 0..12 {
            history.run(3);
            let mut left = rng.below(12);
            let mut die = move |_| {
                left = left.saturating_sub(1);
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let version = history.version();
            let target = history.any_point();
            let result = match rng.below(4) {
                0 => files.settle(&version, &mut die).map(|()| expect),
                1 => roll(&mut files, &history, Goal::Undo, &mut die).map(|done| done.held.then_some(done.point.seq)),
                2 => roll(&mut files, &history, Goal::Follow, &mut die).map(|_| None),
                _ => roll(&mut files, &history, to(&history, target), &mut die).map(|_| Some(target)),
            };
            match result {
                Ok(at) => expect = at,
                Err(_) => {
                    crashes += 1;
                    drop(files);
                    files = Files::load(dir.path(), GROUP, None).unwrap();
                    // The stack says where it is going, whether or not it got there before.
                    let state = files.state();
                    let poses = state.intent.as_ref().map(|intent| &intent.poses);
                    expect = match poses.unwrap_or(&state.poses).last() {
                        Some(Pose::Held(seq)) => Seq::new(*seq),
                        Some(Pose::Following) | None => None,
                    };
                }
            }
        }
        let mut files = Files::load(dir.path(), GROUP, None).unwrap_or_else(|_| {
            drop(files);
            Files::load(dir.path(), GROUP, None).unwrap()
        });
        let version = history.version();
        files.settle(&version, &mut go).unwrap();
        if expect.is_none() {
            files.follow(&version, &mut go).unwrap();
        }
        check(dir.path(), &history, expect.unwrap_or_else(|| newest(&history)));
    }
    assert!(crashes > 40, "{crashes}");
}

#[test]
fn what_somebody_else_changed_is_found_before_it_is_touched() {
    for restart in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::new(4, &[4000]);
        history.run(40);
        let mut files = Files::load(dir.path(), GROUP, None).unwrap();
        files.settle(&history.version(), &mut go).unwrap();
        let (held, target) = (history.any_point(), history.any_point());
        roll(&mut files, &history, to(&history, held), &mut go).unwrap();
        if restart {
            files.stop().unwrap();
            drop(files);
            files = Files::load(dir.path(), GROUP, None).unwrap();
        }
        let path = files.path(uuid(0));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let foreign = fs::OpenOptions::new().write(true).open(&path).unwrap();
        foreign.write_all_at(&[0xee; 100], 12345).unwrap();
        foreign.write_all_at(&[0xdd; 100], 1_900_000).unwrap();
        let found = files.check(&history.version(), &mut go).unwrap();
        assert!(found[0].1.blocks() >= 2, "{found:?}");
        roll(&mut files, &history, to(&history, target), &mut go).unwrap();
        check(dir.path(), &history, target);
        assert!(files.check(&history.version(), &mut go).unwrap()[0].1.extents.is_empty());
    }
}

#[test]
fn an_image_that_was_deleted_or_replaced_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(5, &[500]);
    history.run(20);
    let mut files = Files::load(dir.path(), GROUP, None).unwrap();
    files.settle(&history.version(), &mut go).unwrap();
    let path = files.path(uuid(0));
    fs::remove_file(&path).unwrap();
    history.run(3);
    files.follow(&history.version(), &mut go).unwrap();
    check(dir.path(), &history, newest(&history));
    files.stop().unwrap();
    drop(files);
    fs::remove_file(&path).unwrap();
    fs::write(&path, vec![5; 5000]).unwrap();
    let mut files = Files::load(dir.path(), GROUP, None).unwrap();
    files.settle(&history.version(), &mut go).unwrap();
    check(dir.path(), &history, newest(&history));
}

#[test]
fn a_held_image_is_locked_against_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(6, &[100]);
    history.run(5);
    let mut files = Files::load(dir.path(), GROUP, None).unwrap();
    files.settle(&history.version(), &mut go).unwrap();
    let path = files.path(uuid(0));
    let other = fs::File::open(&path).unwrap();
    assert!(other.try_lock_shared().is_err(), "while it follows nobody may rely on it");
    let point = history.any_point();
    roll(&mut files, &history, to(&history, point), &mut go).unwrap();
    other.try_lock_shared().unwrap();
    assert_eq!(roll(&mut files, &history, Goal::Undo, &mut go).unwrap_err().code(), Code::LOCKED);
    check(dir.path(), &history, point);
    other.unlock().unwrap();
    roll(&mut files, &history, Goal::Undo, &mut go).unwrap();
    check(dir.path(), &history, newest(&history));
}

/// The story: somebody moves another file over an image, or away, while the receiver has it open, held or following.
#[test]
fn an_image_that_is_replaced_while_it_is_open_is_noticed() {
    for held in [true, false] {
        for remove in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let mut history = History::new(3, &[700, 33]);
            let mut files = Files::load(dir.path(), GROUP, None).unwrap();
            history.run(20);
            files.follow(&history.version(), &mut go).unwrap();
            let (one, two) = (history.any_point(), history.any_point());
            if held {
                roll(&mut files, &history, to(&history, one), &mut go).unwrap();
            }
            let path = files.path(uuid(0));
            fs::remove_file(&path).unwrap();
            if !remove {
                fs::write(&path, [0xee; 900 * 512]).unwrap();
            }
            if held {
                roll(&mut files, &history, to(&history, two), &mut go).unwrap();
                check(dir.path(), &history, two);
            } else {
                files.follow(&history.version(), &mut go).unwrap();
                check(dir.path(), &history, newest(&history));
            }
        }
    }
}

/// The end of the journal was set aside, and the same numbers come to mean something else.
#[test]
fn a_journal_that_ends_before_the_image_is_compared_in_full() {
    for held in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (mut long, mut short) = (History::new(3, &[700, 33]), History::new(3, &[700, 33]));
        long.run(40);
        short.run(4);
        let mut files = Files::load(dir.path(), GROUP, None).unwrap();
        files.settle(&long.version(), &mut go).unwrap();
        let (early, late) = (*long.points.keys().nth(1).unwrap(), newest(&long));
        if held {
            roll(&mut files, &long, to(&long, early), &mut go).unwrap();
            roll(&mut files, &long, to(&long, late), &mut go).unwrap();
        }
        check(dir.path(), &long, late);
        files.stop().unwrap();
        drop(files);
        let mut files = Files::load(dir.path(), GROUP, None).unwrap();
        files.settle(&short.version(), &mut go).unwrap();
        match held {
            true => check(dir.path(), &long, late),
            false => check(dir.path(), &short, newest(&short)),
        }
        assert_eq!(files.state().at(), (!held).then(|| newest(&short)));
        // Another history from there on.
        short.any_point();
        short.run(60);
        assert!(newest(&short) > late);
        if held {
            roll(&mut files, &short, Goal::Undo, &mut go).unwrap();
            check(dir.path(), &short, early);
            roll(&mut files, &short, Goal::Follow, &mut go).unwrap();
        }
        files.settle(&short.version(), &mut go).unwrap();
        files.follow(&short.version(), &mut go).unwrap();
        check(dir.path(), &short, newest(&short));
    }
}
