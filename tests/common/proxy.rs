//! A UDP relay between agents and a receiver, with the weather of its own in each direction. One seed decides: the n-th datagram of
//! a direction meets the same fate whenever it comes.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use oracle::Rng;
use rustix::net::sockopt;

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From an agent to the receiver.
    There,
    /// From the receiver to an agent.
    Back,
}

/// How one direction treats datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Nothing arrives, nothing is said about it.
    pub(crate) cut: bool,
    pub(crate) loss_percent: u8,
    /// Arrive twice, the second time a little later.
    pub(crate) twice_percent: u8,
    /// Are held back, so that others overtake them.
    pub(crate) late_percent: u8,
    /// Of each.
    pub(crate) delay: Duration,
    /// What goes through; what would have to wait for more than [`QUEUE`] is lost.
    pub(crate) bytes_per_second: Option<u64>,
    /// Larger ones are lost, without a word.
    pub(crate) datagram_bytes_max: Option<usize>,
}

/// What became of the datagrams of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) entered: u64,
    pub(crate) arrived: u64,
    pub(crate) bytes: u64,
    pub(crate) cut: u64,
    pub(crate) lost: u64,
    pub(crate) twice: u64,
    pub(crate) late: u64,
    pub(crate) overflowed: u64,
    pub(crate) too_large: u64,
    pub(crate) largest: usize,
}

/// Dropped, it is gone.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// How long a datagram may wait for its turn on a slow link.
const QUEUE: Duration = Duration::from_millis(100);
/// How long one is held back, at most.
const LATE_MS: u64 = 30;
/// How long a thread may not notice that all is over.
const LATENCY: Duration = Duration::from_millis(20);
/// An agent that is silent for so long has gone.
const SILENCE: Duration = Duration::from_secs(30);
const BUFFER_BYTES: usize = 4 << 20;

impl Proxy {
    /// In front of this receiver; fair weather to begin with.
    pub(crate) fn start(seed: u64, receiver: SocketAddr) -> Self {
        let socket = socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = socket.local_addr().unwrap();
        let state = State {
            weather: [Weather::default(); 2],
            counts: [Counts::default(); 2],
            free_at: [Instant::now(); 2],
            queue: BinaryHeap::new(),
            number: 0,
            cut_at: None,
            flows: HashMap::new(),
        };
        let shared = Arc::new(Shared {
            seed,
            receiver,
            socket,
            state: Mutex::new(state),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let (reading, delivering) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads =
            vec![std::thread::spawn(move || reading.read_agents()), std::thread::spawn(move || delivering.deliver())];
        Self { address, shared, threads }
    }

    /// Where agents are to go.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// One way.
    pub(crate) fn change_one(&self, way: Way, change: impl FnOnce(&mut Weather)) {
        change(&mut self.shared.state().weather[way as usize]);
    }

    /// Both ways.
    pub(crate) fn set_both(&self, weather: Weather) {
        self.shared.state().weather = [weather; 2];
    }

    /// Changes what there is.
    pub(crate) fn change(&self, change: impl Fn(&mut Weather)) {
        self.shared.state().weather.iter_mut().for_each(change);
    }

    pub(crate) fn cut(&self) {
        self.change(|weather| weather.cut = true);
    }

    pub(crate) fn heal(&self) {
        let mut state = self.shared.state();
        state.cut_at = None;
        state.weather.iter_mut().for_each(|weather| weather.cut = false);
    }

    /// Cuts both ways at this datagram, counted over all that come.
    pub(crate) fn cut_at(&self, number: u64) {
        self.shared.state().cut_at = Some(number);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.shared.state().weather.iter().all(|weather| weather.cut)
    }

    /// Whoever talked so far is heard and answered no more; who comes from another port is.
    pub(crate) fn strand(&self) {
        self.shared.state().flows.values().for_each(|flow| flow.stranded.store(true, Relaxed));
    }

    /// The receiver sees agents at other ports from now on, as behind a NAT that was restarted.
    pub(crate) fn rebind(&self) {
        self.shared.state().flows.drain().for_each(|(_, flow)| flow.gone.store(true, Relaxed));
    }

    pub(crate) fn counts(&self, way: Way) -> Counts {
        self.shared.state().counts[way as usize]
    }

    /// Datagrams that came, of both directions.
    pub(crate) fn entered(&self) -> u64 {
        self.shared.state().counts.iter().map(|counts| counts.entered).sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        self.shared.changed.notify_all();
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [there, back] = self.shared.state().counts;
        write!(f, "seed {}; there {there}; back {back}", self.shared.seed)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entered, arrived, bytes, cut, lost, twice, late, overflowed, too_large, largest } = self;
        write!(
            f,
            "{arrived} of {entered} datagrams ({} KiB, up to {largest} bytes each), {cut} cut, {lost} lost, {twice} twice, {late} late, \
             {overflowed} had no room, {too_large} were too large",
            bytes >> 10
        )
    }
}

struct Shared {
    seed: u64,
    receiver: SocketAddr,
    /// Where the agents are.
    socket: UdpSocket,
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

struct State {
    weather: [Weather; 2],
    counts: [Counts; 2],
    /// When the link has sent all that waits.
    free_at: [Instant; 2],
    queue: BinaryHeap<Waiting>,
    /// Of the datagrams that were taken in.
    number: u64,
    cut_at: Option<u64>,
    /// By where the agent is.
    flows: HashMap<SocketAddr, Arc<Flow>>,
}

/// One agent's port, and the port that the receiver sees instead.
struct Flow {
    agent: SocketAddr,
    /// Connected to the receiver.
    socket: UdpSocket,
    stranded: AtomicBool,
    gone: AtomicBool,
}

/// A datagram on its way.
struct Waiting {
    due: Instant,
    number: u64,
    way: Way,
    flow: Arc<Flow>,
    bytes: Arc<[u8]>,
}

impl Shared {
    fn read_agents(self: Arc<Self>) {
        let mut buffer = vec![0; 1 << 16];
        while !self.stop.load(Relaxed) {
            let Some((length, agent)) = received(self.socket.recv_from(&mut buffer)) else { continue };
            let known = self.state().flows.get(&agent).cloned();
            let flow = known.unwrap_or_else(|| self.meet(agent));
            self.enter(Way::There, &flow, &buffer[..length]);
        }
    }

