//! The config file: TOML, the same for both roles. A key that does nothing here is an error, with its line.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args::{Flush, Global, Tracker, WhenFull};
use crate::error::Failure;
use crate::units::parse_keep;

/// The file's content; all of it is optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The agent on this machine.
    #[serde(default)]
    pub(crate) agent: Agent,
    /// The groups that it protects.
    #[serde(default)]
    pub(crate) group: Vec<Group>,
    /// The receiver on this machine.
    #[serde(default)]
    pub(crate) receiver: Receiver,
}

/// `[agent]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Agent {
    /// Its state directory.
    pub(crate) state: Option<PathBuf>,
}

/// `[[group]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    /// What it is called.
    pub(crate) name: String,
    /// Its volumes.
    #[serde(default)]
    pub(crate) volume: Vec<Volume>,
    /// The agent's own journal of it.
    #[serde(default)]
    pub(crate) spool: Spool,
    /// What a flush waits for.
    pub(crate) flush: Option<Flush>,
    /// How long it waits for a receiver.
    pub(crate) flush_wait: Option<String>,
    /// What it may take of the link.
    pub(crate) limit: Option<String>,
    /// How much may be exposed.
    #[serde(default)]
    pub(crate) rpo: Rpo,
}

/// `rpo` of a group: ages of the oldest change that is not durable
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rpo {
    /// From which on the log and the check warn.
    pub(crate) warn: Option<String>,
    /// From which on it is an error.
    pub(crate) error: Option<String>,
}

/// `spool` of a group
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spool {
    /// How large it may become.
    pub(crate) size: Option<String>,
    /// What happens to writes then.
    pub(crate) when_full: Option<WhenFull>,
}

/// `[[group.volume]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Volume {
    /// What it is called.
    pub(crate) name: String,
    /// The block device or file.
    pub(crate) path: PathBuf,
    /// What notices its changes.
    pub(crate) tracker: Tracker,
    /// Where the tap listens.
    pub(crate) nbd: Option<String>,
}

/// `[receiver]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Receiver {
    /// Where it listens for agents.
    pub(crate) listen: Option<String>,
    /// Its directory.
    pub(crate) store: Option<PathBuf>,
    /// Whether it keeps replica images; it does unless this is false.
    pub(crate) images: Option<bool>,
    /// How long what is kept of groups that say nothing of their own; left out: everything.
    #[serde(default)]
    pub(crate) retention: Retention,
}

/// `[receiver.retention]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retention {
    /// So long, every write is a point.
    pub(crate) every_write: Option<String>,
    /// So long, the last point of each minute is kept.
    pub(crate) every_minute: Option<String>,
    /// So long, the last point of each hour is.
    pub(crate) hourly: Option<String>,
    /// So long, marks are.
    pub(crate) marks: Option<String>,
}

impl Retention {
    /// As a receiver takes it.
    pub(crate) fn said(&self) -> Result<receiver::Retention, Failure> {
        let read = |value: &Option<String>| value.as_deref().map(parse_keep).transpose();
        Ok(receiver::Retention {
            every_write_seconds: read(&self.every_write)?,
            every_minute_seconds: read(&self.every_minute)?,
            hourly_seconds: read(&self.hourly)?,
            marks_seconds: read(&self.marks)?,
        })
    }
}

impl Config {
    /// The file that `--config` names, else the default one if it is there.
    pub(crate) fn load(global: &Global) -> Result<Self, Failure> {
        let path = global.config.as_deref().unwrap_or_else(|| Path::new(DEFAULT));
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map_err(|fault| fault.in_file(path)),
            Err(error) if global.config.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(error) => Err(Failure::new("E0204", format!("cannot read {}: {error}", path.display()))),
        }
    }

    /// The agent's state directory: `--state`, else the config's, else the default.
    pub(crate) fn state(&self, global: &Global) -> PathBuf {
        let chosen = global.state.as_ref().or(self.agent.state.as_ref());
        chosen.cloned().unwrap_or_else(|| DEFAULT_STATE.into())
    }

    /// The receiver's directory: the config's, else the default.
    pub(crate) fn store(&self) -> PathBuf {
        self.receiver.store.clone().unwrap_or_else(|| DEFAULT_STORE.into())
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        toml::from_str(text).map_err(|error| Fault {
            line: error.span().map(|span| 1 + text.bytes().take(span.start).filter(|&b| b == b'\n').count()),
            message: error.message().to_owned(),
        })
    }
}

/// What is wrong with the text, and on which line.
#[derive(Debug)]
struct Fault {
    line: Option<usize>,
    message: String,
}

impl Fault {
    fn in_file(self, path: &Path) -> Failure {
        let place = match self.line {
            Some(line) => format!("{} line {line}", path.display()),
            None => path.display().to_string(),
        };
        // serde says: unknown field `pth`, expected one of `name`, `path`
        let mut names = self.message.split('`').skip(1).step_by(2);
        let Some(unknown) = names.next().filter(|_| self.message.starts_with("unknown field")) else {
            return Failure::new("E0204", format!("{place}: {}", self.message));
        };
        let known: Vec<&str> = names.collect();
        let failure = Failure::new("E0204", format!("{place}: unknown key `{unknown}`"));
        let likeness = |name: &&&str| (strsim::jaro_winkler(unknown, name) * 1000.0).round();
        match known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))) {
            Some(name) if likeness(&name) >= 700.0 => failure.advise(format!("`{name}`")),
            Some(_) => failure.advise(format!("one of: {}", known.join(", "))),
            None => failure,
        }
    }
}

