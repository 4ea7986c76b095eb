//! Doors: the listening sockets, which a reload opens and closes while connections come in.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::client_io::ClientStream;

/// How long to wait when the process or the machine has no file descriptor left for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often that is told while it lasts.
const ACCEPT_SILENCE: Duration = Duration::from_secs(10);

/// What remains of a listening socket in the connections that came in by it.
#[derive(Debug)]
pub struct Door {
    /// Never given to another: a connection that outlives its door must not pass for one of a later door's.
    pub id: usize,
    closed: AtomicBool,
    closing: Notify,
}

/// A listening socket and its door.
pub struct Listener {
    pub door: Arc<Door>,
    pub socket: ListenSocket,
}

pub enum ListenSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// What a reload asks of whoever accepts.
pub enum Change {
    Open(Listener),
    Close(Arc<Door>),
}

/// An accepted connection on its way to another thread.
pub enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

// === impl Door ===

impl Door {
    pub fn new(id: usize) -> Arc<Self> {
        Arc::new(Self {
            id,
            closed: AtomicBool::new(false),
            closing: Notify::new(),
        })
    }

    /// Whether its connections are to end when they can do so without harm.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Returns when it is closed. Cancel safe.
    pub(super) async fn closed(&self) {
        let mut closing = std::pin::pin!(self.closing.notified());
        // From here on no notification is missed.
        closing.as_mut().enable();
        if !self.is_closed() {
            closing.await;
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.closing.notify_waiters();
    }
}

/// The doors at which one thread accepts. Dropped, it accepts no more, and whoever waits at a door is turned away.
pub(super) struct Doors<F> {
    accepting: Vec<Accepting>,
    take: F,
}

/// An accept loop, aborted when this is dropped.
struct Accepting {
    door: Arc<Door>,
    /// Dropped to ask it to take in those who wait, and end.
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl<F: Fn(ClientStream, &Arc<Door>) + Clone + Send + 'static> Doors<F> {
    /// Accepts on the current runtime; `take` gets what comes in.
    pub(super) fn open(listeners: Vec<Listener>, take: F) -> io::Result<Self> {
        let mut doors = Self {
            accepting: Vec::with_capacity(listeners.len()),
            take,
        };
        for listener in listeners {
            doors.add(listener)?;
        }
        Ok(doors)
    }

    /// Opens and closes as reloads ask. Never returns. Cancel safe.
    pub(super) async fn follow(&mut self, changes: &mut mpsc::UnboundedReceiver<Change>) {
        while let Some(change) = changes.recv().await {
            match change {
                Change::Open(listener) => {
                    if let Err(error) = self.add(listener) {
                        tracing::error!(%error, "cannot accept connections on a new listener");
                    }
                }
                Change::Close(door) => self.close(&door),
            }
        }
        // Nobody is left who could change anything.
        std::future::pending::<()>().await;
    }

    /// Takes in those who wait at any door, and ends.
    pub(super) async fn close_all(self) {
        for mut accepting in self.accepting {
            accepting.stop = None;
            // If it panicked, it has told so.
            let _ = (&mut accepting.task).await;
        }
    }

    fn add(&mut self, listener: Listener) -> io::Result<()> {
        let Listener { door, socket } = listener;
        let socket = match socket {
            ListenSocket::Tcp(socket) => Acceptor::Tcp(TcpListener::from_std(socket)?),
            ListenSocket::Unix(socket) => Acceptor::Unix(UnixListener::from_std(socket)?),
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(accept(
            socket,
            Arc::clone(&door),
            self.take.clone(),
            stopped,
        ));
        self.accepting.push(Accepting {
            door,
            stop: Some(stop),
            task,
        });
        Ok(())
    }

    fn close(&mut self, door: &Arc<Door>) {
        door.close();
        self.accepting.retain_mut(|accepting| {
            let goes = accepting.door.id == door.id;
            if goes {
                accepting.stop = None;
            }
            !goes
        });
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        // One that was asked to stop ends by itself.
        if self.stop.is_some() {
            self.task.abort();
        }
    }
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

async fn accept<F: Fn(ClientStream, &Arc<Door>)>(
    socket: Acceptor,
    door: Arc<Door>,
    take: F,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut told = None;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stopped => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok(stream) => take(stream, &door),
            Err(error) => accept_failed(&error, &mut told).await,
        }
    }
    // Their handshakes are complete: to them, the connection is open.
    if let Err(error) = socket.for_the_last_time(|stream| take(stream, &door)) {
        tracing::warn!(%error, "connections that had come in on a removed listener are lost");
    }
}

impl Acceptor {
    async fn accept(&self) -> io::Result<ClientStream> {
        Ok(match self {
            Self::Tcp(listener) => ClientStream::Tcp(listener.accept().await?.0),
            Self::Unix(listener) => ClientStream::Unix(listener.accept().await?.0),
        })
    }

