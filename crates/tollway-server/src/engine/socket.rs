//! What is under a connection: a TCP or Unix socket, with or without TLS.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use rustls::ServerConnection;
use socket2::{Domain, SockRef, Socket};

use crate::Tls;

/// Who a client on a Unix socket is: somebody on this machine.
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A listening socket of either kind, ready to accept without blocking.
///
/// ```
/// let listener: tollway_server::Listener = tollway_server::bind("127.0.0.1", 0, false)?.into();
/// # Ok::<(), tollway_server::BindError>(())
/// ```
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl From<std::net::TcpListener> for Listener {
    fn from(listener: std::net::TcpListener) -> Self {
        Listener(Kind::Tcp(listener))
    }
}

impl From<std::os::unix::net::UnixListener> for Listener {
    fn from(listener: std::os::unix::net::UnixListener) -> Self {
        Listener(Kind::Unix(listener))
    }
}

impl TryFrom<OwnedFd> for Listener {
    type Error = io::Error;

    /// Takes a descriptor that listens already. Fails when it is no such socket.
    fn try_from(descriptor: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(descriptor);
        let not_ours = || io::Error::new(io::ErrorKind::InvalidInput, "the descriptor is not a listening socket");
        if !socket.is_listener().map_err(|_| not_ours())? {
            return Err(not_ours());
        }
        match socket.domain()? {
            Domain::IPV4 | Domain::IPV6 => Ok(Listener(Kind::Tcp(socket.into()))),
            Domain::UNIX => Ok(Listener(Kind::Unix(OwnedFd::from(socket).into()))),
            _ => Err(not_ours()),
        }
    }
}

/// A [`Listener`] inside an engine.
pub(super) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    pub(super) fn new(listener: Listener, registry: &Registry, token: Token) -> io::Result<Self> {
        match listener.0 {
            Kind::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                let mut listener = TcpListener::from_std(listener);
                registry.register(&mut listener, token, Interest::READABLE)?;
                Ok(Acceptor::Tcp(listener))
            }
            Kind::Unix(listener) => {
                listener.set_nonblocking(true)?;
                let mut listener = UnixListener::from_std(listener);
                registry.register(&mut listener, token, Interest::READABLE)?;
                Ok(Acceptor::Unix(listener))
            }
        }
    }

    /// One waiting connection.
    pub(super) fn accept(&self) -> io::Result<(Plain, SocketAddr)> {
        match self {
            Acceptor::Tcp(listener) => {
                let (socket, peer) = listener.accept()?;
                // Answers leave in one piece, so waiting to combine them only delays.
                // A socket that cannot be told so works all the same.
                let _ = socket.set_nodelay(true);
                Ok((Plain::Tcp(socket), peer))
            }
            Acceptor::Unix(listener) => Ok((Plain::Unix(listener.accept()?.0), LOCAL)),
        }
    }
}

/// A connected socket.
pub(super) enum Plain {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Plain {
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match self {
            Plain::Tcp(socket) => registry.register(socket, token, both),
            Plain::Unix(socket) => registry.register(socket, token, both),
        }
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Plain::Tcp(socket) => socket.shutdown(how),
            Plain::Unix(socket) => socket.shutdown(how),
        }
    }
}

impl Read for &Plain {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Plain::Tcp(socket) => { socket }.read(into),
            Plain::Unix(socket) => { socket }.read(into),
        }
    }
}

impl Write for &Plain {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Plain::Tcp(socket) => { socket }.write(bytes),
            Plain::Unix(socket) => { socket }.write(bytes),
        }
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Plain::Tcp(socket) => { socket }.write_vectored(pieces),
            Plain::Unix(socket) => { socket }.write_vectored(pieces),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The protocol that was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// A socket and the TLS session on it, if there is one.
pub(super) struct Transport {
    plain: Plain,
    session: Option<Box<RefCell<ServerConnection>>>,
    /// The close is to be a reset.
    abrupt: Cell<bool>,
}

