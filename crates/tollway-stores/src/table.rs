//! A flat lock-free table from key to state: one word for each key, one exchange for each decision.

#[cfg(test)]
mod golden;
mod ground;
mod growing;
mod layout;
mod level;
#[cfg(test)]
mod model;
mod moving;
mod together;
mod word;

pub(crate) use ground::{Ground, WAYS};
pub(crate) use growing::{Room, Table};
pub(crate) use layout::{Layout, give_back};
pub(crate) use level::{Blocked, Level, Moment};
pub(crate) use together::{Applied, Together, together};
