//! The scripts: one file for each algorithm and the one that applies them.

use std::sync::OnceLock;

/// A script call costs the server a few microseconds before it looks at a key, the more the longer
/// the script. So there are two: one for buckets and windows, and one for all limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Script {
    /// Buckets without options of their own, and windows of fixed length.
    #[default]
    Plain,
    /// All.
    Whole,
}

const PLAIN: &str = concat!(
    include_str!("scripts/begin.lua"),
    include_str!("scripts/arithmetic.lua"),
    include_str!("scripts/schedule.lua"),
    include_str!("scripts/fixed_window.lua"),
    include_str!("scripts/sliding_window.lua"),
    include_str!("scripts/apply.lua"),
);

const WHOLE: &str = concat!(
    include_str!("scripts/begin.lua"),
    include_str!("scripts/arithmetic.lua"),
    include_str!("scripts/schedule.lua"),
    include_str!("scripts/bucket.lua"),
    include_str!("scripts/fixed_window.lua"),
    include_str!("scripts/calendar.lua"),
    include_str!("scripts/sliding_window.lua"),
    include_str!("scripts/log.lua"),
    include_str!("scripts/log_value.lua"),
    include_str!("scripts/apply.lua"),
);

impl Script {
    pub(super) const ALL: [Self; 2] = [Self::Plain, Self::Whole];

    /// What is loaded into the server.
    pub(super) fn source(self) -> &'static str {
        match self {
            Self::Plain => PLAIN,
            Self::Whole => WHOLE,
        }
    }

    /// The name the server knows it by.
    pub(super) fn digest(self) -> &'static str {
        static DIGESTS: OnceLock<[String; 2]> = OnceLock::new();
        let made = || Self::ALL.map(|script| redis::Script::new(script.source()).get_hash().to_owned());
        &DIGESTS.get_or_init(made)[self as usize]
    }
}
