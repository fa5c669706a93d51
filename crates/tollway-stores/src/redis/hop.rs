//! How a job travels in a cluster: which slot it is for, and what a node says when it is not there.

use redis::{ServerError, ServerErrorKind};

/// How a job may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Together with any other: the server holds all keys.
    Anywhere,
    /// Together with others of the same slot.
    Slot(u16),
    /// In a command of its own, `asking` a node that does not own the slot yet.
    Alone {
        /// Whether ASKING goes before it.
        asking: bool,
    },
}

/// Where a node sends those who asked in vain. What was asked had no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hop {
    /// The slot is at another node, `HOST:PORT`, for good.
    Moved(String),
    /// This key may be there already.
    Ask(String),
    /// Some keys of the command are here and some there.
    TryAgain,
    /// The cluster does not serve the slot.
    Down(String),
}

impl Route {
    /// What jobs are sorted by, so that those of one slot meet in one command.
    pub(super) fn rank(self) -> u32 {
        match self {
            Self::Anywhere => 0,
            Self::Slot(slot) => u32::from(slot),
            Self::Alone { .. } => u32::MAX,
        }
    }

    /// What an error means to a job that came this way; `None` when it is just an error.
    pub(super) fn hop(self, error: &ServerError) -> Option<Hop> {
        if self == Self::Anywhere {
            return None;
        }
        let place = || Some(error.details()?.split_once(' ')?.1.trim().to_owned());
        match error.kind()? {
            ServerErrorKind::Moved => place().map(Hop::Moved),
            ServerErrorKind::Ask => place().map(Hop::Ask),
            ServerErrorKind::TryAgain => Some(Hop::TryAgain),
            ServerErrorKind::ClusterDown => Some(Hop::Down(error.details().unwrap_or_default().to_owned())),
            _ => None,
        }
    }
}

/// The slot of a key, as the cluster counts it: CRC-16 of what stands between the first braces.
pub(super) fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let tag = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => (crc << 1) ^ 0x1021,
        })
    });
    crc % 16_384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_the_servers() {
        // As `redis-cli CLUSTER KEYSLOT` says.
        for (key, number) in [("123456789", 12_739), ("foo", 12_182), ("tollway:p:{foo}", 12_182), ("", 0)] {
            assert_eq!(slot(key), number, "{key}");
        }
        assert_eq!(slot("{}foo"), slot("{}foo"));
        assert_ne!(slot("{}foo"), slot("foo"));
        assert_eq!(slot("a{b}{c}"), slot("b"));
    }
}
