//! Writes stamped operations to an NBD server and notes each one.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::client::{self, Client};
use crate::log::{Recorder, Ticket};
use crate::op::{Kind, Micros, Sectors};
use crate::pick::{Hot, InFlight, Pattern, Picker, SizeShare};
use crate::stamp::SECTOR_BYTES;

/// What to write, and for how long. Each connection is a thread with one operation in flight.
#[derive(Clone, Debug)]
pub struct Workload {
    /// `unix:PATH` or `HOST:PORT`.
    pub address: String,
    /// Name of the export.
    pub export: String,
    /// How many operations may be in flight at once.
    pub connections: u16,
    /// Where they go.
    pub pattern: Pattern,
    /// How large they are.
    pub sizes: Vec<SizeShare>,
    /// A part that is written more often.
    pub hot: Option<Hot>,
    /// Decides what each connection does.
    pub seed: u64,
    /// Operations a second over all connections; `None` is as many as possible.
    pub rate: Option<u32>,
    /// Each connection flushes after so many operations of its own.
    pub flush_every: Option<u32>,
    /// How many of 100 writes are FUA.
    pub fua_percent: u8,
    /// How many of 100 operations write zeroes.
    pub zero_percent: u8,
    /// How many of 100 operations discard.
    pub trim_percent: u8,
    /// Lets operations in flight overlap each other, whose order is then not known.
    pub overlap: bool,
    /// Ends after so many changing operations.
    pub ops_max: Option<u64>,
    /// Ends after so long.
    pub time_max: Option<Duration>,
    /// When a connection is lost, tries for so long to get a new one; `None` ends that connection's work.
    pub reconnect: Option<Duration>,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Acknowledged operations that change content.
    pub ops: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Acknowledged flushes.
    pub flushes: u64,
    /// Operations that the server answered with an error.
    pub refused: u64,
    /// Operations without an answer.
    pub in_doubt: u64,
    /// Connections made again.
    pub reconnects: u64,
    /// From the first connection to the last answer.
    pub elapsed: Duration,
    /// Microseconds from sending to the reply, of acknowledged changes.
    pub latency_us: Histogram<u64>,
    /// The same of flushes.
    pub flush_latency_us: Histogram<u64>,
}

/// Why a run could not go on. A lost connection is no error: it ends the run, or is made again.
#[derive(Debug)]
pub enum Error {
    /// The server was not there at the start, or offers something else.
    Server(client::Error),
    /// The export is not of the volume's size (in bytes).
    Size {
        /// What the server says.
        export: u64,
        /// What the history says.
        volume: u64,
    },
    /// The list of operations could not be written.
    Log(io::Error),
}

impl Workload {
    /// Random writes of 4 KiB on one connection, without end.
    pub fn new(address: &str, export: &str) -> Self {
        Self {
            address: address.to_owned(),
            export: export.to_owned(),
            connections: 1,
            pattern: Pattern::Random,
            sizes: vec![SizeShare { bytes: 4096, weight: 1 }],
            hot: None,
            seed: 1,
            rate: None,
            flush_every: None,
            fua_percent: 0,
            zero_percent: 0,
            trim_percent: 0,
            overlap: false,
            ops_max: None,
            time_max: None,
            reconnect: None,
        }
    }

    /// Runs until `stop` is set, a limit is reached or the server is gone, noting every operation in `recorder`.
    ///
    /// # Errors
    /// When no connection can be made at the start, the export is another volume, or the log cannot be written.
    pub fn run(&self, recorder: &Recorder, stop: &AtomicBool) -> Result<Stats, Error> {
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            let client = Client::connect(&self.address, &self.export).map_err(Error::Server)?;
            let (export, volume) = (client.size_bytes(), recorder.volume().size_bytes);
            if export != volume {
                return Err(Error::Size { export, volume });
            }
            clients.push(client);
        }
        let shared = Shared {
            load: self,
            recorder,
            stop,
            start: Instant::now(),
            ops: AtomicU64::new(0),
            in_flight: InFlight::default(),
        };
        let mut total = Stats::new();
        thread::scope(|scope| {
            let workers: Vec<_> = (0_u16..)
                .zip(clients)
                .map(|(writer, client)| {
                    let worker = Worker::new(&shared, client, writer);
                    scope.spawn(move || worker.run())
                })
                .collect();
            workers.into_iter().try_for_each(|worker| {
                let stats = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                total.add(&stats);
                Ok(())
            })
        })?;
        total.elapsed = shared.start.elapsed();
        Ok(total)
    }
}

