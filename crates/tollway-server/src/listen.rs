//! Opening the listening socket, with errors that name the next step.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait in the kernel until they are accepted.
const BACKLOG: i32 = 2048;

/// Why a listening socket could not be opened.
#[derive(Debug)]
pub struct BindError {
    host: String,
    port: u16,
    why: Why,
    source: io::Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    InUse,
    Denied,
    NotLocal,
    Unresolved,
    Other,
}

impl BindError {
    fn new(host: &str, port: u16, source: io::Error) -> Self {
        let why = match source.kind() {
            io::ErrorKind::AddrInUse => Why::InUse,
            io::ErrorKind::PermissionDenied => Why::Denied,
            io::ErrorKind::AddrNotAvailable => Why::NotLocal,
            _ => Why::Other,
        };
        BindError { host: host.to_owned(), port, why, source }
    }

    fn unresolved(host: &str, port: u16, source: io::Error) -> Self {
        BindError { host: host.to_owned(), port, why: Why::Unresolved, source }
    }

    /// The kind of the operating system's error, for callers that branch on it.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// The operating system's error number, if it gave one.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (&self.host, self.port);
        match self.why {
            Why::InUse => write!(
                f,
                "port {port} on {host} is already in use: stop the program that listens there \
                 or choose another with --port"
            ),
            Why::Denied => write!(
                f,
                "no permission to listen on port {port} of {host}: ports below 1024 are \
                 privileged, choose another with --port"
            ),
            Why::NotLocal => write!(
                f,
                "{host} is not an address of this machine: choose one that is with --host, \
                 or 0.0.0.0 for all"
            ),
            Why::Unresolved => {
                write!(f, "the host name {host:?} cannot be resolved ({}): give an IP address with --host", self.source)
            }
            Why::Other => write!(f, "cannot listen on port {port} of {host}: {}", self.source),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Opens a non-blocking listening socket.
///
/// `host` is an address or a name; of several addresses the first that works is
/// taken. Port 0 lets the system choose. With `reuse_port` several processes may
/// listen on the same port and the kernel spreads connections over them; call
/// [`check_free`] once before to find out whether a stranger has the port.
///
/// ```
/// let listener = tollway_server::bind("127.0.0.1", 0, false)?;
/// let port = listener.local_addr().unwrap().port();
/// let taken = tollway_server::bind("127.0.0.1", port, false).unwrap_err();
/// assert!(taken.to_string().contains("already in use"));
/// # Ok::<(), tollway_server::BindError>(())
/// ```
pub fn bind(host: &str, port: u16, reuse_port: bool) -> Result<TcpListener, BindError> {
    let mut last = None;
    for address in resolve(host, port)? {
        match open(address, reuse_port, true) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| io::Error::other("the name has no address"));
    Err(BindError::new(host, port, error))
}

/// Says whether nobody listens on the port, not even with port sharing.
///
/// [`bind`] with `reuse_port` succeeds beside any other server of the same user
/// that shares its port; a process that starts workers asks this first. Nothing
/// stays bound.
pub fn check_free(host: &str, port: u16) -> Result<(), BindError> {
    if port == 0 {
        return Ok(());
    }
    for address in resolve(host, port)? {
        open(address, false, false).map_err(|error| BindError::new(host, port, error))?;
    }
    Ok(())
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, BindError> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    match (bare, port).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => Err(BindError::unresolved(host, port, error)),
    }
}

fn open(address: SocketAddr, reuse_port: bool, listen: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    if listen {
        socket.listen(BACKLOG)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
