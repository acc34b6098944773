//! The verdict: the mark and many random instants of the past, each against the workload's own record.

use std::sync::Arc;

use oracle::{History, Micros, Rng, Verdict, image_of};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::GROUP;
use super::stage::{Disaster, Stage, micros};
use super::view::View;
use crate::cmd::Context;
use crate::error::Failure;
use crate::job;
use crate::output::text;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    /// How many instants were looked at.
    pub(super) instants: usize,
    /// How many bytes of them.
    pub(super) bytes_compared: u64,
    /// One document for each instant that is wrong.
    pub(super) wrong: Vec<Value>,
    /// How many writes the record holds.
    pub(super) writes: usize,
    /// Acknowledged writes that the newest point lacks.
    pub(super) missing: u64,
    /// How long before the kill the oldest of them was acknowledged, in seconds.
    pub(super) missing_seconds: f64,
    /// The largest RPO that was reported while writing, in seconds.
    pub(super) rpo_reported: f64,
    /// From asking for an instant to its first verified byte, in seconds.
    pub(super) first_byte_p50: f64,
    /// The longest of these.
    pub(super) first_byte_max: f64,
    /// From asking for the mark to its image on disk, in seconds.
    pub(super) image_seconds: f64,
}

impl Judgement {
    /// Looks at all of it.
    pub(super) async fn of(
        context: &Context,
        stage: &Stage,
        disaster: &Disaster,
        mark: &Value,
    ) -> Result<Self, Failure> {
        let mut judgement =
            Self { writes: disaster.history.ops().len(), rpo_reported: disaster.rpo_reported, ..Self::default() };
        judgement.mark(context, stage, disaster, mark).await?;
        let mut first_bytes = Vec::new();
        for at in instants(disaster.covered, stage.volume().seed) {
            first_bytes.push(judgement.instant(stage, disaster, at).await?);
        }
        first_bytes.sort_by(f64::total_cmp);
        judgement.first_byte_p50 = first_bytes.get(first_bytes.len() / 2).copied().unwrap_or_default();
        judgement.first_byte_max = first_bytes.last().copied().unwrap_or_default();
        judgement.newest(stage, disaster).await?;
        Ok(judgement)
    }

    /// The mark, written to a file.
    async fn mark(
        &mut self,
        context: &Context,
        stage: &Stage,
        disaster: &Disaster,
        mark: &Value,
    ) -> Result<(), Failure> {
        let name = text(mark, "mark").ok_or_else(|| Failure::new("E0103", "the mark has no name"))?;
        let at = text(mark, "time").and_then(micros).ok_or_else(|| Failure::new("E0103", "the mark has no time"))?;
        let path = stage.restored();
        let body = json!({
            "group": GROUP, "volume": null, "at": format!("mark:{name}"), "nearest": false,
            "to": path.to_string_lossy(), "force": false, "dry_run": false,
        });
        let document = job::run(context, &stage.client(), "/v1/restore", &body).await?;
        self.image_seconds = document.get("seconds").and_then(Value::as_f64).unwrap_or_default();
        let history = Arc::clone(&disaster.history);
        let verdict = blocking(move || {
            let file = std::fs::File::open(&path)?;
            history.judge(at, &mut image_of(&file))
        });
        self.note(&format!("mark:{name}"), &verdict.await?, &disaster.history);
        Ok(())
    }

    /// An instant, read through the view; returns the seconds to the first byte.
    async fn instant(&mut self, stage: &Stage, disaster: &Disaster, at: Micros) -> Result<f64, Failure> {
        let when = format!("@{}.{:06}", at.0 / 1_000_000, at.0 % 1_000_000);
        let mut view = View::new(stage.client(), when.clone());
        let history = Arc::clone(&disaster.history);
        let (verdict, first_byte) = blocking(move || {
            let verdict = history.judge(at, &mut |offset, buf| view.read(offset, buf))?;
            Ok((verdict, view.first_byte()))
        })
        .await?;
        self.note(&when, &verdict, &disaster.history);
        Ok(first_byte.unwrap_or_default().as_secs_f64())
    }

    /// The newest point: which of the acknowledged writes did not make it?
    async fn newest(&mut self, stage: &Stage, disaster: &Disaster) -> Result<(), Failure> {
        let mut view = View::new(stage.client(), "latest".to_owned());
        let history = Arc::clone(&disaster.history);
        let crash = blocking(move || history.judge_crash(None, &mut |offset, buf| view.read(offset, buf))).await?;
        self.note("latest", &crash.verdict, &disaster.history);
        self.missing = crash.acked_missing;
        let age = |oldest: Micros| journal::types::Micros(disaster.killed.0.saturating_sub(oldest.0)).seconds();
        self.missing_seconds = crash.oldest_missing.map_or(0.0, age);
        Ok(())
    }

    fn note(&mut self, at: &str, verdict: &Verdict, history: &History) {
        self.instants += 1;
        self.bytes_compared += history.volume().size_bytes;
        if !verdict.is_legal() {
            let findings: Value = serde_json::from_str(&verdict.to_json()).unwrap_or_default();
            self.wrong.push(json!({"at": at, "verdict": findings}));
        }
    }
}

/// Random instants between the two, both included.
fn instants((from, to): (Micros, Micros), seed: u64) -> Vec<Micros> {
    let mut rng = Rng::new(seed);
    let length = to.0.saturating_sub(from.0);
    (0..INSTANTS).map(|_| Micros(from.0 + rng.below(length + 1))).collect()
}

/// Judging computes, and waits for the view.
async fn blocking<T: Send + 'static>(
    judge: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let joined = spawn_blocking(judge).await.map_err(|error| Failure::caused("the judge", &error))?;
    joined.map_err(|error| Failure::caused("cannot read an instant", &error))
}

const INSTANTS: usize = 32;
