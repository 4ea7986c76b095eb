//! Listening sockets, which a reload opens and closes while connections come in.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::client_io::ClientStream;

/// Pause after a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Least time between two log lines about failed accepts.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The state of a listener that its connections share.
#[derive(Debug)]
pub struct ListenerState {
    /// Never reused: a connection that outlives its listener must not pass for a later listener's.
    pub id: usize,
    closed: AtomicBool,
    closing: Notify,
}

pub struct Listener {
    pub state: Arc<ListenerState>,
    pub socket: ListenSocket,
}

pub enum ListenSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// A reload's change to the listeners.
pub enum ListenerChange {
    Open(Listener),
    Close(Arc<ListenerState>),
}

/// An accepted connection on its way to another thread.
pub enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl ListenerState {
    pub fn new(id: usize) -> Arc<Self> {
        Arc::new(Self {
            id,
            closed: AtomicBool::new(false),
            closing: Notify::new(),
        })
    }

    /// Returns whether the listener's connections should end once they can do so without loss.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Resolves when the listener is closed. Cancel safe.
    pub(super) async fn closed(&self) {
        let mut closing = std::pin::pin!(self.closing.notified());
        // From here on, no notification is missed.
        closing.as_mut().enable();
        if !self.is_closed() {
            closing.await;
        }
    }

    fn close(&self) {
        self.closed.store(true, Relaxed);
        self.closing.notify_waiters();
    }
}

/// The accept loops of one thread. A drop stops the loops and resets queued connections.
struct AcceptLoops<F> {
    loops: Vec<AcceptLoop>,
    take: F,
}

/// The accept loop of one listener, aborted on drop.
struct AcceptLoop {
    listener: Arc<ListenerState>,
    /// Dropped to let the loop accept the queued connections and end.
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// Accepts on the current runtime until `draining` turns true, then accepts the queued connections.
/// `take` gets each connection.
pub(super) async fn accept_until_drained(
    listeners: Vec<Listener>,
    mut changes: mpsc::UnboundedReceiver<ListenerChange>,
    mut draining: watch::Receiver<bool>,
    take: impl Fn(ClientStream, Arc<ListenerState>) + Clone + Send + 'static,
) -> io::Result<()> {
    let mut loops = AcceptLoops::open(listeners, take)?;
    tokio::select! {
        // An error means that the control thread is gone: the process is ending, too.
        _ = draining.wait_for(|draining| *draining) => {}
        () = loops.follow(&mut changes) => {}
    }
    loops.close_all().await;
    Ok(())
}

impl<F: Fn(ClientStream, Arc<ListenerState>) + Clone + Send + 'static> AcceptLoops<F> {
    fn open(listeners: Vec<Listener>, take: F) -> io::Result<Self> {
        let loops = Vec::with_capacity(listeners.len());
        let mut opened = Self { loops, take };
        for listener in listeners {
            opened.add(listener)?;
        }
        Ok(opened)
    }

    /// Applies the changes of reloads. Never resolves. Cancel safe.
    async fn follow(&mut self, changes: &mut mpsc::UnboundedReceiver<ListenerChange>) {
        while let Some(change) = changes.recv().await {
            match change {
                ListenerChange::Open(listener) => {
                    if let Err(error) = self.add(listener) {
                        tracing::error!(%error, "cannot accept connections on a new listener");
                    }
                }
                ListenerChange::Close(listener) => self.close(&listener),
            }
        }
        std::future::pending::<()>().await;
    }

    /// Accepts the queued connections of all listeners and closes them.
    async fn close_all(self) {
        for mut accepting in self.loops {
            accepting.stop = None;
            // The panic hook has logged a panic.
            let _ = (&mut accepting.task).await;
        }
    }

    fn add(&mut self, listener: Listener) -> io::Result<()> {
        let Listener { state, socket } = listener;
        let socket = match socket {
            ListenSocket::Tcp(socket) => Acceptor::Tcp(TcpListener::from_std(socket)?),
            ListenSocket::Unix(socket) => Acceptor::Unix(UnixListener::from_std(socket)?),
        };
        let (stop, stopped) = oneshot::channel();
        let accepting = accept(socket, Arc::clone(&state), self.take.clone(), stopped);
        self.loops.push(AcceptLoop {
            listener: state,
            stop: Some(stop),
            task: tokio::spawn(accepting),
        });
        Ok(())
    }

