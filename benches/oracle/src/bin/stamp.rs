//! Fills a volume, writes stamped operations to it over NBD, and judges images of it. One line of JSON for each result.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use oracle::{
    Client, Fill, History, Hot, Micros, Pattern, Recorder, SizeShare, Stats, Volume, Workload, fill_initial, image_of,
};

const USAGE: &str = "\
stamp fill PATH SIZE SEED [--holes PERCENT] [--fill random|half]
stamp run ADDRESS --history FILE [--export NAME] [--seconds N] [--ops N] [--connections N] [--rate OPS/S]
    [--sizes BYTES[:WEIGHT],...] [--pattern random|sequential] [--hot BYTES:PERCENT] [--flush-every N] [--fua PERCENT]
    [--zero PERCENT] [--trim PERCENT] [--overlap yes] [--reconnect SECONDS] [--run-seed N]
    [--seed SEED] [--holes PERCENT] [--fill random|half]
stamp judge --history FILE --at US IMAGE
stamp crash --history FILE [--floor US] IMAGE

ADDRESS is unix:PATH or HOST:PORT. `run` goes on with FILE if it exists; else --seed, --holes and --fill say what the volume
was filled with. `judge` asks whether IMAGE is the volume as of a microsecond, `crash` whether it is any one state of it,
and how much of what was acknowledged it lacks. Exit 14: it is not; 2: wrong arguments; 1: anything else that fails.";

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(why) => return usage(&why),
    };
    let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["fill", path, size, seed] => fill(&args, path, size, seed),
        ["run", address] => run(&args, address),
        ["judge", image] => judge(&args, image),
        ["crash", image] => crash(&args, image),
        _ => return usage("no such command"),
    };
    match done {
        Ok((json, legal)) => {
            println!("{json}");
            if legal { ExitCode::SUCCESS } else { ExitCode::from(14) }
        }
        Err(error) => {
            eprintln!("stamp: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// A line of JSON, and whether what was judged is legal.
type Done = Result<(String, bool), Box<dyn std::error::Error>>;

fn usage(why: &str) -> ExitCode {
    eprintln!("stamp: {why}\n{USAGE}");
    ExitCode::from(2)
}

fn fill(args: &Args, path: &str, size: &str, seed: &str) -> Done {
    let volume = args.volume(seed.parse()?, size.parse()?)?;
    fill_initial(Path::new(path), &volume)?;
    Ok((format!("{{\"size\":{},\"seed\":{}}}", volume.size_bytes, volume.seed), true))
}

fn run(args: &Args, address: &str) -> Done {
    let mut load = Workload::new(address, args.get("export").unwrap_or_default());
    load.connections = args.number("connections")?.unwrap_or(load.connections);
    load.seed = args.number("run-seed")?.unwrap_or(load.seed);
    load.rate = args.number("rate")?;
    load.flush_every = args.number("flush-every")?;
    load.fua_percent = args.number("fua")?.unwrap_or(0);
    load.zero_percent = args.number("zero")?.unwrap_or(0);
    load.trim_percent = args.number("trim")?.unwrap_or(0);
    load.overlap = args.get("overlap") == Some("yes");
    load.ops_max = args.number("ops")?;
    load.time_max = args.number("seconds")?.map(Duration::from_secs);
    load.reconnect = args.number("reconnect")?.map(Duration::from_secs);
    if let Some(pattern) = args.get("pattern") {
        load.pattern = if pattern == "sequential" { Pattern::Sequential } else { Pattern::Random };
    }
    if let Some(sizes) = args.get("sizes") {
        load.sizes = sizes.split(',').map(size_share).collect::<Result<_, _>>()?;
    }
    if let Some(hot) = args.get("hot") {
        let (bytes, percent) = hot.split_once(':').ok_or("--hot wants BYTES:PERCENT")?;
        load.hot = Some(Hot { bytes: bytes.parse()?, percent: percent.parse()? });
    }
    let path = Path::new(args.required("history")?);
    let recorder = if path.exists() {
        Recorder::reopen(path)?
    } else {
        let seed = args.number("seed")?.ok_or("a new history needs --seed")?;
        let size = Client::connect(address, &load.export)?.size_bytes();
        Recorder::create(path, args.volume(seed, size)?)?
    };
    let stats = load.run(&recorder, &AtomicBool::new(false))?;
    Ok((Stats::to_json(&stats), true))
}

fn size_share(text: &str) -> Result<SizeShare, std::num::ParseIntError> {
    let (bytes, weight) = text.split_once(':').unwrap_or((text, "1"));
    Ok(SizeShare { bytes: bytes.parse()?, weight: weight.parse()? })
}

fn judge(args: &Args, image: &str) -> Done {
    let history = History::read(Path::new(args.required("history")?))?;
    let at = args.number("at")?.ok_or("--at is missing")?;
    let verdict = history.judge(Micros(at), &mut image_of(&File::open(image)?))?;
    Ok((verdict.to_json(), verdict.is_legal()))
}

fn crash(args: &Args, image: &str) -> Done {
    let history = History::read(Path::new(args.required("history")?))?;
    let floor = args.number("floor")?.map(Micros);
    let crash = history.judge_crash(floor, &mut image_of(&File::open(image)?))?;
    Ok((crash.to_json(), crash.verdict.is_legal()))
}

/// The command line: words, and options with one value each.
struct Args {
    words: Vec<String>,
    options: HashMap<String, String>,
}

impl Args {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut words, mut options) = (Vec::new(), HashMap::new());
        while let Some(arg) = args.next() {
            match arg.strip_prefix("--") {
                Some(name) if OPTIONS.contains(&name) => {
                    let value = args.next().ok_or_else(|| format!("{arg} wants a value"))?;
                    options.insert(name.to_owned(), value);
                }
                Some(_) => return Err(format!("no such option: {arg}")),
                None => words.push(arg),
            }
        }
        Ok(Self { words, options })
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    fn required(&self, name: &str) -> Result<&str, String> {
        self.get(name).ok_or_else(|| format!("--{name} is missing"))
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, String> {
        let parse = |text: &str| text.parse().map_err(|_| format!("--{name} {text}: not a number in range"));
        self.get(name).map(parse).transpose()
    }

    fn volume(&self, seed: u64, size_bytes: u64) -> Result<Volume, String> {
        let plain = Volume::new(seed, size_bytes);
        let holes_percent = self.number("holes")?.unwrap_or(plain.holes_percent);
        let fill = if self.get("fill") == Some("half") { Fill::Half } else { Fill::Random };
        Ok(Volume { holes_percent, fill, ..plain })
    }
}

const OPTIONS: [&str; 21] = [
    "at",
    "connections",
    "export",
    "fill",
    "floor",
    "flush-every",
    "fua",
    "history",
    "holes",
    "hot",
    "ops",
    "overlap",
    "pattern",
    "rate",
    "reconnect",
    "run-seed",
    "seconds",
    "seed",
    "sizes",
    "trim",
    "zero",
];
