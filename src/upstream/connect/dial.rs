//! Name → addresses → one TCP connection (happy eyeballs).

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Budget, ConnectError, Peer, Stage};

/// RFC 8305 §5: how long one address may stay silent before the next is tried as well.
const STAGGER: Duration = Duration::from_millis(250);

/// A peer that vanished without a word is noticed about a minute later, even between requests; short of the few minutes
/// after which home routers and cloud NATs forget a quiet connection.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// Who knows the addresses of names. Asked for every connection.
#[derive(Clone, Default)]
pub(in crate::upstream) enum Names {
    /// Its files, DNS, and whatever else it is set up for.
    #[default]
    System,
    #[cfg(test)]
    Told(Arc<std::sync::Mutex<Vec<SocketAddr>>>),
}

impl Names {
    async fn look_up(&self, peer: &Peer) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::System => {
                let found = lookup_host((peer.host.as_str(), peer.port)).await?;
                Ok(found.collect())
            }
            #[cfg(test)]
            Self::Told(addresses) => Ok(addresses.lock().unwrap().clone()),
        }
    }
}

pub(super) async fn dial(
    names: &Names,
    peer: &Peer,
    budget: &Budget,
) -> Result<TcpStream, ConnectError> {
    let addresses = match peer.host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, peer.port)],
        Err(_) => resolve(names, peer, budget).await?,
    };
    let tcp = budget
        .spend(peer, Stage::Connect, race(addresses))
        .await?
        .and_then(prepare)
        .map_err(|error| ConnectError::Refused {
            peer: peer.clone(),
            source: Arc::new(error),
        })?;
    Ok(tcp)
}

async fn resolve(
    names: &Names,
    peer: &Peer,
    budget: &Budget,
) -> Result<Vec<SocketAddr>, ConnectError> {
    let failed = |error| ConnectError::Resolve {
        peer: peer.clone(),
        source: Arc::new(error),
    };
    let found = budget
        .spend(peer, Stage::Resolve, names.look_up(peer))
        .await?
        .map_err(failed)?;
    if found.is_empty() {
        return Err(failed(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        )));
    }
    Ok(interleave(found))
}

/// Alternates between the address families, keeping the resolver's order within each and its first choice first
/// (RFC 8305 §4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut preferred, mut other): (VecDeque<_>, VecDeque<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut order = Vec::with_capacity(preferred.len() + other.len());
    while !preferred.is_empty() || !other.is_empty() {
        order.extend(preferred.pop_front());
        order.extend(other.pop_front());
    }
    order
}

/// The first address that answers wins; attempts that are still open are dropped. A failed attempt starts the next one
/// at once. Fails with the first error: it belongs to the resolver's first choice.
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

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate_and_the_resolvers_choice_comes_first() {
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
    async fn an_address_that_refuses_makes_way_for_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let tcp = race(vec![closed_port().await, open]).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), open);
    }

    #[tokio::test]
    async fn a_silent_address_is_overtaken_by_the_next() {
        let (silent, _hold) = full_listener().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let race = tokio::time::timeout(20 * STAGGER, race(vec![silent, open]));
        let tcp = race.await.unwrap().unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), open);
    }

    #[tokio::test]
    async fn where_all_refuse_the_first_error_is_told() {
        let error = race(vec![closed_port().await, closed_port().await])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    async fn closed_port() -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    }

    /// A listener whose backlog is full: Linux drops further SYNs, so that a connect hangs.
    async fn full_listener() -> (SocketAddr, impl Sized) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let first = TcpStream::connect(address).await.unwrap();
        (address, (listener, first))
    }
}
