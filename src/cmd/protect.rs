//! `protect` and `agent`: the agent, until it is stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use agent::Address;
use agent::capture::Terms;
use agent::run::{Event, GroupOptions, ProtectOptions, Rpo, protect};
use serde_json::json;

use super::{Context, Outcome, allow_many_files, stopped};
use crate::args::{Agent, Decided, Flush, Protect, Tracker, WhenFull};
use crate::config::{self, Config, Group, Spool, Volume};
use crate::error::Failure;
use crate::names::Name;
use crate::units::{parse_duration, parse_rate, parse_size};

/// `protect`
pub(super) async fn run(context: &Context, args: &Protect) -> Outcome {
    run_groups(context, &Config::load(&context.global)?, &typed(args)?, args.nbd_remote, args.decided).await
}

/// `agent`
pub(super) async fn run_config(context: &Context, args: &Agent) -> Outcome {
    let config = Config::load(&context.global)?;
    if config.group.is_empty() {
        let failure = Failure::new("E0204", "the config file has no group to protect");
        return Err(failure.advise("add a [[group]] to it, or name volumes: backspool protect --help"));
    }
    run_groups(context, &config, &config.group, args.nbd_remote, args.decided).await
}

async fn run_groups(
    context: &Context,
    config: &Config,
    groups: &[Group],
    nbd_remote: bool,
    decided: Decided,
) -> Outcome {
    context.refuse_dry_run("protect")?;
    unique("groups", groups.iter().map(|group| group.name.as_str()))?;
    let options = ProtectOptions {
        state_dir: config.state(&context.global),
        groups: groups.iter().map(|group| checked(group, decided)).collect::<Result<_, _>>()?,
        nbd: addresses(groups)?,
        remote: if nbd_remote { agent::RemoteClients::Allowed } else { agent::RemoteClients::Refused },
        socket: context.global.socket.clone(),
    };
    context.arm_failpoints()?;
    allow_many_files();
    let out = context.out;
    // Whoever started it may not read: that does not stop an agent.
    let tell = move |event: Event| _ = out.result(&json!(event), || told(&event));
    protect(options, tell, stopped()?).await.map_err(|error| Failure::from(&error))?;
    Ok(0)
}

/// What the command line names, in the config file's terms.
fn typed(args: &Protect) -> Result<Vec<Group>, Failure> {
    let spool = || Spool { size: args.spool_size.clone(), when_full: args.when_full };
    let rpo = || config::Rpo { warn: args.rpo_warn.clone(), error: args.rpo_error.clone() };
    let group = |name: &str, volume: Vec<Volume>| Group {
        name: name.to_owned(),
        volume,
        spool: spool(),
        flush: args.flush,
        flush_wait: args.flush_wait.clone(),
        limit: args.limit.clone(),
        rpo: rpo(),
    };
    let mut volumes = Vec::new();
    for text in &args.volumes {
        let Some((name, path)) = text.split_once('=').filter(|(_, path)| !path.is_empty()) else {
            return Err(Failure::argument(format!("{text:?} is not NAME=PATH")).advise("as in db=/srv/db.img"));
        };
        let (name, path) = (name.to_owned(), path.into());
        volumes.push(Volume { name, path, tracker: args.tracker, nbd: args.nbd.clone() });
    }
    Ok(match &args.group {
        Some(name) => vec![group(name, volumes)],
        None => volumes.into_iter().map(|volume| group(&volume.name.clone(), vec![volume])).collect(),
    })
}

