//! Taking the source of `db` back, and what it held: a copy of its file, made while nobody wrote, which knows nothing of journals.

use std::fs;
use std::thread::JoinHandle;

use oracle::Client;
use serde_json::Value;

use super::cluster::{Cluster, assert_equal};
use super::process::{Call, call, words};
use super::wait_for;

impl Cluster {
    /// Calls a verb that the agent answers.
    #[track_caller]
    pub(crate) fn ask_agent(&self, args: &[&str]) -> Call {
        let socket = self.state.join("agent.sock");
        let args = [words(args), words(&["--socket".as_ref(), socket.as_os_str()])].concat();
        call(&self.args(&args))
    }

    /// The receiver may write to the source.
    #[track_caller]
    pub(crate) fn allow(&self) {
        self.ask_agent(&["allow", "db", "--for", "10m"]).document();
    }

    /// `rollback --live`, with these words.
    #[track_caller]
    pub(crate) fn go_back(&self, more: &[&str]) -> Call {
        self.ask(&[&["rollback", "db", "--live", "--yes"], more].concat())
    }

    /// The same, on a thread.
    pub(crate) fn going_back(&self, more: &[&str]) -> JoinHandle<Call> {
        let socket = self.store.join("control.sock");
        let rollback = words(&["rollback", "db", "--live", "--yes"]);
        let args = [rollback, words(more), words(&["--socket".as_ref(), socket.as_os_str()])].concat();
        let args = self.args(&args);
        std::thread::spawn(move || call(&args))
    }

    /// What the file holds now.
    pub(crate) fn content(&self) -> Vec<u8> {
        fs::read(&self.source).unwrap()
    }

    /// Source, newest point, and the point that is called so, are this.
    #[track_caller]
    pub(crate) fn assert_is_back(&self, expect: &[u8], mark: &str) {
        assert_equal(&self.content(), expect);
        assert_equal(&self.image("latest"), expect);
        assert_equal(&self.image(&format!("mark:{mark}")), expect);
    }

    /// Until no rollback is under way, on either side, and the group is live again.
    #[track_caller]
    pub(crate) fn wait_over(&mut self) {
        let over = || {
            let is_over = |status: Value| status["rollback"].is_null() && status["state"] == "live";
            (self.look_at_agent().is_some_and(is_over) && self.look().is_some_and(is_over)).then_some(())
        };
        wait_for("over", over, || format!("{:?}\n{}", self.look_at_agent(), self.words()));
    }

    /// A client of the tap.
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.tap(), "").unwrap()
    }
}