    fn close(&mut self, listener: &ListenerState) {
        listener.close();
        let is_closed = |it: &mut AcceptLoop| it.listener.id == listener.id;
        for mut closed in self.loops.extract_if(.., is_closed) {
            drop(closed.stop.take());
        }
    }
}

impl Drop for AcceptLoop {
    fn drop(&mut self) {
        // A stopped loop ends by itself.
        if self.stop.is_some() {
            self.task.abort();
        }
    }
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

async fn accept(
    socket: Acceptor,
    listener: Arc<ListenerState>,
    take: impl Fn(ClientStream, Arc<ListenerState>),
    mut stopped: oneshot::Receiver<()>,
) {
    let mut logged = None;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stopped => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok(stream) => take(stream, Arc::clone(&listener)),
            Err(error) => accept_failed(&error, &mut logged).await,
        }
    }
    // The kernel has completed the queued handshakes: to the apps, the connections are open.
    if let Err(error) = socket.accept_queued(|stream| take(stream, Arc::clone(&listener))) {
        tracing::warn!(%error, "connections to a removed listener are lost");
    }
}

impl Acceptor {
    async fn accept(&self) -> io::Result<ClientStream> {
        Ok(match self {
            Self::Tcp(listener) => ClientStream::Tcp(listener.accept().await?.0),
            Self::Unix(listener) => ClientStream::Unix(listener.accept().await?.0),
        })
    }

    /// Accepts the queued connections and closes the socket. Not with tokio, whose cooperative
    /// budget may report an empty queue.
    fn accept_queued(self, take: impl Fn(ClientStream)) -> io::Result<()> {
        let socket = match self {
            Self::Tcp(listener) => ListenSocket::Tcp(listener.into_std()?),
            Self::Unix(listener) => ListenSocket::Unix(listener.into_std()?),
        };
        loop {
            match socket.accept() {
                Ok(stream) => take(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if is_the_clients(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl ListenSocket {
    fn accept(&self) -> io::Result<ClientStream> {
        let socket = match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Socket::Tcp(stream)
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Socket::Unix(stream)
            }
        };
        socket.into_tokio()
    }
}

/// Logs the error if `logged`, the time of the last log line, is long ago. Pauses.
async fn accept_failed(error: &io::Error, logged: &mut Option<Instant>) {
    if is_the_clients(error) {
        return;
    }
    if logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
        *logged = Some(Instant::now());
        tracing::warn!(%error, "cannot accept connections");
    }
    sleep(ACCEPT_PAUSE).await;
}

/// Returns whether the client gave up before the accept.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    )
}

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

    /// The kernel has completed the handshakes: to the apps, the connections are open.
    #[tokio::test]
    async fn a_closing_listener_accepts_its_queued_connections() {
        let (taken, mut loops) = loops();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let _apps: Vec<_> = (0..100)
            .map(|_| std::net::TcpStream::connect(address).unwrap())
            .collect();
        let (sender, mut changes) = mpsc::unbounded_channel();
        let state = ListenerState::new(7);
        let listener = Listener {
            state: Arc::clone(&state),
            socket: ListenSocket::Tcp(socket),
        };
        drop(sender.send(ListenerChange::Open(listener)));
        drop(sender.send(ListenerChange::Close(Arc::clone(&state))));
        tokio::spawn(async move { loops.follow(&mut changes).await });
        let all = async {
            while taken.lock().unwrap().len() < 100 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all)
            .await
            .unwrap();
        assert_eq!(*taken.lock().unwrap(), vec![7; 100]);
        assert!(state.is_closed());
        state.closed().await;
        std::net::TcpStream::connect(address).unwrap_err();
    }

    type Taken = Arc<Mutex<Vec<usize>>>;

    fn loops() -> (
        Taken,
        AcceptLoops<impl Fn(ClientStream, Arc<ListenerState>) + Clone + Send + 'static>,
    ) {
        let taken = Taken::default();
        let list = Arc::clone(&taken);
        let take = move |_, listener: Arc<ListenerState>| list.lock().unwrap().push(listener.id);
        (taken, AcceptLoops::open(Vec::new(), take).unwrap())
    }
}