fn checked(group: &Group, decided: Decided) -> Result<GroupOptions, Failure> {
    let name = Name::parse("a group", &group.name)?;
    if group.volume.is_empty() {
        return Err(Failure::argument(format!("group {name} has no volume")).advise("add a [[group.volume]]"));
    }
    unique("volumes", group.volume.iter().map(|volume| volume.name.as_str()))?;
    let mut volumes = Vec::new();
    for Volume { name, path, tracker: Tracker::Tap, .. } in &group.volume {
        let name = Name::parse("a volume", name)?;
        let path = std::path::absolute(path).map_err(|error| Failure::caused(format!("cannot find {name}"), &error))?;
        volumes.push((name.to_string(), path));
    }
    let spool_limit_bytes = group.spool.size.as_deref().map_or(Ok(SPOOL_BYTES), parse_size)?;
    let Decided { take_over, replaced } = decided;
    let limit_bytes_per_second = group.limit.as_deref().map(parse_rate).transpose()?;
    let (terms, rpo) = (terms(group)?, rpo(&group.rpo)?);
    let name = name.to_string();
    Ok(GroupOptions { name, volumes, spool_limit_bytes, terms, limit_bytes_per_second, rpo, take_over, replaced })
}

/// How much may be exposed.
fn rpo(group: &config::Rpo) -> Result<Rpo, Failure> {
    let age = |text: &Option<String>| text.as_deref().map(parse_duration).transpose();
    let rpo = Rpo { warn: age(&group.warn)?, error: age(&group.error)? };
    match rpo {
        Rpo { warn: Some(warn), error: Some(error) } if warn > error => {
            let failure = Failure::argument("rpo.warn is longer than rpo.error: nobody would be warned");
            Err(failure.advise("as in rpo = { warn = \"5s\", error = \"60s\" }"))
        }
        rpo => Ok(rpo),
    }
}

/// What may be asked of the host.
fn terms(group: &Group) -> Result<Terms, Failure> {
    let wait = group.flush_wait.as_deref().map_or(Ok(FLUSH_WAIT), parse_duration)?;
    if wait.is_zero() || wait > FLUSH_WAIT_MAX {
        let failure = Failure::argument(format!("a flush cannot wait for {} s", wait.as_secs_f64()));
        return Err(failure.advise("1ms to 60s: clients give up on a volume that does not answer"));
    }
    let when_full = match group.spool.when_full.unwrap_or_default() {
        WhenFull::Track => agent::capture::WhenFull::Track,
        WhenFull::BlockWrites => agent::capture::WhenFull::BlockWrites,
    };
    let flush_wait = match group.flush.unwrap_or_default() {
        Flush::Local => None,
        Flush::Durable => Some(wait),
    };
    Ok(Terms { when_full, flush_wait })
}

/// Where volumes are served that do not have the default, by group and volume.
fn addresses(groups: &[Group]) -> Result<BTreeMap<(String, String), Address>, Failure> {
    let all = groups.iter().flat_map(|group| group.volume.iter().map(move |volume| (group, volume)));
    let chosen = all.filter_map(|(group, volume)| volume.nbd.as_deref().map(|nbd| (group, volume, nbd)));
    chosen.map(|(group, volume, nbd)| Ok(((group.name.clone(), volume.name.clone()), parsed(nbd)?))).collect()
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Failure::argument(format!("two {what} are called {name}")));
        }
    }
    Ok(())
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|error: T::Err| Failure::argument(error.to_string()))
}

fn told(event: &Event) -> String {
    match event {
        Event::Ready { volumes, .. } => {
            let line =
                |served: &agent::run::Served| format!("{}/{} is served on {}", served.group, served.volume, served.nbd);
            volumes.iter().map(line).collect::<Vec<_>>().join("\n")
        }
        Event::Stopped => "stopped".to_owned(),
    }
}

