//! What all stores have in common whose answers come from elsewhere: callers leave their jobs in a
//! queue, a driver takes all that wait at once, and a lookout answers those whom the driver leaves
//! waiting.

mod lookout;
mod pause;
mod queue;
mod settings;
pub(crate) mod trouble;
pub(crate) mod url;

pub(crate) use lookout::Lookout;
pub(crate) use pause::pause;
#[cfg(feature = "redis")]
pub(crate) use queue::Ticket;
pub(crate) use queue::{Job, Queue, Work};
pub(crate) use settings::Settings;
