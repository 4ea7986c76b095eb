//! Resolves a name and opens one TCP connection (happy eyeballs, RFC 8305).
//!
//! Every connection resolves its name again, so that a changed DNS record takes effect.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::budget::Budget;
use super::error::{ConnectError, Peer, Stage};

/// Delay between connection attempts (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);

/// Detects a dead peer after about a minute, even between requests: earlier than home routers and
/// cloud NATs drop idle connections.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

#[derive(Clone)]
pub(in crate::upstream) enum Resolver {
    /// `getaddrinfo`.
    System,
    #[cfg(test)]
    Fixed(Arc<std::sync::Mutex<Vec<SocketAddr>>>),
}

impl Resolver {
    async fn look_up(&self, peer: &Peer) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::System => {
                let found = lookup_host((peer.host.as_str(), peer.port)).await?;
                Ok(found.collect())
            }
            #[cfg(test)]
            Self::Fixed(addresses) => Ok(addresses.lock().unwrap().clone()),
        }
    }
}

pub(super) async fn dial(
    resolver: &Resolver,
    peer: &Peer,
    budget: &Budget,
) -> Result<TcpStream, ConnectError> {
    let addresses = match peer.host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, peer.port)],
        Err(_) => resolve(resolver, peer, budget).await?,
    };
    budget
        .spend(peer, Stage::Connect, race(addresses))
        .await?
        .and_then(prepare)
        .map_err(|error| ConnectError::refused(peer, error))
}

async fn resolve(
    resolver: &Resolver,
    peer: &Peer,
    budget: &Budget,
) -> Result<Vec<SocketAddr>, ConnectError> {
    let failed = |error| ConnectError::Resolve {
        peer: peer.clone(),
        source: Arc::new(error),
    };
    let found = budget
        .spend(peer, Stage::Resolve, resolver.look_up(peer))
        .await?
        .map_err(failed)?;
    if found.is_empty() {
        let reason = "the name has no address";
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, reason)));
    }
    Ok(interleave(found))
}

/// Alternates between the address families (RFC 8305 §4). Keeps the resolver's order within each
/// family, and the resolver's first choice first.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut order = Vec::with_capacity(preferred.len() + other.len());
    let mut other = other.into_iter();
    for address in preferred {
        order.push(address);
        order.extend(other.next());
    }
    order.extend(other);
    order
}

/// Returns the first connection that opens, and drops the other attempts. A failed attempt starts
/// the next one at once. Returns the first error, which belongs to the resolver's first choice.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut addresses = VecDeque::from(addresses);
    if let [only] = *addresses.make_contiguous() {
        return TcpStream::connect(only).await;
    }
    let mut attempts = JoinSet::new();
    let mut first_error = None;
    loop {
        if let Some(address) = addresses.pop_front() {
            attempts.spawn(TcpStream::connect(address));
        }
        let ended = tokio::select! {
            ended = attempts.join_next() => ended,
            () = sleep(STAGGER), if !addresses.is_empty() => continue,
        };
        match ended {
            Some(Ok(Ok(tcp))) => return Ok(tcp),
            Some(Ok(Err(error))) => {
                first_error.get_or_insert(error);
            }
            Some(Err(panicked)) => {
                first_error.get_or_insert_with(|| io::Error::other(panicked));
            }
            None => break,
        }
    }
    Err(first_error.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

fn prepare(tcp: TcpStream) -> io::Result<TcpStream> {
    tcp.set_nodelay(true)?;
    SockRef::from(&tcp).set_tcp_keepalive(&KEEPALIVE)?;
    Ok(tcp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::closed_port;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn address_families_alternate_and_the_resolvers_choice_stays_first() {
        assert_eq!(
            interleave(addresses(&[
                "[::1]:1",
                "[::2]:1",
                "[::3]:1",
                "10.0.0.1:1",
                "10.0.0.2:1"
            ])),
            addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"])
        );
        assert_eq!(
            interleave(addresses(&["10.0.0.1:1", "[::1]:1"])),
            addresses(&["10.0.0.1:1", "[::1]:1"])
        );
        assert_eq!(interleave(Vec::new()), Vec::new());
    }

    #[tokio::test]
    async fn after_a_refusal_the_next_address_is_tried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let tcp = race(vec![closed_port().await, open]).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), open);
    }

    #[tokio::test]
    async fn a_silent_address_does_not_delay_the_next_for_long() {
        let (silent, _hold) = full_listener().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let race = tokio::time::timeout(20 * STAGGER, race(vec![silent, open]));
        let tcp = race.await.unwrap().unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), open);
    }

    #[tokio::test]
    async fn if_all_addresses_refuse_the_first_error_is_returned() {
        let error = race(vec![closed_port().await, closed_port().await])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    /// Returns a listener with a full backlog: Linux drops further SYNs, so a connect hangs.
    async fn full_listener() -> (SocketAddr, impl Sized) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let first = TcpStream::connect(address).await.unwrap();
        (address, (listener, first))
    }
}
