//! What was asked for on the command line.

use anyhow::{Result, bail};

/// How to run a benchmark.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Tiny sizes: shows that it works, not how fast.
    pub smoke: bool,
    /// One JSON document on a line instead of a table.
    pub json: bool,
    /// Also run other tools, where they are installed.
    pub rivals: bool,
}

impl Options {
    /// From the process's arguments.
    pub fn from_args() -> Result<Self> {
        let mut options = Self::default();
        for arg in std::env::args().skip(1) {
            match arg.as_str() {
                "--smoke" => options.smoke = true,
                "--json" => options.json = true,
                "--rivals" => options.rivals = true,
                // What cargo says to every benchmark.
                "--bench" => {}
                other => bail!("unknown argument {other}: there are --smoke, --json and --rivals"),
            }
        }
        Ok(options)
    }

    /// `full`, or `smoke` in a smoke run.
    pub fn size<T>(&self, full: T, smoke: T) -> T {
        if self.smoke { smoke } else { full }
    }
}
