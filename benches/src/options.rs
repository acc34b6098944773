//! What was asked for on the command line.

use anyhow::{Context, Result, bail};

/// How to run a benchmark.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Tiny sizes: shows that it works, not how fast.
    pub smoke: bool,
    /// One JSON document on a line instead of a table.
    pub json: bool,
    /// Also run other tools, where they are installed.
    pub rivals: bool,
    /// Pairs to measure, instead of the benchmark's own number.
    pub rounds: Option<usize>,
}

impl Options {
    /// From the process's arguments.
    pub fn from_args() -> Result<Self> {
        let mut options = Self::default();
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--smoke" => options.smoke = true,
                "--json" => options.json = true,
                "--rivals" => options.rivals = true,
                "--rounds" => options.rounds = Some(args.next().context("--rounds wants a number")?.parse()?),
                // What cargo says to every benchmark.
                "--bench" => {}
                other => bail!("unknown argument {other}: there are --smoke, --json, --rivals and --rounds N"),
            }
        }
        Ok(options)
    }

    /// How many pairs to measure.
    pub fn rounds(&self, full: usize) -> usize {
        self.rounds.unwrap_or_else(|| self.size(full, 1))
    }

    /// `full`, or `smoke` in a smoke run.
    pub fn size<T>(&self, full: T, smoke: T) -> T {
        if self.smoke { smoke } else { full }
    }
}
