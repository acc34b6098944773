//! A SQLite database: one process that commits one transaction after the other, and what is in a restored one.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use oracle::Micros;

use crate::common::tools::status;

/// The file's name.
pub(crate) const NAME: &str = "counter.db";
/// What row `n` holds: of various lengths, and no other row's.
const DATA: &str = "replace(hex(zeroblob(20 + n * 37 % 900)), '00', n || ' ')";

pub(crate) struct Database {
    child: Child,
    statements: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// When a transaction was begun, and when its COMMIT had returned, in microseconds.
#[derive(Clone, Copy)]
pub(crate) struct Transaction {
    pub(crate) begun: u64,
    pub(crate) committed: u64,
}

impl Database {
    /// A counter that is 0, and an empty log. FULL would not do: it leaves the removal of the rollback journal, which is what
    /// commits, to the file system's next sync.
    pub(crate) fn create(path: &Path) -> Self {
        let mut sqlite = Command::new("sqlite3");
        sqlite.arg("-batch").arg("-bail").arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = sqlite.spawn().unwrap();
        let (statements, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut database = Self { child, statements, answers };
        database.call("PRAGMA journal_mode = DELETE;", "delete");
        database.call("PRAGMA synchronous = EXTRA; PRAGMA synchronous;", "3");
        database.call(
            "BEGIN; CREATE TABLE counter(n); INSERT INTO counter VALUES(0); CREATE TABLE log(n INTEGER PRIMARY KEY, data);
             COMMIT; SELECT n FROM counter;",
            "0",
        );
        database
    }

    /// Counts to `number`, from the one before it.
    pub(crate) fn transaction(&mut self, number: usize) -> Transaction {
        let begun = Micros::now().0;
        let statements = format!(
            "BEGIN; UPDATE counter SET n = n + 1; INSERT INTO log SELECT n, {DATA} FROM counter; COMMIT;\n.print {number}"
        );
        self.call(&statements, &number.to_string());
        Transaction { begun, committed: Micros::now().0 }
    }

    #[track_caller]
    fn call(&mut self, statements: &str, expect: &str) {
        writeln!(self.statements, "{statements}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim_end(), expect, "{statements}");
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// How far the counter is, in a database without a fault that has the rows up to there and no other ones.
pub(crate) fn check(path: &Path) -> Result<usize, String> {
    let ask =
        format!("PRAGMA integrity_check; SELECT n FROM counter; SELECT count(*), max(n), sum(data = {DATA}) FROM log;");
    let (exit, said) = status(&["sqlite3", "-batch", "-bail", "-cmd", ".nullvalue 0", path.to_str().unwrap(), &ask]);
    let lines: Vec<&str> = said.lines().collect();
    match lines[..] {
        ["ok", count, log] if exit == 0 && log == format!("{count}|{count}|{count}") => {
            count.parse().map_err(|_| format!("{count} is no number"))
        }
        _ => Err(format!("sqlite3 ends with {exit}: {said}")),
    }
}
