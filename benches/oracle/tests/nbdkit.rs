//! The client, the workload and the oracle against `nbdkit`, a server that has nothing to do with the product.
#![expect(clippy::unwrap_used, reason = "a test helper that fails is a test that fails")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use oracle::{
    Client, ClientError, History, Hot, Image, Micros, Recorder, SizeShare, Volume, Workload, WorkloadError,
    fill_initial, image_of,
};

/// A server that ends with the test.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// `None` if there is no nbdkit: the test then says so and passes, unless skipping is forbidden.
    fn start(dir: &Path, args: &[&str]) -> Option<Self> {
        if Command::new("nbdkit").arg("--version").stdout(Stdio::null()).status().is_err() {
            assert!(std::env::var_os("BACKSPOOL_NO_SKIP").is_none(), "nbdkit is not installed");
            println!("skipped: nbdkit is not installed");
            return None;
        }
        let socket = dir.join("nbd.sock");
        // After SIGKILL the old one is still there.
        let _ = std::fs::remove_file(&socket);
        let child = Command::new("nbdkit")
            .args(["--foreground", "--exit-with-parent", "--unix"])
            .arg(&socket)
            .args(args)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while Client::connect(&address(&socket), "").is_err() {
            thread::sleep(Duration::from_millis(5));
        }
        Some(Self { child, address: address(&socket) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn address(socket: &Path) -> String {
    format!("unix:{}", socket.display())
}

fn filled(dir: &Path, volume: &Volume) -> PathBuf {
    let path = dir.join("volume");
    fill_initial(&path, volume).unwrap();
    path
}

fn mixed(address: &str) -> Workload {
    Workload {
        connections: 4,
        sizes: [(512, 1), (4096, 6), (65536, 1)].map(|(bytes, weight)| SizeShare { bytes, weight }).into(),
        hot: Some(Hot { bytes: 256 << 10, percent: 50 }),
        flush_every: Some(50),
        fua_percent: 5,
        zero_percent: 5,
        trim_percent: 5,
        ..Workload::new(address, "")
    }
}

#[test]
fn every_request_reaches_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(dir.path(), &["memory", "1M"]) else { return };
    let mut client = Client::connect(&server.address, "").unwrap();
    assert_eq!(client.size_bytes(), 1 << 20);
    assert!(client.can_flush() && client.can_fua() && client.can_trim() && client.can_write_zeroes());
    let data: Vec<u8> = (0..=255).cycle().take(8192).collect();
    client.write(4096, &data, true).unwrap();
    client.flush().unwrap();
    client.write_zeroes(4096, 512).unwrap();
    client.trim(8192, 1024).unwrap();
    let mut expected = data;
    expected[..512].fill(0);
    expected[4096..5120].fill(0);
    let mut found = vec![1; 8192];
    client.read(4096, &mut found).unwrap();
    assert_eq!(found, expected);
    client.disconnect().unwrap();
}

#[test]
fn an_answered_error_is_not_a_lost_connection() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--filter=error", "memory", "1M", "error-pwrite=ENOSPC", "error-pwrite-rate=1"];
    let Some(server) = Server::start(dir.path(), &args) else { return };
    let mut client = Client::connect(&server.address, "").unwrap();
    assert!(matches!(client.write(0, &[1; 512], false), Err(ClientError::Refused(28))));
    // The connection goes on.
    client.read(0, &mut [0; 512]).unwrap();

    let recorder = Recorder::in_memory(Volume { holes_percent: 100, ..Volume::new(1, 1 << 20) });
    let load = Workload { ops_max: Some(20), ..Workload::new(&server.address, "") };
    let stats = load.run(&recorder, &AtomicBool::new(false)).unwrap();
    assert_eq!((stats.ops, stats.refused, stats.in_doubt), (0, 20, 0));
    assert!(recorder.history().ops().iter().all(|op| op.acked.is_none() && op.settled.is_some()));

    drop(server);
    assert!(matches!(client.write(0, &[1; 512], false), Err(ClientError::Lost(_))));
    let nobody = address(&dir.path().join("nbd.sock"));
    assert!(matches!(Client::connect(&nobody, ""), Err(ClientError::Connect(_))));
    assert!(matches!(load.run(&recorder, &AtomicBool::new(false)), Err(WorkloadError::Server(_))));
}

#[test]
fn a_workload_leaves_what_its_history_says_and_one_flipped_byte_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::new(11, 16 << 20);
    let path = filled(dir.path(), &volume);
    let Some(server) = Server::start(dir.path(), &["file", path.to_str().unwrap()]) else { return };
    let log = dir.path().join("log");
    let recorder = Recorder::create(&log, volume).unwrap();
    let load = Workload { ops_max: Some(5000), ..mixed(&server.address) };
    let stats = load.run(&recorder, &AtomicBool::new(false)).unwrap();
    assert_eq!((stats.ops, stats.refused, stats.in_doubt), (5000, 0, 0));
    assert!(stats.flushes >= 90 && stats.latency_us.len() == 5000, "{}", stats.to_json());

    let history = History::read(&log).unwrap();
    let at = Micros::now();
    let mut client = Client::connect(&server.address, "").unwrap();
    let mut image = |offset: u64, buf: &mut [u8]| client.read(offset, buf).map_err(std::io::Error::other);
    let judge = |image: &mut Image<'_>| history.judge(at, image).unwrap();
    let verdict = judge(&mut image);
    assert!(verdict.is_legal(), "{verdict}");
    assert_eq!((verdict.definite, verdict.doubtful), (5000, 0));
    // Half-way through, the image is full of writes from the future.
    let half = history.ops()[2500].submitted;
    assert!(history.judge(half, &mut image).unwrap().wrong > 100);

    let mut flipped = |offset: u64, buf: &mut [u8]| {
        image(offset, buf)?;
        if offset == 1 << 20 {
            buf[123_456] ^= 1;
        }
        Ok(())
    };
    assert_eq!(judge(&mut flipped).wrong, 1);
}

