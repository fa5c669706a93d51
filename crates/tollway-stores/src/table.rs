//! A flat lock-free table from key to state: one word for each key, one exchange for each decision.

#[cfg(all(test, feature = "memory"))]
mod golden;
mod ground;
#[cfg(feature = "memory")]
mod growing;
#[cfg(feature = "memory")]
mod heap;
mod layout;
mod level;
#[cfg(all(feature = "shm", target_os = "linux"))]
mod looking;
#[cfg(all(test, feature = "memory"))]
mod model;
#[cfg(feature = "memory")]
mod moving;
mod together;
mod word;

#[cfg(all(feature = "shm", target_os = "linux"))]
pub(crate) use ground::{Ground, WAYS};
#[cfg(feature = "memory")]
pub(crate) use growing::{Room, Table};
pub(crate) use layout::Layout;
#[cfg(feature = "memory")]
pub(crate) use layout::give_back;
pub(crate) use level::Moment;
#[cfg(all(feature = "shm", target_os = "linux"))]
pub(crate) use level::{Blocked, Level};
pub(crate) use together::{Applied, Together, together};
