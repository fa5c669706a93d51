//! What is added to every answer of a route: decided when the server is made, applied in one
//! place when the answer is there.

mod compress;
mod cors;
mod finish;
mod ids;
mod log;

pub use compress::{Coding, Compression};
pub use cors::{Cors, CorsError, CorsSpec, Preflight};
pub use finish::{Finish, Secure, Seen};
pub use ids::{RequestId, RequestIds, fresh_id};
pub use log::{AccessLog, Field, LogFormat, LogRule, LogSpec, LogTarget};
