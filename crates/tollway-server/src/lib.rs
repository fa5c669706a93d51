//! A fast HTTP server with handlers behind a trait.
//!
//! The [`Engine`] speaks HTTP/1, and over TLS also HTTP/2, on one thread over its own epoll instance. It
//! never starts a runtime: the owner either calls [`Engine::run`], which
//! blocks, or registers the engine's descriptor in another event loop and calls
//! [`Engine::turn`] whenever it is readable. Handlers and their futures need
//! not be `Send`.
#![forbid(unsafe_code)]

pub mod app;
mod engine;
mod files;
pub mod framing;
mod listen;
mod message;
mod settings;
mod tls;

pub use engine::{Engine, Handler, Listener, Stats, Stopper, Turn};
pub use files::File;
pub use listen::{BindError, bind, check_free};
pub use message::{Body, Refused, Request, Response, Stream, StreamError};
pub use settings::{Settings, SettingsError};
pub use tls::{Tls, TlsError};
