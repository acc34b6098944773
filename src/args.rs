//! What was typed: flags and arguments as text. What it means is each verb's own affair.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

/// Continuous data protection for Linux block devices and large files.
#[derive(Debug, Parser)]
#[command(name = "backspool", version, max_term_width = 110, arg_required_else_help = false)]
#[command(after_help = "Every verb has --help with an example. Exit codes: `backspool explain CODE`.")]
pub(crate) struct Cli {
    /// Flags of every verb.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags of every verb.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The config file [default: /etc/backspool/backspool.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The agent's state directory [default: the config's, else /var/lib/backspool]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// The socket to ask, or to answer on [default: DIR/control.sock, STATE/agent.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// One JSON document on one line instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No hints and no progress
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to use colours
    #[arg(long, global = true, value_name = "MODE", value_enum, default_value_t)]
    pub(crate) color: Color,
    /// Answer every question with yes
    #[arg(long, global = true)]
    pub(crate) yes: bool,
    /// Show what would be done, and do nothing
    #[arg(long, global = true)]
    pub(crate) dry_run: bool,
}

/// When to use colours: `Auto` is on a terminal, unless NO_COLOR is set.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the main job on an embedded example, and check every byte; needs no root
    #[command(after_help = "Example:\n  backspool demo --keep")]
    Demo(Demo),
    /// Run the receiver; it makes DIR on first use
    #[command(after_help = "Example:\n  backspool serve /srv/backspool --listen 0.0.0.0:7440")]
    Serve(Serve),
    /// Make an invitation for one agent, good once; run it on the receiver's machine
    #[command(after_help = "Example:\n  backspool invite web-1 --ttl 15m --address backup.example.com:7440")]
    Invite(Invite),
    /// Let this machine's agent into a receiver; run it on the source's machine
    #[command(after_help = "Example:\n  backspool join bsp1-…")]
    Join(Join),
    /// Run the agent, for the volumes named here
    #[command(after_help = "Examples:\n  backspool protect db=/srv/db.img --tracker tap --nbd unix:/run/db.sock\n  \
                            backspool protect db=/srv/db.img --tracker tap --spool-size 20GiB --when-full block-writes\n  \
                            backspool protect db=/srv/db.img --tracker tap --flush durable --flush-wait 2s\n  \
                            backspool protect db=/srv/db.img --tracker tap --limit 400MiB/s --rpo-warn 5s --rpo-error 60s\n  \
                            backspool protect db=/srv/new.img --tracker tap --replaced")]
    Protect(Protect),
    /// Run the agent, for all groups of the config file
    #[command(after_help = "Example:\n  backspool agent --config /etc/backspool/backspool.toml")]
    Agent(Agent),
    /// Show state, recovery point objective, lag and window of the groups
    #[command(after_help = "Examples:\n  backspool status\n  backspool status db --watch\n  \
                            backspool status db --check --warn 5s --crit 60s")]
    Status(Status),
    /// Show the timeline of a group: points, marks and gaps
    #[command(after_help = "Example:\n  backspool points db --since '1 hour ago' --limit 20")]
    Points(Points),
    /// Name a point that includes every write acknowledged before
    #[command(after_help = "Example:\n  backspool mark db before-upgrade --lock 30d")]
    Mark(Mark),
    /// Write a volume as it was at an instant
    #[command(after_help = "Examples:\n  backspool restore db --at '10 minutes ago' --to /srv/db-then.img\n  \
                            backspool restore db --at mark:before-upgrade --to - | nbdcopy - nbd://target\n  \
                            backspool restore db --since '1 hour ago' --at latest --to /srv/db-then.img")]
    Restore(Restore),
    /// Take the replica image, or with --live the source itself, back to an instant
    ///
    /// Only blocks that differ are written.
    #[command(after_help = "Examples:\n  backspool rollback db --at mark:before-upgrade --dry-run\n  \
                            backspool rollback db --at 09:15 --yes\n  backspool rollback db --undo --yes\n  \
                            backspool rollback db --at mark:before-upgrade --live\n  \
                            backspool rollback db --undo --live")]
    Rollback(Rollback),
    /// Show what differs between two points: how much of each volume, and with --map where
    ///
    /// Contents are compared, in blocks of 4 KiB: what was written with what was there before does not differ. Beyond its end a volume
    /// reads as zeroes. The two points may be in either order.
    #[command(after_help = "Examples:\n  backspool diff db --from '1 hour ago' --to latest\n  \
                            backspool diff db/data --from mark:before-upgrade --to now --map")]
    Diff(Diff),
    /// Serve a volume as it was at an instant over NBD, until stopped
    ///
    /// What clients see does not change while replication goes on. With --writable their changes are kept in a scratch, and are gone with
    /// the export. It ends with this process, or when --release is called with the same address; `status` shows what is exported.
    #[command(after_help = "Examples:\n  backspool export db --at '10 minutes ago' --nbd unix:/run/then.sock\n  \
                            backspool export db/data --at mark:before-upgrade --nbd 127.0.0.1:10809 --writable\n  \
                            backspool export db --nbd unix:/run/then.sock --release")]
    Export(Export),
    /// Mount the past of a group as files, one for every instant, until stopped
    ///
    /// DIR/latest.img is the newest point when it is opened, DIR/marks/NAME.img a mark, and DIR/WHEN.img any instant, whether it is listed
    /// or not: '10 minutes ago.img', '2026-11-20T09:15:20.250Z.img', 'seq:123.img'. Of a group with several volumes: DIR/VOLUME/WHEN.img.
    #[command(after_help = "Examples:\n  backspool mount db /mnt/then\n  cp '/mnt/then/10 minutes ago.img' db.img\n  \
                            mount -o ro,loop,noload '/mnt/then/2026-11-20T09:15:20.250Z.img' /mnt/files")]
    Mount(Mount),
    /// Take off what `mount` has mounted, also after its receiver was killed
    #[command(after_help = "Example:\n  backspool unmount /mnt/then")]
    Unmount(Unmount),
    /// Run a command on a volume as it was, as after a restore, and take the time
    ///
    /// The command finds a writable view of the point: in $BACKSPOOL_IMAGE as a regular file, in $BACKSPOOL_NBD as an NBD URI. What it
    /// changes is gone with the view, which ends with the command. What it says goes to stderr. The result, with the time until the first
    /// verified byte, is kept and shown by `status`. Replication goes on meanwhile. Exit 14 if the command fails.
    #[command(after_help = "Examples:\n  backspool drill db --at latest --run 'e2fsck -fn \"$BACKSPOOL_IMAGE\"'\n  \
                            backspool drill db --at '1 hour ago' --timeout 10m --run 'nbdinfo \"$BACKSPOOL_NBD\"'")]
    Drill(Drill),
    /// Let the receiver write to the source for a while, for a live rollback
    ///
    /// Run it on the source's machine.
    #[command(
        after_help = "Examples:\n  backspool allow db --for 10m\n  backspool allow db --for 0s\n  backspool allow db --give-up"
    )]
    Allow(Allow),
    /// Read and check everything that is kept of a group, and mend what is damaged
    ///
    /// Damage is reported and mended: indexes and the replica image are made anew, and what no longer checks out is set aside, so that the
    /// group can go on. Exit 14 if there was any damage, mended or not. It needs no agent, and the group is served meanwhile.
    #[command(after_help = "Examples:\n  backspool verify db\n  backspool verify db --json")]
    Verify(Verify),
    /// Show or set what is kept of a group, and for how long
    ///
    /// Without values: what is kept, and from where each value came. With values: this group's own, over those of the config file. History that
    /// is not kept any more is thinned within a minute, and its space is freed after that. What is promised is never given up for want of space:
    /// with a full disk new history is refused. Without any value, here and in the config file, everything is kept.
    #[command(after_help = "Examples:\n  backspool retention db --explain\n  \
                            backspool retention db --every-write 24h --every-minute 7d --hourly 30d --dry-run\n  \
                            backspool retention db --trust-clock")]
    Retention(Retention),
    /// Print a completion script
    #[command(after_help = "Example:\n  backspool completions bash > /etc/bash_completion.d/backspool")]
    Completions(Completions),
    /// Write the manual pages into a directory
    #[command(after_help = "Example:\n  backspool man /usr/local/share/man/man1")]
    Man(Man),
    /// Tell what an error code means and how to go on
    #[command(after_help = "Example:\n  backspool explain E1301")]
    Explain(Explain),
}