    /// Takes whoever waits, and closes. Without tokio, which may say that nobody waits where the task has had its share of turns.
    fn for_the_last_time(self, take: impl Fn(ClientStream)) -> io::Result<()> {
        let next: Box<dyn Fn() -> io::Result<ClientStream>> = match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                Box::new(move || {
                    let stream = listener.accept()?.0;
                    stream.set_nonblocking(true)?;
                    Socket::Tcp(stream).into_tokio()
                })
            }
            Self::Unix(listener) => {
                let listener = listener.into_std()?;
                Box::new(move || {
                    let stream = listener.accept()?.0;
                    stream.set_nonblocking(true)?;
                    Socket::Unix(stream).into_tokio()
                })
            }
        };
        loop {
            match next() {
                Ok(stream) => take(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if is_the_clients(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// `told` is when that was last logged.
async fn accept_failed(error: &io::Error, told: &mut Option<Instant>) {
    if is_the_clients(error) {
        return;
    }
    if told.is_none_or(|told| told.elapsed() >= ACCEPT_SILENCE) {
        *told = Some(Instant::now());
        tracing::warn!(%error, "cannot accept connections");
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// The client gave up before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

// === impl Socket ===

impl Socket {
    pub(super) fn from_tokio(stream: ClientStream) -> io::Result<Self> {
        Ok(match stream {
            ClientStream::Tcp(stream) => Self::Tcp(stream.into_std()?),
            ClientStream::Unix(stream) => Self::Unix(stream.into_std()?),
        })
    }

    pub(super) fn into_tokio(self) -> io::Result<ClientStream> {
        Ok(match self {
            Self::Tcp(socket) => ClientStream::Tcp(TcpStream::from_std(socket)?),
            Self::Unix(socket) => ClientStream::Unix(UnixStream::from_std(socket)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Their handshakes are done by the kernel: to the apps, they are connected. As many as its default backlog holds.
    #[tokio::test]
    async fn who_waits_at_a_door_that_closes_is_let_in() {
        let (taken, mut doors) = doors();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let _apps: Vec<_> = (0..100)
            .map(|_| std::net::TcpStream::connect(address).unwrap())
            .collect();
        let (sender, mut changes) = mpsc::unbounded_channel();
        let door = Door::new(7);
        let listener = Listener {
            door: Arc::clone(&door),
            socket: ListenSocket::Tcp(socket),
        };
        drop(sender.send(Change::Open(listener)));
        drop(sender.send(Change::Close(Arc::clone(&door))));
        tokio::spawn(async move { doors.follow(&mut changes).await });
        let all = async {
            while taken.lock().unwrap().len() < 100 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all)
            .await
            .unwrap();
        assert_eq!(*taken.lock().unwrap(), vec![7; 100]);
        assert!(door.is_closed());
        door.closed().await;
        std::net::TcpStream::connect(address).unwrap_err();
    }

    type Taken = Arc<Mutex<Vec<usize>>>;

    fn doors() -> (
        Taken,
        Doors<impl Fn(ClientStream, &Arc<Door>) + Clone + Send + 'static>,
    ) {
        let taken = Taken::default();
        let list = Arc::clone(&taken);
        let take = move |_, door: &Arc<Door>| list.lock().unwrap().push(door.id);
        (taken, Doors::open(Vec::new(), take).unwrap())
    }
}
