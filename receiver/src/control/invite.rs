//! `POST /v1/invite {agent, ttl_seconds, address}`

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use journal::wire::JoinSecret;
use link::Invitation;
use serde::Deserialize;
use serde_json::json;

use super::reply::{Reply, blocking};
use super::{App, document};
use crate::catalog::Name;
use crate::enrol;
use crate::error::Error;
use crate::time::{now, rfc3339};

#[derive(Deserialize)]
struct Request {
    agent: String,
    ttl_seconds: Option<f64>,
    /// `HOST:PORT` as the agent's machine reaches this one.
    address: Option<String>,
}

/// One string for one agent, once.
pub(super) async fn invite(State(app): State<App>, body: Bytes) -> Reply {
    let request: Request = document(&body)?;
    blocking(move || {
        let agent = Name::parse(&request.agent)?;
        let ttl = match request.ttl_seconds {
            None => enrol::TTL_DEFAULT,
            Some(seconds) => Duration::try_from_secs_f64(seconds)
                .map_err(|error| Error::usage("ttl_seconds makes no sense").with_source(error))?,
        };
        let address = request.address.unwrap_or_else(|| reachable(app.listen).to_string());
        let (secret, now) = (link::random(), now());
        // Before anything is remembered: an address that cannot be must not leave an open invitation behind.
        let mut invitation = Invitation::new(&address, app.id, JoinSecret(secret), now)?;
        invitation.expires = enrol::invite(app.groups.catalog(), &agent, &secret, ttl, now)?;
        let expires = rfc3339(invitation.expires);
        Ok(Json(json!({"schema": 1, "invitation": invitation.to_string(), "expires": expires})))
    })
    .await
}

/// Where others most likely reach us: the address this machine would send from, when it listens on all.
fn reachable(listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    // Addresses for documentation: only the route is looked up, nothing is sent.
    let far = if listen.is_ipv4() { "192.0.2.1:9" } else { "[2001:db8::1]:9" };
    let from = UdpSocket::bind(SocketAddr::new(listen.ip(), 0)).and_then(|socket| {
        socket.connect(far)?;
        socket.local_addr()
    });
    let loopback = if listen.is_ipv4() { IpAddr::from([127, 0, 0, 1]) } else { IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]) };
    let ip = from.map_or(loopback, |from| from.ip());
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_nobody_can_reach_is_never_offered() {
        let all: SocketAddr = "0.0.0.0:7440".parse().unwrap();
        let offered = reachable(all);
        assert!(!offered.ip().is_unspecified() && offered.port() == 7440, "{offered}");
        let one: SocketAddr = "127.0.0.1:1".parse().unwrap();
        assert_eq!(reachable(one), one);
    }
}
