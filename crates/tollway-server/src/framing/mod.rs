//! The strict framing guard that stands in front of the HTTP parser.
//!
//! Where one message ends and the next begins must be beyond doubt, or a proxy
//! in front of the server and the server itself can be made to disagree (request
//! smuggling). The guard sees every byte a client sends before the parser does
//! and clears only what it understands completely: a head is cleared as a whole
//! or refused, body bytes are counted, chunk framing is checked. It is a pure
//! state machine; how the input is cut into pieces never changes the outcome.

mod chunked;
mod glance;
mod head;
mod host;
mod refusal;

use chunked::Chunked;
pub(crate) use glance::glance;
use head::{Framing, Head};
pub(crate) use host::is_host;
pub use refusal::Refusal;
pub(crate) use refusal::problem;

/// Bounds the guard enforces.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest request line plus headers, in bytes.
    pub max_head_bytes: usize,
    /// Longest request target (path and query), in bytes.
    pub max_target_bytes: usize,
    /// Most header lines in a head, and most trailer lines after a body.
    pub max_headers: usize,
    /// Largest body without its chunk framing, in bytes.
    pub max_body_bytes: u64,
}

/// What [`Guard::inspect`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// How many of the given bytes, from the first on, may go to the parser.
    pub cleared: usize,
    /// Why the byte after those, or one that follows, cannot be accepted.
    /// Nothing is cleared any more from then on.
    pub refusal: Option<Refusal>,
}

#[derive(Debug)]
enum Stage {
    Head(Head),
    Length(u64),
    Chunked(Chunked),
    Refused { refusal: Refusal, in_body: bool },
}

/// Follows the bytes of one connection.
///
/// ```
/// use tollway_server::framing::{Guard, Limits, Refusal};
/// let limits = Limits { max_head_bytes: 1024, max_target_bytes: 512, max_headers: 10, max_body_bytes: 100 };
/// let mut guard = Guard::new(limits);
/// let partial = guard.inspect(b"GET / HTTP/1.1\r\nHost: a\r\n");
/// assert_eq!((partial.cleared, partial.refusal), (0, None));
///
/// let mut guard = Guard::new(limits);
/// let bad = guard.inspect(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n");
/// assert_eq!(bad.refusal.unwrap().status(), 400);
/// ```
#[derive(Debug)]
pub struct Guard {
    limits: Limits,
    stage: Stage,
    messages: u64,
}

impl Guard {
    /// A guard for a new connection.
    pub fn new(limits: Limits) -> Self {
        Guard { limits, stage: Stage::Head(Head::default()), messages: 0 }
    }

    /// Looks at `bytes`, which begin with the first byte not cleared so far.
    ///
    /// Bytes that were not cleared must be given again, with more behind them.
    pub fn inspect(&mut self, bytes: &[u8]) -> Inspection {
        let mut cleared = 0;
        loop {
            let rest = &bytes[cleared..];
            match self.step(rest) {
                Ok(0) => return Inspection { cleared, refusal: None },
                Ok(count) => cleared += count,
                Err(refusal) => {
                    self.stage = Stage::Refused { refusal, in_body: self.in_body() };
                    return Inspection { cleared, refusal: Some(refusal) };
                }
            }
        }
    }

    /// Number of heads cleared.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Whether the head last cleared promises body bytes that have not come yet,
    /// or never will because the body was refused.
    pub fn in_body(&self) -> bool {
        match self.stage {
            Stage::Head(_) => false,
            Stage::Length(_) | Stage::Chunked(_) => true,
            Stage::Refused { in_body, .. } => in_body,
        }
    }

    /// Clears the bytes of one message part. 0 means more input is needed.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        match &mut self.stage {
            Stage::Refused { refusal, .. } => Err(*refusal),
            Stage::Head(head) => {
                let Some((length, framing)) = head.advance(bytes, &self.limits)? else {
                    return Ok(0);
                };
                self.messages += 1;
                self.stage = match framing {
                    Framing::Length(0) => Stage::Head(Head::default()),
                    Framing::Length(length) => Stage::Length(length),
                    Framing::Chunked => Stage::Chunked(Chunked::default()),
                };
                Ok(length)
            }
            Stage::Length(left) => {
                let count = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                if *left == 0 {
                    self.stage = Stage::Head(Head::default());
                }
                Ok(count)
            }
            Stage::Chunked(chunked) => {
                let count = chunked.advance(bytes, &self.limits)?;
                if chunked.is_done() {
                    self.stage = Stage::Head(Head::default());
                }
                Ok(count)
            }
        }
    }
}