#[test]
fn a_killed_and_restarted_server_leaves_a_legal_image() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::new(12, 8 << 20);
    let path = filled(dir.path(), &volume);
    let file = ["file", path.to_str().unwrap()];
    let Some(server) = Server::start(dir.path(), &file) else { return };
    let log = dir.path().join("log");
    let recorder = Recorder::create(&log, volume).unwrap();
    let load = Workload { reconnect: Some(Duration::from_secs(60)), ..mixed(&server.address) };
    let stop = AtomicBool::new(false);
    let stats = thread::scope(|scope| {
        let run = scope.spawn(|| load.run(&recorder, &stop));
        let mut server = Some(server);
        for _ in 0..3 {
            let before = recorder.history().ops().len();
            while recorder.history().ops().len() < before + 500 {
                thread::sleep(Duration::from_millis(5));
            }
            drop(server.take());
            // Long enough that the workload finds nobody there.
            thread::sleep(Duration::from_millis(50));
            server = Server::start(dir.path(), &file);
        }
        let before = recorder.history().ops().len();
        while recorder.history().ops().len() < before + 500 {
            thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        run.join().unwrap().unwrap()
    });
    assert!(stats.in_doubt >= 3 && stats.reconnects == stats.in_doubt, "{}", stats.to_json());
    let history = History::read(&log).unwrap();
    let crash = history.judge_crash(Some(Micros::now()), &mut image_of(&File::open(&path).unwrap())).unwrap();
    assert!(crash.verdict.is_legal(), "{}", crash.verdict);
    assert_eq!(crash.acked_missing, 0);
}

fn stamp(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stamp"));
    command.args(args);
    command
}

#[test]
fn the_program_fills_runs_and_judges_even_after_it_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (image, log) = (dir.path().join("volume"), dir.path().join("log"));
    let (image, log) = (image.to_str().unwrap(), log.to_str().unwrap());
    assert!(stamp(&["fill", image, "4194304", "21"]).status().unwrap().success());
    let Some(server) = Server::start(dir.path(), &["file", image]) else { return };
    let first = ["run", &server.address, "--history", log, "--seed", "21", "--ops", "300", "--connections", "3"];
    let out = stamp(&first).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).starts_with("{\"ops\":300,"), "{out:?}");

    let mut endless = stamp(&["run", &server.address, "--history", log, "--connections", "3"]).spawn().unwrap();
    let size = std::fs::metadata(log).unwrap().len();
    while std::fs::metadata(log).unwrap().len() < size + 100_000 {
        assert!(endless.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(5));
    }
    endless.kill().unwrap();
    endless.wait().unwrap();
    drop(server);

    let now = Micros::now().0.to_string();
    let judge = || {
        let at = stamp(&["judge", "--history", log, "--at", &now, image]).output().unwrap();
        let crash = stamp(&["crash", "--history", log, "--floor", &now, image]).output().unwrap();
        (at.status.code(), crash.status.code())
    };
    assert_eq!(judge(), (Some(0), Some(0)));
    let history = History::read(Path::new(log)).unwrap();
    let at = history.ops()[7].sectors.first * 512 + 99;
    let file = File::options().read(true).write(true).open(image).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    assert_eq!(judge(), (Some(14), Some(14)));
    assert_eq!(stamp(&["judge", "--nonsense"]).stderr(Stdio::null()).status().unwrap().code(), Some(2));
}
