//! Frames from one end of a connection into a journal at the other, against a bare QUIC stream of the same settings.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use benches::chain::{Chain, GROUP};
use benches::data;
use benches::options::Options;
use benches::place::{self, Touched};
use benches::samples::{cpu_seconds, gigabytes_per_second};
use benches::table::{self, Aim, Row};
use journal::frame::Frame;
use journal::limits::SEGMENT_BYTES;
use journal::store::Store;
use journal::types::{SessionId, WallTime};
use journal::wire::Message;
use link::{Identity, MessageReader, MessageWriter, Peer, Purpose, message_stream};
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::sync::mpsc;

/// Frames between the connection and the journal.
const QUEUE: usize = 16;

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let bytes = options.size(512 << 20, 8 << 20);
    let frames: Arc<[Frame]> = Chain::new(1 << 40, false).frames(&data::incompressible(bytes, 9), 65536).into();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (ours, bare) = runtime.block_on(async {
        let pair = Pair::connect().await?;
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for round in 0..=options.rounds(7) {
            let passed = (pair.journaled(&frames).await?, pair.bare(&frames).await?);
            // The first fills caches and opens the congestion window.
            if round > 0 {
                ours.push(passed.0);
                bare.push(passed.1);
            }
        }
        anyhow::Ok((ours, bare))
    })?;
    let row = |what: &str, unit, figure: fn(&Passed) -> f64, aim| Row {
        what: format!("frames of 1 MiB, incompressible, {what}"),
        unit,
        ours: ours.iter().map(figure).collect(),
        floor: Some(("bare QUIC stream".to_owned(), bare.iter().map(figure).collect())),
        aim,
    };
    let rows = [
        row("until durable", "GB/s", |passed| passed.gigabytes_per_second, Aim::RatioAtLeast(0.6)),
        row("processor time of both ends", "s/GB", |passed| passed.cpu_seconds_per_gigabyte, Aim::Known),
    ];
    table::print("link: over QUIC into a journal on tmpfs, both ends in this process", &rows, &options);
    Ok(())
}

/// What it took to bring all frames over.
struct Passed {
    gigabytes_per_second: f64,
    cpu_seconds_per_gigabyte: f64,
}

/// When it began.
struct Begun {
    at: Instant,
    cpu_seconds: f64,
}

impl Begun {
    fn now() -> Self {
        Self { at: Instant::now(), cpu_seconds: cpu_seconds() }
    }

    fn passed(&self, bytes: usize) -> Passed {
        Passed {
            gigabytes_per_second: gigabytes_per_second(bytes, self.at.elapsed()),
            cpu_seconds_per_gigabyte: (cpu_seconds() - self.cpu_seconds) * 1e9 / bytes as f64,
        }
    }
}

/// Both ends of a connection over loopback.
struct Pair {
    client: Connection,
    server: Connection,
    /// A connection lives as long as its endpoints.
    _endpoints: [Endpoint; 2],
}

impl Pair {
    async fn connect() -> Result<Self> {
        let (agent, receiver) = (Identity::generate()?, Identity::generate()?);
        let listening = link::server_endpoint(&receiver, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listening.local_addr()?;
        let dialling = link::client_endpoint(&agent, address)?;
        let accept = async {
            let incoming = listening.accept().await.context("the endpoint is closed")?;
            Ok(Peer::accept(incoming).await?.connection)
        };
        let dial = async { Ok(link::connect(&dialling, address, &agent, receiver.pin(), Purpose::Session).await?) };
        let (client, server) = tokio::try_join!(dial, accept).map_err(|error: anyhow::Error| error)?;
        Ok(Self { client, server, _endpoints: [dialling, listening] })
    }

    /// Nothing but QUIC.
    async fn bare(&self, frames: &Arc<[Frame]>) -> Result<Passed> {
        let (mut send, _) = self.client.open_bi().await?;
        let (begun, frames) = (Begun::now(), Arc::clone(frames));
        let sending: tokio::task::JoinHandle<Result<SendStream>> = tokio::spawn(async move {
            for frame in frames.iter() {
                send.write_chunk(frame.bytes().clone()).await?;
            }
            send.finish()?;
            Ok(send)
        });
        let (_reply, mut recv): (SendStream, RecvStream) = self.server.accept_bi().await?;
        let mut bytes = 0;
        while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
            bytes += chunk.bytes.len();
        }
        sending.await??;
        Ok(begun.passed(bytes))
    }

    /// Every frame checked, appended and durable, and said to be.
    async fn journaled(&self, frames: &Arc<[Frame]>) -> Result<Passed> {
        let bytes: usize = frames.iter().map(|frame| frame.bytes().len()).sum();
        let dir = place::memory()?;
        let disk =
            Touched::new(dir.path(), bytes as u64 / SEGMENT_BYTES + 1, usize::try_from(SEGMENT_BYTES)? + (4 << 20))?;
        let (store, _) = Store::open(Arc::new(disk), GROUP, SEGMENT_BYTES, place::entropy)?;
        let (mut writer, mut reader) = message_stream(self.client.open_bi().await?);
        let last = frames.last().and_then(Frame::last_seq).context("no frames")?;
        let (begun, frames) = (Begun::now(), Arc::clone(frames));
        let sending: tokio::task::JoinHandle<Result<MessageWriter>> = tokio::spawn(async move {
            for frame in frames.iter() {
                writer.send_frame(frame.bytes().clone()).await?;
            }
            Ok(writer)
        });
        let (answers, theirs) = message_stream(self.server.accept_bi().await?);
        let receiving = tokio::spawn(receive(store, answers, theirs));
        loop {
            match reader.next().await?.context("the stream ended")? {
                Message::Durable(head) if head.seq == last => break,
                _ => {}
            }
        }
        let passed = begun.passed(bytes);
        sending.await??.finish();
        receiving.await??;
        Ok(passed)
    }
}

/// Reads frames and hands them to a thread that writes what has come, makes it durable, and has that said.
async fn receive(store: Store, mut answers: MessageWriter, mut frames: MessageReader) -> Result<()> {
    let (queue, waiting) = mpsc::channel(QUEUE);
    let (durable, mut said) = mpsc::channel(QUEUE);
    let writing = tokio::task::spawn_blocking(move || write(store, waiting, &durable));
    let answering: tokio::task::JoinHandle<Result<()>> = tokio::spawn(async move {
        while let Some(message) = said.recv().await {
            answers.send(&message).await?;
        }
        Ok(())
    });
    while let Some(message) = frames.next().await? {
        let Message::Frame(bytes) = message else { continue };
        queue.send(Frame::check(bytes).map_err(journal::error::Error::from)?).await?;
    }
    drop(queue);
    writing.await??;
    answering.await?
}

fn write(mut store: Store, mut waiting: mpsc::Receiver<Frame>, durable: &mpsc::Sender<Message>) -> Result<()> {
    let mut batch = Vec::with_capacity(QUEUE);
    while waiting.blocking_recv_many(&mut batch, QUEUE) > 0 {
        store.append(&batch, SessionId(1), WallTime(1))?;
        store.sync()?;
        batch.clear();
        let head = store.head().context("nothing was appended")?;
        durable.blocking_send(Message::Durable(head))?;
    }
    Ok(())
}