const DEFAULT: &str = "/etc/backspool/backspool.toml";
const DEFAULT_STATE: &str = "/var/lib/backspool";
const DEFAULT_STORE: &str = "/srv/backspool";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Paint;

    #[test]
    fn every_key_is_read() {
        let config = Config::parse(
            "[agent]\nstate = '/s'\n[[group]]\nname = 'db'\nspool = { size = '1GiB', when_full = 'block-writes' }\nflush = 'durable'\nflush_wait = '2s'\nlimit = '400MiB/s'\nrpo = { warn = '5s', error = '60s' }\n[[group.volume]]\nname = 'data'\npath = '/dev/vg0/db'\n\
             tracker = 'tap'\nnbd = 'unix:/run/db.sock'\n[receiver]\nlisten = '0.0.0.0:7440'\nstore = '/store'\nimages = false\n\
             [receiver.retention]\nevery_write = '24h'\nevery_minute = '7d'\nhourly = '30d'\nmarks = '1y'\n",
        )
        .unwrap();
        assert_eq!(config.state(&Global::default()), Path::new("/s"));
        assert_eq!(config.state(&Global { state: Some("/t".into()), ..Global::default() }), Path::new("/t"));
        assert_eq!(config.store(), Path::new("/store"));
        assert_eq!(config.receiver.listen.as_deref(), Some("0.0.0.0:7440"));
        assert_eq!(config.receiver.images, Some(false));
        assert_eq!(config.group[0].spool.size.as_deref(), Some("1GiB"));
        assert_eq!(config.group[0].spool.when_full, Some(WhenFull::BlockWrites));
        assert_eq!((config.group[0].flush, config.group[0].flush_wait.as_deref()), (Some(Flush::Durable), Some("2s")));
        assert_eq!(config.group[0].limit.as_deref(), Some("400MiB/s"));
        let rpo = &config.group[0].rpo;
        assert_eq!((rpo.warn.as_deref(), rpo.error.as_deref()), (Some("5s"), Some("60s")));
        let said = config.receiver.retention.said().unwrap();
        assert_eq!((said.every_write_seconds, said.every_minute_seconds), (Some(86_400), Some(604_800)));
        assert_eq!((said.hourly_seconds, said.marks_seconds), (Some(2_592_000), Some(31_536_000)));
        let volume = &config.group[0].volume[0];
        assert_eq!((config.group[0].name.as_str(), volume.name.as_str()), ("db", "data"));
        assert_eq!((volume.path.as_path(), volume.tracker), (Path::new("/dev/vg0/db"), Tracker::Tap));
        assert_eq!(volume.nbd.as_deref(), Some("unix:/run/db.sock"));
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.state(&Global::default()), Path::new("/var/lib/backspool"));
        assert_eq!(config.store(), Path::new("/srv/backspool"));
    }

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let failure = Config::parse(text).unwrap_err().in_file(Path::new("b.toml"));
        assert_eq!(failure.exit(), 2);
        assert_eq!(failure.text(Paint::plain()), format!("error[E0204]: {expect}"));
    }

    #[test]
    fn an_unknown_key_is_an_error_with_line_and_suggestion() {
        check("[agent]\n\nstat = '/s'\n", "b.toml line 3: unknown key `stat`\n  try: `state`");
        check("[receiver.retention]\nhourli = '1d'\n", "b.toml line 2: unknown key `hourli`\n  try: `hourly`");
        check("[receiver]\nstoer = '/s'\n", "b.toml line 2: unknown key `stoer`\n  try: `store`");
        check("[[group]]\nname = 'db'\n[[group.volum]]\n", "b.toml line 3: unknown key `volum`\n  try: `volume`");
        check("[agnet]\n", "b.toml line 1: unknown key `agnet`\n  try: `agent`");
        check(
            "[[group]]\nname = 'db'\nfizz = 1\n",
            "b.toml line 3: unknown key `fizz`\n  try: one of: name, volume, spool, flush, flush_wait, limit, rpo",
        );
        check("[[group]]\nname = 'db'\nlimt = '1MiB/s'\n", "b.toml line 3: unknown key `limt`\n  try: `limit`");
        check("[[group]]\nname = 'db'\nrpo = { warm = '5s' }\n", "b.toml line 3: unknown key `warm`\n  try: `warn`");
    }

    #[test]
    fn what_is_wrong_otherwise_is_said_with_its_line() {
        let fault = Config::parse("[agent]\nstate = 7\n").unwrap_err();
        assert_eq!(fault.line, Some(2));
        assert!(fault.message.contains("invalid type"), "{}", fault.message);
        assert_eq!(Config::parse("[agent\n").unwrap_err().line, Some(1));
        let fault = Config::parse("[[group]]\nname = 'a'\n[[group.volume]]\nname = 'b'\npath = '/b'\n").unwrap_err();
        assert!(fault.message.contains("missing field `tracker`"), "{}", fault.message);
        let volume = "[[group]]\nname = 'a'\n[[group.volume]]\nname = 'b'\npath = '/b'\ntracker = 'scan'\n";
        let fault = Config::parse(volume).unwrap_err();
        assert_eq!((fault.line, fault.message.as_str()), (Some(6), "unknown variant `scan`, expected `tap`"));
    }
}