const SPOOL_BYTES: u64 = 8 << 30;
/// Longer than a receiver that works ever takes, and as long as it takes to notice one that does not.
const FLUSH_WAIT: Duration = Duration::from_secs(5);
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes(volumes: &[&str], group: Option<&str>) -> Protect {
        Protect {
            volumes: volumes.iter().map(ToString::to_string).collect(),
            group: group.map(str::to_owned),
            tracker: Tracker::Tap,
            nbd: None,
            nbd_remote: false,
            spool_size: None,
            when_full: None,
            flush: None,
            flush_wait: None,
            limit: None,
            rpo_warn: None,
            rpo_error: None,
            decided: Decided::default(),
        }
    }

    fn shape(args: &Protect) -> Vec<(String, Vec<String>)> {
        let groups: Vec<_> =
            typed(args).unwrap().iter().map(|group| checked(group, Decided::default()).unwrap()).collect();
        let names = |group: GroupOptions| (group.name, group.volumes.into_iter().map(|(name, _)| name).collect());
        groups.into_iter().map(names).collect()
    }

    #[test]
    fn a_name_makes_a_group_unless_there_is_one_for_all() {
        let group = |name: &str, volumes: &[&str]| (name.to_owned(), volumes.iter().map(ToString::to_string).collect());
        assert_eq!(shape(&volumes(&["a=/a", "b=/b"], None)), [group("a", &["a"]), group("b", &["b"])]);
        assert_eq!(shape(&volumes(&["a=/a", "b=/b=c"], Some("db"))), [group("db", &["a", "b"])]);
    }

    #[test]
    fn what_cannot_be_protected_is_refused() {
        let refused = |args: &Protect| {
            let checked = typed(args).and_then(|groups| {
                groups.iter().map(|group| checked(group, Decided::default())).collect::<Result<Vec<_>, _>>()
            });
            checked.unwrap_err().exit()
        };
        for bad in ["a", "a=", "=/a", "A=/a", "a/b=/a"] {
            assert_eq!(refused(&volumes(&[bad], None)), 2, "{bad}");
        }
        assert_eq!(refused(&volumes(&["a=/a", "a=/b"], Some("db"))), 2);
        assert_eq!(refused(&volumes(&["a=/a"], Some("../db"))), 2);
        let text = |text: &str| Some(text.to_owned());
        for bad in [
            Protect { spool_size: text("much"), ..volumes(&["a=/a"], None) },
            Protect { limit: text("400MiB"), ..volumes(&["a=/a"], None) },
            Protect { rpo_warn: text("soon"), ..volumes(&["a=/a"], None) },
            Protect { rpo_warn: text("60s"), rpo_error: text("5s"), ..volumes(&["a=/a"], None) },
        ] {
            assert_eq!(refused(&bad), 2, "{bad:?}");
        }
    }

    #[test]
    fn what_is_typed_is_what_the_group_gets() {
        let text = |text: &str| Some(text.to_owned());
        let args = Protect { limit: text("400MiB/s"), rpo_warn: text("5s"), ..volumes(&["a=/a", "b=/b"], None) };
        for group in typed(&args).unwrap() {
            let options = checked(&group, Decided::default()).unwrap();
            assert_eq!(options.limit_bytes_per_second, Some(400 << 20));
            assert_eq!(options.rpo, Rpo { warn: Some(Duration::from_secs(5)), error: None });
        }
    }

    #[test]
    fn a_volume_has_an_address_of_its_own_or_none() {
        let volume = |name: &str, nbd: Option<&str>| {
            let nbd = nbd.map(str::to_owned);
            Volume { name: name.to_owned(), path: "/a".into(), tracker: Tracker::Tap, nbd }
        };
        let group = |name: &str, volume: Vec<Volume>| Group {
            name: name.to_owned(),
            volume,
            spool: Spool::default(),
            flush: None,
            flush_wait: None,
            limit: None,
            rpo: config::Rpo::default(),
        };
        let (x, y) = (volume("a", Some("unix:/x")), volume("a", Some("127.0.0.1:10809")));
        let groups = [group("g", vec![x, volume("b", None)]), group("h", vec![y])];
        let key = |group: &str| (group.to_owned(), "a".to_owned());
        let expect = [(key("g"), parsed("unix:/x").unwrap()), (key("h"), parsed("127.0.0.1:10809").unwrap())];
        assert_eq!(addresses(&groups).unwrap(), expect.into());
        assert_eq!(addresses(&[group("g", vec![volume("a", Some("x"))])]).unwrap_err().exit(), 2);
    }
}
