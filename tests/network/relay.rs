//! Older peers: a relay that knows the keys of both sides leaves features out of what the agent offers. To each side the other one is
//! of a version that does not know them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use journal::wire::Message;
use link::{Identity, MessageReader, MessageWriter, Peer, Purpose, message_stream};
use tokio::io::copy;
use tokio::runtime::Runtime;

use crate::common::cluster::Cluster;

pub(crate) struct Relay {
    address: String,
    // Dropped, it is gone.
    _runtime: Runtime,
}

impl Relay {
    /// Before this receiver, which runs, for an agent that may not have joined yet. Of the features it lets through these.
    pub(crate) fn start(cluster: &Cluster, features: u64) -> Self {
        let receiver = Identity::open(&cluster.store.join("identity")).unwrap();
        let agent = Arc::new(Identity::open(&cluster.state.join("identity")).unwrap());
        let (pin, remote): (_, SocketAddr) = (receiver.pin(), cluster.listens().parse().unwrap());
        let runtime = Runtime::new().unwrap();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let endpoint = runtime.block_on(async { link::server_endpoint(&receiver, listen).unwrap() });
        let address = endpoint.local_addr().unwrap().to_string();
        runtime.spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let Ok(peer) = Peer::accept(incoming).await else { continue };
                let agent = Arc::clone(&agent);
                tokio::spawn(async move {
                    let endpoint = link::client_endpoint(&agent, remote).unwrap();
                    let Ok(on) = link::connect(&endpoint, remote, &agent, pin, peer.purpose).await else { return };
                    let mut is_control = peer.purpose == Purpose::Session;
                    while let Ok((mut to_agent, mut from_agent)) = peer.connection.accept_bi().await {
                        let Ok((mut to_receiver, mut from_receiver)) = on.open_bi().await else { break };
                        if std::mem::take(&mut is_control) {
                            let (writer, reader) = message_stream((to_agent, from_agent));
                            let (on_writer, on_reader) = message_stream((to_receiver, from_receiver));
                            tokio::spawn(control(reader, on_writer, features));
                            tokio::spawn(control(on_reader, writer, features));
                            continue;
                        }
                        tokio::spawn(async move {
                            _ = copy(&mut from_agent, &mut to_receiver).await;
                            _ = to_receiver.finish();
                        });
                        tokio::spawn(async move {
                            _ = copy(&mut from_receiver, &mut to_agent).await;
                            _ = to_agent.finish();
                        });
                    }
                    on.close(0u32.into(), b"");
                });
            }
        });
        Self { address, _runtime: runtime }
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }
}

/// Everything as it is said, but for the features of a hello.
async fn control(mut reader: MessageReader, mut writer: MessageWriter, features: u64) {
    while let Ok(Some(mut message)) = reader.next().await {
        if let Message::Hello(hello) = &mut message {
            hello.offer.optional &= features;
        }
        if writer.send(&message).await.is_err() {
            return;
        }
    }
    writer.finish();
}