    /// Somebody new, and a thread for the answers.
    fn meet(self: &Arc<Self>, agent: SocketAddr) -> Arc<Flow> {
        let socket = socket(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        socket.connect(self.receiver).unwrap();
        let flow = Arc::new(Flow { agent, socket, stranded: AtomicBool::new(false), gone: AtomicBool::new(false) });
        self.state().flows.insert(agent, Arc::clone(&flow));
        let (shared, answers) = (Arc::clone(self), Arc::clone(&flow));
        // It ends by itself, soon after the proxy.
        std::thread::spawn(move || shared.read_receiver(&answers));
        flow
    }

    fn read_receiver(&self, flow: &Arc<Flow>) {
        let mut buffer = vec![0; 1 << 16];
        let mut heard = Instant::now();
        while !self.stop.load(Relaxed) && !flow.gone.load(Relaxed) && heard.elapsed() < SILENCE {
            // While the receiver is not there, this is an error at once.
            let Some(length) = received(flow.socket.recv(&mut buffer)) else { continue };
            heard = Instant::now();
            self.enter(Way::Back, flow, &buffer[..length]);
        }
        let mut state = self.state();
        if state.flows.get(&flow.agent).is_some_and(|known| Arc::ptr_eq(known, flow)) {
            state.flows.remove(&flow.agent);
        }
    }

    /// Decides what becomes of a datagram.
    fn enter(&self, way: Way, flow: &Arc<Flow>, bytes: &[u8]) {
        let state = &mut *self.state();
        state.number += 1;
        if state.cut_at.is_some_and(|number| state.number >= number) {
            state.weather.iter_mut().for_each(|weather| weather.cut = true);
        }
        let (weather, counts) = (state.weather[way as usize], &mut state.counts[way as usize]);
        let mut fate = Rng::new(self.seed ^ (2 * counts.entered + way as u64).wrapping_mul(ODD));
        // Each has its own number, whatever the weather is: so the choices of one fault do not move those of another.
        let [lost, twice, late] =
            [weather.loss_percent, weather.twice_percent, weather.late_percent].map(|percent| fate.percent(percent));
        let held = Duration::from_millis(1 + fate.below(LATE_MS));
        counts.entered += 1;
        counts.largest = counts.largest.max(bytes.len());
        if weather.cut || flow.stranded.load(Relaxed) {
            counts.cut += 1;
            return;
        }
        if weather.datagram_bytes_max.is_some_and(|max| bytes.len() > max) {
            counts.too_large += 1;
            return;
        }
        if lost {
            counts.lost += 1;
            return;
        }
        let now = Instant::now();
        let mut due = now;
        if let Some(rate) = weather.bytes_per_second {
            let free_at = &mut state.free_at[way as usize];
            due = due.max(*free_at) + Duration::from_nanos(bytes.len() as u64 * 1_000_000_000 / rate);
            if due - now > QUEUE {
                counts.overflowed += 1;
                return;
            }
            *free_at = due;
        }
        due += weather.delay;
        counts.late += u64::from(late);
        counts.twice += u64::from(twice);
        let bytes: Arc<[u8]> = bytes.into();
        let number = state.number;
        let mut push =
            |due| state.queue.push(Waiting { due, number, way, flow: Arc::clone(flow), bytes: Arc::clone(&bytes) });
        push(if late { due + held } else { due });
        if twice {
            push(due + held);
        }
        self.changed.notify_one();
    }

    fn deliver(&self) {
        let mut state = self.state();
        while !self.stop.load(Relaxed) {
            let wait = state.queue.peek().map(|next| next.due.saturating_duration_since(Instant::now()));
            if wait.is_none_or(|wait| !wait.is_zero()) {
                state = self.changed.wait_timeout(state, wait.unwrap_or(LATENCY).min(LATENCY)).unwrap().0;
                continue;
            }
            let Some(Waiting { way, flow, bytes, .. }) = state.queue.pop() else { continue };
            let (weather, counts) = (state.weather[way as usize], &mut state.counts[way as usize]);
            if weather.cut {
                counts.cut += 1;
                continue;
            }
            counts.arrived += 1;
            counts.bytes += bytes.len() as u64;
            drop(state);
            // Nobody there, or no room there: then it is lost, as on any network.
            match way {
                Way::There => drop(flow.socket.send(&bytes)),
                Way::Back => drop(self.socket.send_to(&bytes, flow.agent)),
            }
            state = self.state();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    /// The heap gives the greatest first, which is to be the one due first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

fn socket(local: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(local).unwrap();
    // As far as we may: the bursts of a fast sender are not to be lost here.
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES));
    socket.set_read_timeout(Some(LATENCY)).unwrap();
    socket
}

/// `None`: nothing came for a while, or word that an earlier datagram found nobody.
fn received<T>(result: std::io::Result<T>) -> Option<T> {
    match result {
        Ok(came) => Some(came),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => None,
        Err(error) => panic!("the proxy's socket: {error}"),
    }
}

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