/// `demo`
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Leave the directory, to look around in it
    #[arg(long)]
    pub(crate) keep: bool,
    /// Size of the volume
    #[arg(long, default_value = "256MiB", value_name = "SIZE")]
    pub(crate) size: String,
    /// How long it is written to after the first copy
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
}

/// `serve`
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// What is kept, and all about it [default: the config's, else /srv/backspool]
    pub(crate) dir: Option<PathBuf>,
    /// Where agents reach it [default: the config's, else 0.0.0.0:7440]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<String>,
    /// Keep no replica image
    #[arg(long)]
    pub(crate) no_images: bool,
}

/// `join`
#[derive(Args, Debug)]
pub(crate) struct Join {
    /// What `invite` printed
    #[arg(value_name = "STRING")]
    pub(crate) invitation: String,
}

/// `protect`
#[derive(Args, Debug)]
pub(crate) struct Protect {
    /// A volume's name, and its block device or file
    #[arg(value_name = "NAME=PATH", required = true)]
    pub(crate) volumes: Vec<String>,
    /// One group of this name for all of them [default: a group for each, of its name]
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// What notices changes: the tap is an NBD server in front of the volume
    #[arg(long, value_enum)]
    pub(crate) tracker: Tracker,
    /// Where the tap of all these volumes listens [default: unix:STATE/VOLUME.sock for each]
    #[arg(long, value_name = "unix:PATH|HOST:PORT")]
    pub(crate) nbd: Option<String>,
    /// Let other machines connect to the tap: NBD has neither passwords nor encryption
    #[arg(long)]
    pub(crate) nbd_remote: bool,
    /// How large the agent's own journal of a group may become [default: 8GiB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) spool_size: Option<String>,
    /// What happens to writes while it is full: they are tracked and read later, with a gap in between; or they wait [default: track]
    #[arg(long, value_enum)]
    pub(crate) when_full: Option<WhenFull>,
    /// What a flush, or a write with FUA, waits for: this machine's disk, or a receiver that has it durably too [default: local]
    #[arg(long, value_enum)]
    pub(crate) flush: Option<Flush>,
    /// How long it waits for a receiver; after that flushes are local until the receiver has caught up [default: 5s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) flush_wait: Option<String>,
    /// What a group may take of the link, first copies and resyncs within it, as in 400MiB/s [default: all of it]
    #[arg(long, value_name = "RATE")]
    pub(crate) limit: Option<String>,
    /// From which age of the oldest change that is not durable on the log warns, and `status --check` does [default: 5s for the check]
    #[arg(long, value_name = "DURATION")]
    pub(crate) rpo_warn: Option<String>,
    /// From which age on it is an error [default: 60s for the check]
    #[arg(long, value_name = "DURATION")]
    pub(crate) rpo_error: Option<String>,
    #[command(flatten)]
    pub(crate) decided: Decided,
}

