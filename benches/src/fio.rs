//! fio as the client of an NBD socket.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{run, uri};

/// What fio measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Reads and writes a second.
    pub iops: f64,
    /// 10⁶ bytes a second.
    pub megabytes_per_second: f64,
    /// 99 % of the writes took no longer, µs.
    pub write_p99_micros: f64,
    /// 99 % of the flushes took no longer, µs; 0 without flushes.
    pub flush_p99_micros: f64,
}

/// Runs a job against the export behind `socket`.
pub fn fio(socket: &Path, job: &[&str]) -> Result<Measured> {
    let mut command = Command::new("fio");
    command.args(["--name=job", "--output-format=json", "--ioengine=nbd"]).arg(format!("--uri={}", uri(socket)));
    command.args(["--time_based", "--randrepeat=0"]).args(job);
    let output = run(&mut command)?;
    // Warnings may stand before the document.
    let start = output.find('{').context("fio said nothing")?;
    let document: Value = serde_json::from_str(&output[start..])?;
    let job = &document["jobs"][0];
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    Ok(Measured {
        iops: number(&job["read"]["iops"]) + number(&job["write"]["iops"]),
        megabytes_per_second: number(&job["write"]["bw_bytes"]) / 1e6,
        write_p99_micros: number(&job["write"]["clat_ns"]["percentile"]["99.000000"]) / 1e3,
        flush_p99_micros: number(&job["sync"]["lat_ns"]["percentile"]["99.000000"]) / 1e3,
    })
}