/// What the connections share.
struct Shared<'a> {
    load: &'a Workload,
    recorder: &'a Recorder,
    stop: &'a AtomicBool,
    start: Instant,
    /// Operations begun.
    ops: AtomicU64,
    in_flight: InFlight,
}

impl Shared<'_> {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.load.time_max.is_some_and(|max| self.start.elapsed() >= max)
    }

    /// Waits for this operation's turn; false when there is none.
    fn turn(&self) -> bool {
        let begun = self.ops.fetch_add(1, Ordering::Relaxed);
        if self.load.ops_max.is_some_and(|max| begun >= max) {
            return false;
        }
        let Some(rate) = self.load.rate else { return !self.is_over() };
        let due = Duration::from_nanos(begun.saturating_mul(1_000_000_000 / u64::from(rate.max(1))));
        while !self.is_over() {
            let Some(left) = due.checked_sub(self.start.elapsed()).filter(|left| !left.is_zero()) else { return true };
            thread::sleep(left.min(STOP_LATENCY));
        }
        false
    }
}

/// One connection.
struct Worker<'a> {
    shared: &'a Shared<'a>,
    client: Client,
    writer: u16,
    picker: Picker<'a>,
    data: Vec<u8>,
    stats: Stats,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared<'a>, client: Client, writer: u16) -> Self {
        let picker = Picker::new(shared.load, shared.recorder.volume().sectors(), writer);
        Self { shared, client, writer, picker, data: Vec::new(), stats: Stats::new() }
    }

    fn run(mut self) -> Result<Stats, Error> {
        let mut since_flush = 0;
        while self.shared.turn() {
            let Some((kind, sectors)) = self.claim() else { break };
            let goes_on = self.perform(kind, sectors)?;
            self.shared.in_flight.release(sectors);
            since_flush += 1;
            let flush = self.shared.load.flush_every.is_some_and(|every| since_flush >= every);
            let nowhere = Sectors { first: 0, count: 0 };
            if !goes_on || (flush && self.client.can_flush() && !self.perform(Kind::Flush, nowhere)?) {
                return Ok(self.stats);
            }
            if flush {
                since_flush = 0;
            }
        }
        // The server may be gone already: it has answered all there was.
        let _ = self.client.disconnect();
        Ok(self.stats)
    }

    /// The next operation whose range is free.
    fn claim(&mut self) -> Option<(Kind, Sectors)> {
        while !self.shared.is_over() {
            let (kind, sectors) = self.picker.next();
            if self.shared.load.overlap || self.shared.in_flight.claim(sectors) {
                let offered = match kind {
                    Kind::Zero => self.client.can_write_zeroes(),
                    Kind::Trim => self.client.can_trim(),
                    Kind::Write | Kind::Flush => true,
                };
                return Some((if offered { kind } else { Kind::Write }, sectors));
            }
            thread::yield_now();
        }
        None
    }

    /// Sends one operation and notes what became of it; false when the connection is lost for good.
    fn perform(&mut self, kind: Kind, sectors: Sectors) -> Result<bool, Error> {
        let recorder = self.shared.recorder;
        let ticket = recorder.submit(kind, sectors, self.writer).map_err(Error::Log)?;
        if kind == Kind::Write {
            self.render(sectors, ticket);
        }
        let fua = self.client.can_fua() && self.picker.fua();
        let began = Instant::now();
        let result = self.send(kind, sectors, fua);
        let at = Micros::now();
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        match result {
            Ok(()) => {
                recorder.ack(ticket, at).map_err(Error::Log)?;
                self.stats.count(kind, sectors, took);
                Ok(true)
            }
            Err(client::Error::Refused(_)) => {
                recorder.settle(ticket, at).map_err(Error::Log)?;
                self.stats.refused += 1;
                Ok(true)
            }
            Err(_) => {
                self.stats.in_doubt += 1;
                self.reconnect(ticket)
            }
        }
    }

    fn render(&mut self, sectors: Sectors, ticket: Ticket) {
        let volume = self.shared.recorder.volume();
        self.data.clear();
        for sector in sectors.first..sectors.end() {
            let mut bytes = [0; SECTOR_BYTES];
            volume.stamp(sector, ticket.number, ticket.submitted, self.writer).render(&mut bytes);
            self.data.extend_from_slice(&bytes);
        }
    }

    fn send(&mut self, kind: Kind, sectors: Sectors, fua: bool) -> Result<(), client::Error> {
        let offset = sectors.first * SECTOR_BYTES as u64;
        // Sizes are 32 bits of bytes in `SizeShare`.
        let bytes = u32::try_from(sectors.count * SECTOR_BYTES as u64).unwrap_or(u32::MAX);
        match kind {
            Kind::Write => self.client.write(offset, &self.data, fua),
            Kind::Zero => self.client.write_zeroes(offset, bytes),
            Kind::Trim => self.client.trim(offset, bytes),
            Kind::Flush => self.client.flush(),
        }
    }

    /// Gets a new connection. If nobody listened for a while, it is a new server: what was in flight on the old one is
    /// over.
    fn reconnect(&mut self, ticket: Ticket) -> Result<bool, Error> {
        let Some(patience) = self.shared.load.reconnect else { return Ok(false) };
        let deadline = Instant::now() + patience;
        let mut gone = false;
        while !self.shared.is_over() && Instant::now() < deadline {
            match Client::connect(&self.shared.load.address, &self.shared.load.export) {
                Ok(client) => {
                    let (export, volume) = (client.size_bytes(), self.shared.recorder.volume().size_bytes);
                    if export != volume {
                        return Err(Error::Size { export, volume });
                    }
                    if gone {
                        self.shared.recorder.settle(ticket, Micros::now()).map_err(Error::Log)?;
                    }
                    self.client = client;
                    self.stats.reconnects += 1;
                    return Ok(true);
                }
                Err(error) => gone |= matches!(error, client::Error::Connect(_)),
            }
            thread::sleep(RETRY_EVERY);
        }
        Ok(false)
    }
}