/// `agent`
#[derive(Args, Debug)]
pub(crate) struct Agent {
    /// Let other machines connect to the taps: NBD has neither passwords nor encryption
    #[arg(long)]
    pub(crate) nbd_remote: bool,
    #[command(flatten)]
    pub(crate) decided: Decided,
}

/// What only a person can decide when an agent starts.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Decided {
    /// Go on with groups that would be refused, because this agent's state is a copy or old, or another agent wrote last: everything is
    /// compared, older points stay, and the other agent is refused from then on
    #[arg(long)]
    pub(crate) take_over: bool,
    /// Protect a source that is another file or device than before under its volume's name: it is compared in full, and older
    /// points keep what they have
    #[arg(long)]
    pub(crate) replaced: bool,
}

/// What becomes of writes while the spool is full.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WhenFull {
    /// They are tracked, and a gap opens.
    #[default]
    Track,
    /// They wait.
    BlockWrites,
}

/// What a flush waits for.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Flush {
    /// The source.
    #[default]
    Local,
    /// A receiver too.
    Durable,
}

/// What notices changes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tracker {
    Tap,
}

/// `invite`
#[derive(Args, Debug)]
pub(crate) struct Invite {
    /// What the agent is to be called
    pub(crate) agent: String,
    /// How long it is good for
    #[arg(long, default_value = "15m", value_name = "DURATION")]
    pub(crate) ttl: String,
    /// Where the agent reaches this receiver [default: as the receiver sees itself]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) address: Option<String>,
}

