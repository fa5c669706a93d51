//! A connection: made over TCP, TLS or a Unix socket.

use std::future::Future;
use std::pin::Pin;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ConnectionAddr, RedisError, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tollway_core::StoreError;

use super::address::Address;
use super::trouble;

/// A connection, and the future that moves its bytes and ends with it.
pub(super) struct Link {
    pub(super) connection: MultiplexedConnection,
    pub(super) pump: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Ends when another server took this one's place.
    pub(super) replaced: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Whether the server accepted a connection and cut it.
pub(super) struct Cut(pub(super) bool);

impl Link {
    /// Connects and says who is there. Takes as long as it takes.
    pub(super) async fn make(address: &Address) -> Result<Self, (StoreError, Cut)> {
        // Reset and not refused: somebody listened a moment ago. Trying again tells whether he still does.
        let refused = |error: std::io::Error| {
            (trouble::connecting_io(address, &error), Cut(error.kind() == std::io::ErrorKind::ConnectionReset))
        };
        match address.info.addr() {
            ConnectionAddr::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(refused)?;
                stream.set_nodelay(true).map_err(refused)?;
                #[cfg(feature = "redis-tls")]
                if let Some(tls) = &address.tls {
                    let stream = tls.wrap(host, stream).await;
                    return Self::greet(address, stream.map_err(|error| (trouble::tls(address, &error), Cut(false)))?)
                        .await;
                }
                Self::greet(address, stream).await
            }
            ConnectionAddr::Unix(path) => Self::greet(address, UnixStream::connect(path).await.map_err(refused)?).await,
            _ => {
                let cause = trouble::unexpected(&address.name, "the address is neither TCP nor a Unix socket");
                Err((cause, Cut(false)))
            }
        }
    }

    async fn greet<S>(address: &Address, stream: S) -> Result<Self, (StoreError, Cut)>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let made = MultiplexedConnection::new_with_config(address.info.redis_settings(), stream, config).await;
        let failed = |error: RedisError| (trouble::connecting(address, &error), Cut(trouble::was_cut(&error)));
        let (connection, pump) = made.map_err(failed)?;
        Ok(Self { connection, pump: Box::pin(pump), replaced: Box::pin(std::future::pending()) })
    }

    /// Sends one command and waits for its answer.
    pub(super) async fn ask(&mut self, cmd: &Cmd) -> Result<Value, RedisError> {
        let reply = self.connection.send_packed_command(cmd);
        tokio::select! {
            biased;
            reply = reply => reply,
            () = &mut self.pump => Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()),
        }
    }
}