impl Transport {
    /// Fails only where memory for the session is wanting.
    pub(super) fn new(plain: Plain, tls: Option<&Tls>) -> io::Result<Self> {
        let session = match tls {
            None => None,
            Some(tls) => {
                let session = ServerConnection::new(tls.config.clone()).map_err(io::Error::other)?;
                Some(Box::new(RefCell::new(session)))
            }
        };
        Ok(Transport { plain, session, abrupt: Cell::new(false) })
    }

    pub(super) fn is_secure(&self) -> bool {
        self.session.is_some()
    }

    /// Goes on with the handshake as far as the socket allows. `WouldBlock` until
    /// it is complete.
    pub(super) fn negotiate(&self) -> io::Result<Protocol> {
        let Some(session) = &self.session else { return Ok(Protocol::Http1) };
        let session = &mut *session.borrow_mut();
        while session.is_handshaking() {
            if self.pull(session)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // What there is to say goes out by the flush that follows each step.
        }
        Ok(if session.alpn_protocol() == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 })
    }

    /// Reads and decrypts what has come. 0 at the end.
    fn pull(&self, session: &mut ServerConnection) -> io::Result<usize> {
        let count = session.read_tls(&mut &self.plain)?;
        if let Err(error) = session.process_new_packets() {
            // The alert that says why; the client may be gone already.
            let _ = session.write_tls(&mut &self.plain);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(count)
    }

    /// As the socket's own read.
    pub(super) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &self.session else { return (&self.plain).read(into) };
        let session = &mut *session.borrow_mut();
        loop {
            match session.reader().read(into) {
                // A client that closes without saying so in TLS: messages say
                // themselves where they end, so nothing can be cut off unnoticed.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.pull(session)? == 0 {
                        return Ok(0);
                    }
                }
                done => return done,
            }
        }
    }

    /// Whether a read that brings less than asked for has emptied the socket.
    pub(super) fn is_emptied_by_short_reads(&self) -> bool {
        self.session.is_none()
    }

    /// As the socket's own write. With TLS, what was taken is sent by [`push`](Self::push) at the latest.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.session {
            None => (&self.plain).write(bytes),
            Some(session) => self.encrypt(&mut session.borrow_mut(), |writer| writer.write(bytes)),
        }
    }

    /// As the socket's own write of several pieces.
    pub(super) fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.session {
            None => (&self.plain).write_vectored(pieces),
            Some(session) => self.encrypt(&mut session.borrow_mut(), |writer| writer.write_vectored(pieces)),
        }
    }

    fn encrypt(
        &self,
        session: &mut ServerConnection,
        write: impl FnOnce(&mut rustls::Writer<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        // Only when all of the last piece is out is another one taken, so one
        // piece is all that is ever held.
        if !self.push_session(session)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = write(&mut session.writer())?;
        self.push_session(session)?;
        Ok(count)
    }

    /// Sends what TLS has to say. Answers whether nothing is left.
    pub(super) fn push(&self) -> io::Result<bool> {
        match &self.session {
            None => Ok(true),
            Some(session) => self.push_session(&mut session.borrow_mut()),
        }
    }

    fn push_session(&self, session: &mut ServerConnection) -> io::Result<bool> {
        while session.wants_write() {
            match session.write_tls(&mut &self.plain) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether TLS holds something that the socket did not take.
    pub(super) fn holds_output(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.borrow().wants_write())
    }

    /// Lets the close, when it comes, be a reset, without an effect on a socket
    /// that cannot do that. TLS does not say that the end was meant.
    pub(super) fn reset_on_close(&self) {
        self.abrupt.set(true);
        if let Plain::Tcp(socket) = &self.plain {
            // A socket that cannot be told so closes in the ordinary way.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// Says that nothing more will be sent.
    pub(super) fn finish_sending(&self) -> io::Result<()> {
        self.say_goodbye();
        self.plain.shutdown(Shutdown::Write)
    }

    /// Tells the client that the end is meant, if that needs no waiting.
    fn say_goodbye(&self) {
        if let Some(session) = &self.session
            && !self.abrupt.get()
        {
            let session = &mut *session.borrow_mut();
            session.send_close_notify();
            // Nobody waits for it, and the client may be gone.
            let _ = self.push_session(session);
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.say_goodbye();
    }
}