/// `status`
#[derive(Args, Debug)]
pub(crate) struct Status {
    /// Only this group
    pub(crate) group: Option<String>,
    /// Again every second, until stopped
    #[arg(long, conflicts_with = "check")]
    pub(crate) watch: bool,
    /// One line and the exit codes of monitoring plug-ins: 0 ok, 1 warning, 2 critical, 3 unknown
    #[arg(long)]
    pub(crate) check: bool,
    /// From which recovery point objective on it is a warning [default: the group's `rpo.warn`, else 5s]
    #[arg(long, value_name = "DURATION", requires = "check")]
    pub(crate) warn: Option<String>,
    /// From which recovery point objective on it is critical [default: the group's `rpo.error`, else 60s]
    #[arg(long, value_name = "DURATION", requires = "check")]
    pub(crate) crit: Option<String>,
}

/// `points`
#[derive(Args, Debug)]
pub(crate) struct Points {
    /// Which group
    pub(crate) group: String,
    /// Not the points before this
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    pub(crate) since: Option<String>,
    /// Not the points after this
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    pub(crate) until: Option<String>,
    /// At most so many, the newest
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) limit: u64,
}

/// `mark`
#[derive(Args, Debug)]
pub(crate) struct Mark {
    /// Which group
    pub(crate) group: String,
    /// What the point is to be called
    pub(crate) name: String,
    /// How long it must be kept, whatever retention says
    #[arg(long, value_name = "DURATION")]
    pub(crate) lock: Option<String>,
}

/// `restore`
#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// Which group, or which of its volumes
    #[arg(value_name = "GROUP[/VOLUME]")]
    pub(crate) target: String,
    /// The instant: the newest point not after it
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    pub(crate) at: String,
    /// The image is there already, as of this instant: it is verified to be, then only what changed is written into it. A call that was
    /// interrupted is carried on by the same call
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true, conflicts_with = "force")]
    pub(crate) since: Option<String>,
    /// The point nearest to an instant that is not covered
    #[arg(long)]
    pub(crate) nearest: bool,
    /// A file to make (a directory for a group of several volumes), or - for stdout
    #[arg(long, value_name = "PATH|-")]
    pub(crate) to: PathBuf,
    /// Overwrite an existing file or a block device
    #[arg(long)]
    pub(crate) force: bool,
}

/// `rollback`
#[derive(Args, Debug)]
pub(crate) struct Rollback {
    /// Which group
    pub(crate) group: String,
    /// The instant: the newest point not after it; `latest` lets the image follow again
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true, required_unless_present = "undo")]
    pub(crate) at: Option<String>,
    /// Take the last rollback back
    #[arg(long, conflicts_with_all = ["at", "nearest"])]
    pub(crate) undo: bool,
    /// The point nearest to an instant that is not covered
    #[arg(long)]
    pub(crate) nearest: bool,
    /// The source itself, through its agent, which must have been told `allow`
    #[arg(long)]
    pub(crate) live: bool,
    /// Even while clients are attached to the tap: they are put out, and must not use again what they have mounted or cached
    #[arg(long, requires = "live")]
    pub(crate) force_attached: bool,
}

/// `allow`
#[derive(Args, Debug)]
pub(crate) struct Allow {
    /// Which group
    pub(crate) group: String,
    /// For how long from now on, at most a day; `0s`: not any more
    #[arg(long = "for", value_name = "DURATION", required_unless_present = "give_up", conflicts_with = "give_up")]
    pub(crate) time: Option<String>,
    /// A live rollback that was begun and cannot be finished is not gone on with: its volumes stay a mix of now and then, until another one or a
    /// restore; clients come in, and everything is compared
    #[arg(long)]
    pub(crate) give_up: bool,
}

/// `diff`
#[derive(Args, Debug)]
pub(crate) struct Diff {
    /// Which group, or which of its volumes
    #[arg(value_name = "GROUP[/VOLUME]")]
    pub(crate) target: String,
    /// The one instant: the newest point not after it
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    pub(crate) from: String,
    /// The other instant
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    pub(crate) to: String,
    /// The points nearest to instants that are not covered
    #[arg(long)]
    pub(crate) nearest: bool,
    /// Where: offset and length of each run of blocks that differ, in bytes
    #[arg(long)]
    pub(crate) map: bool,
}

