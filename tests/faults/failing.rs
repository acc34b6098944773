//! Calls of a running process to the kernel that fail.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::cluster::Cluster;
use crate::common::process::Process;
use crate::common::{skip, wait_for};

/// While this lives, calls fail.
pub(crate) struct Failing {
    strace: Child,
    log: PathBuf,
}

impl Failing {
    /// From now on `call` of `process` fails with `error`, each time or only the first one (`when` as strace has it), if it is about
    /// one of `files`. None without strace.
    pub(crate) fn start(process: &Process, (call, error, when): (&str, &str, &str), files: &[PathBuf]) -> Option<Self> {
        let log = files[0].ancestors().nth(4).unwrap().join("strace.log");
        _ = fs::remove_file(&log);
        let pid = process.pid();
        let mut command = Command::new("strace");
        command.args(["-f", "-q", "-p", &pid.as_raw_nonzero().to_string(), "-o"]).arg(&log);
        command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:error={error}:when={when}")]);
        files.iter().for_each(|file| _ = command.arg("-P").arg(file));
        let Ok(strace) = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            skip("there is no strace");
            return None;
        };
        let mut failing = Self { strace, log };
        let is_traced = || {
            assert!(failing.strace.try_wait().unwrap().is_none(), "strace ended");
            let mut tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
            let traced = |status: String| !status.contains("TracerPid:\t0\n");
            tasks.all(|task| fs::read_to_string(task.unwrap().path().join("status")).is_ok_and(traced)).then_some(())
        };
        wait_for("traced", is_traced, String::new);
        Some(failing)
    }

    /// Until a call has failed.
    #[track_caller]
    pub(crate) fn wait(&self, cluster: &Cluster) {
        let log = || fs::read_to_string(&self.log).unwrap_or_default();
        wait_for(
            "a call that fails",
            || log().contains("(INJECTED)").then_some(()),
            || format!("{}\n{}", log(), cluster.words()),
        );
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        // It lets go of the process, which goes on.
        _ = kill_process(Pid::from_child(&self.strace), Signal::TERM);
        _ = self.strace.wait();
    }
}

/// All files of the directory that a group has below `root`, the store's or the agent's.
pub(crate) fn files_of(cluster: &Cluster, root: &Path, below: &str) -> Vec<PathBuf> {
    let is_db = |dir: &PathBuf| !fs::read_to_string(dir.join("state.json")).unwrap().contains("\"other\"");
    let mut groups = fs::read_dir(cluster.state.join("groups")).unwrap().map(|group| group.unwrap().path());
    let id: OsString = groups.find(is_db).expect("the group db").file_name().unwrap().into();
    let dir = root.join("groups").join(id).join(below);
    let files = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.is_file()).collect()
}