impl Stats {
    fn new() -> Self {
        let histogram = || Histogram::new(3).expect("three digits are within the histogram's range");
        Self {
            ops: 0,
            bytes: 0,
            flushes: 0,
            refused: 0,
            in_doubt: 0,
            reconnects: 0,
            elapsed: Duration::ZERO,
            latency_us: histogram(),
            flush_latency_us: histogram(),
        }
    }

    fn count(&mut self, kind: Kind, sectors: Sectors, took_us: u64) {
        if kind == Kind::Flush {
            self.flushes += 1;
            self.flush_latency_us.saturating_record(took_us);
        } else {
            self.ops += 1;
            self.bytes += sectors.count * SECTOR_BYTES as u64;
            self.latency_us.saturating_record(took_us);
        }
    }

    /// Counts what another run did as well.
    pub fn add(&mut self, other: &Self) {
        self.ops += other.ops;
        self.bytes += other.bytes;
        self.flushes += other.flushes;
        self.refused += other.refused;
        self.in_doubt += other.in_doubt;
        self.reconnects += other.reconnects;
        self.latency_us += &other.latency_us;
        self.flush_latency_us += &other.flush_latency_us;
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        let Self { ops, bytes, flushes, refused, in_doubt, reconnects, elapsed, latency_us, .. } = self;
        format!(
            "{{\"ops\":{ops},\"bytes\":{bytes},\"flushes\":{flushes},\"refused\":{refused},\"in_doubt\":{in_doubt},\
             \"reconnects\":{reconnects},\"seconds\":{:.3},\"p50_us\":{},\"p99_us\":{},\"max_us\":{}}}",
            elapsed.as_secs_f64(),
            latency_us.value_at_quantile(0.5),
            latency_us.value_at_quantile(0.99),
            latency_us.max()
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(_) => write!(f, "the workload has no server"),
            Self::Size { export, volume } => write!(f, "the export has {export} bytes, the volume {volume}"),
            Self::Log(_) => write!(f, "the list of operations cannot be written"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Server(source) => Some(source),
            Self::Size { .. } => None,
            Self::Log(source) => Some(source),
        }
    }
}

/// How long a set `stop` may go unnoticed.
const STOP_LATENCY: Duration = Duration::from_millis(50);
const RETRY_EVERY: Duration = Duration::from_millis(10);