/// `export`
#[derive(Args, Debug)]
pub(crate) struct Export {
    /// Which group, or which of its volumes
    #[arg(value_name = "GROUP[/VOLUME]")]
    pub(crate) target: String,
    /// The instant: the newest point not after it
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true, required_unless_present = "release")]
    pub(crate) at: Option<String>,
    /// The point nearest to an instant that is not covered
    #[arg(long)]
    pub(crate) nearest: bool,
    /// Where it is served
    #[arg(long, value_name = "unix:PATH|HOST:PORT")]
    pub(crate) nbd: String,
    /// Let other machines connect: NBD has neither passwords nor encryption
    #[arg(long)]
    pub(crate) nbd_remote: bool,
    /// Let clients write, into a scratch of the export's own
    #[arg(long)]
    pub(crate) writable: bool,
    /// How much the scratch may hold; beyond, writes fail [default: 10GiB]
    #[arg(long, value_name = "SIZE", requires = "writable")]
    pub(crate) scratch_size: Option<String>,
    /// End the export that is served there
    #[arg(long, conflicts_with_all = ["at", "nearest", "nbd_remote", "writable", "scratch_size"])]
    pub(crate) release: bool,
}

/// `mount`
#[derive(Args, Debug)]
pub(crate) struct Mount {
    /// Which group
    pub(crate) group: String,
    /// An empty directory
    pub(crate) dir: PathBuf,
}

/// `unmount`
#[derive(Args, Debug)]
pub(crate) struct Unmount {
    /// Where it is mounted
    pub(crate) dir: PathBuf,
    /// Although it is in use: who uses it gets errors
    #[arg(long)]
    pub(crate) force: bool,
}

/// `drill`
#[derive(Args, Debug)]
pub(crate) struct Drill {
    /// Which group, or which of its volumes
    #[arg(value_name = "GROUP[/VOLUME]")]
    pub(crate) target: String,
    /// The instant: the newest point not after it
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    pub(crate) at: String,
    /// The point nearest to an instant that is not covered
    #[arg(long)]
    pub(crate) nearest: bool,
    /// What is run, by /bin/sh; 0 is a success
    #[arg(long, value_name = "CMD")]
    pub(crate) run: String,
    /// How long it may take; then it is ended, and has failed [default: for ever]
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
    /// How much it may change; beyond, writes fail [default: 10GiB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) scratch_size: Option<String>,
}

/// `retention`
#[derive(Args, Debug)]
pub(crate) struct Retention {
    /// Which group
    pub(crate) group: String,
    /// How long every write is a point
    #[arg(long, value_name = "DURATION")]
    pub(crate) every_write: Option<String>,
    /// How long the last point of each minute is kept
    #[arg(long, value_name = "DURATION")]
    pub(crate) every_minute: Option<String>,
    /// How long the last point of each hour is kept
    #[arg(long, value_name = "DURATION")]
    pub(crate) hourly: Option<String>,
    /// How long marks are kept; locked ones are until their lock ends
    #[arg(long, value_name = "DURATION")]
    pub(crate) marks: Option<String>,
    /// Also what it comes to: points, bytes that nobody can see, bytes written to free others
    #[arg(long)]
    pub(crate) explain: bool,
    /// Say that the receiver's clock is right although it jumped, as after the machine was switched off: history expires again
    #[arg(long)]
    pub(crate) trust_clock: bool,
}

/// `verify`
#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// Which group
    pub(crate) group: String,
}

/// `completions`
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// For which shell
    pub(crate) shell: clap_complete::Shell,
}

/// `man`
#[derive(Args, Debug)]
pub(crate) struct Man {
    /// Where to; it is made when it is missing
    pub(crate) dir: PathBuf,
}

/// `explain`
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// The code of an error, as in E1301
    pub(crate) code: String,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_tree_is_sound_and_every_verb_has_an_example() {
        let mut tree = Cli::command();
        tree.clone().debug_assert();
        for verb in tree.get_subcommands_mut() {
            let example = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            let call = format!("backspool {}", verb.get_name());
            assert!(example.starts_with("Example") && example.contains(&call), "{}", verb.get_name());
        }
    }
}
