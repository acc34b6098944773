//! The wall clock of one process, set from outside while it runs.
//!
//! Time namespaces leave `CLOCK_REALTIME` alone, and a preloaded library is not asked by who reads the vDSO without the C library. So
//! the vDSO itself is changed, in that process only: its `clock_gettime` becomes a system call, and a number of seconds is added
//! to what it says of the wall clock.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::process::{Signal, kill_process};

use super::process::Process;
use super::{skip, wait_for};

/// The function that is put there. Its last eight bytes are the seconds.
const CODE: [u8; SECONDS_AT + 8] = [
    0xb8, 228, 0, 0, 0, // mov eax, SYS_clock_gettime
    0x0f, 0x05, // syscall
    0x85, 0xc0, // test eax, eax
    0x75, 14, // jnz 1f
    0x85, 0xff, // test edi, edi: which clock, CLOCK_REALTIME is 0
    0x75, 10, // jnz 1f
    0x48, 0x8b, 0x0d, 10, 0, 0, 0, // mov rcx, [rip + 10]: the seconds
    0x48, 0x01, 0x0e, // add [rsi], rcx
    0xc3, // 1: ret
    0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, // to a multiple of eight
    0, 0, 0, 0, 0, 0, 0, 0,
];
const SECONDS_AT: usize = 32;

/// The clock of a process; the others keep theirs.
pub(crate) struct WallClock {
    memory: File,
    seconds_at: u64,
}

impl WallClock {
    /// Takes the clock of a process into our hands; it goes on as it was. `None`, and said aloud, where that cannot be done.
    #[track_caller]
    pub(crate) fn of(process: &Process) -> Option<Self> {
        let pid = process.pid();
        if !cfg!(target_arch = "x86_64") {
            skip("clocks are set on x86-64 only");
            return None;
        }
        let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let Ok(memory) = File::options().read(true).write(true).open(proc.join("mem")) else {
            skip("the memory of another process cannot be written");
            return None;
        };
        let maps = fs::read_to_string(proc.join("maps")).unwrap();
        let vdso = maps.lines().find_map(|line| line.strip_suffix("[vdso]")).expect("a vDSO");
        let (start, end) = vdso.split_once(' ').unwrap().0.split_once('-').unwrap();
        let hex = |digits| u64::from_str_radix(digits, 16).unwrap();
        let (start, end) = (hex(start), hex(end));
        let mut image = vec![0; usize::try_from(end - start).unwrap()];
        memory.read_exact_at(&mut image, start).unwrap();
        let place = start + find(&image, b"__vdso_clock_gettime\0");
        // Nobody may be in the middle of what changes.
        kill_process(pid, Signal::STOP).unwrap();
        let is_outside = || {
            let outside = tasks(&proc).all(|at| at.is_some_and(|at| !(start..end).contains(&at)));
            if !outside {
                kill_process(pid, Signal::CONT).unwrap();
                kill_process(pid, Signal::STOP).unwrap();
            }
            outside.then_some(())
        };
        wait_for("outside of its clock", is_outside, || format!("{:?}", tasks(&proc).collect::<Vec<_>>()));
        memory.write_all_at(&CODE, place).unwrap();
        kill_process(pid, Signal::CONT).unwrap();
        Some(Self { memory, seconds_at: place + SECONDS_AT as u64 })
    }

    /// From now on it is so many seconds ahead of the true time, or behind it.
    pub(crate) fn set_ahead(&self, seconds: i64) {
        self.memory.write_all_at(&seconds.to_le_bytes(), self.seconds_at).unwrap();
    }
}

/// Where each thread of a process is, `None` for one that runs.
fn tasks(proc: &Path) -> impl Iterator<Item = Option<u64>> {
    fs::read_dir(proc.join("task")).unwrap().map(|task| {
        let at = fs::read_to_string(task.unwrap().path().join("syscall")).ok()?;
        u64::from_str_radix(at.trim().rsplit_once(" 0x")?.1, 16).ok()
    })
}

/// The place of a symbol in a shared object that is loaded as its file is.
fn find(image: &[u8], name: &[u8]) -> u64 {
    let number = |at: usize, bytes: usize| {
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(&image[at..at + bytes]);
        u64::from_le_bytes(wide)
    };
    let place = |at: usize| usize::try_from(number(at, 8)).unwrap();
    let (headers, count) = (place(0x20), number(0x38, 2));
    let mut headers = (0..usize::try_from(count).unwrap()).map(|i| headers + 56 * i);
    let dynamic = place(headers.find(|at| number(*at, 4) == 2).expect("a dynamic section") + 8);
    let entry = |tag: u64| place((dynamic..).step_by(16).find(|at| number(*at, 8) == tag).expect("a table") + 8);
    let (names, symbols) = (entry(5), entry(6));
    let is_it = |at: &usize| image[names + usize::try_from(number(*at, 4)).unwrap()..].starts_with(name);
    let symbol = (symbols..names).step_by(24).find(is_it).expect("a symbol");
    assert!(place(symbol + 16) >= CODE.len(), "there is too little room for ours");
    number(symbol + 8, 8)
}
