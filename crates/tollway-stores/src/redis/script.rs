//! The scripts: one file for each algorithm and the one that applies them.

use std::sync::OnceLock;

/// A script call costs the server a few microseconds before it looks at a key, the more the longer
/// the script. So there is one for all limits, one for buckets and windows, and for a single key with a
/// single one of those one that knows nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Script {
    /// One key with one bucket without options of its own.
    Bucket,
    /// One key with one window of fixed length.
    Window,
    /// One key with one sliding window.
    Sliding,
    /// Buckets without options of their own, and windows of fixed length.
    #[default]
    Plain,
    /// All.
    Whole,
}

const BUCKET: &str = concat!(
    include_str!("scripts/begin.lua"),
    include_str!("scripts/schedule.lua"),
    "local run, IS_BUCKET, FIELDS, SPELLED = schedule, true, ':(%d+):(%d+)$', WHOLE .. WHOLE\n",
    include_str!("scripts/lone.lua"),
);

const WINDOW: &str = concat!(
    include_str!("scripts/begin.lua"),
    include_str!("scripts/fixed_window.lua"),
    "local run, IS_BUCKET, FIELDS, SPELLED = fixed_window, false, ':(%d+):(%d+)$', WHOLE .. WHOLE\n",
    include_str!("scripts/lone.lua"),
);

const SLIDING: &str = concat!(
    include_str!("scripts/begin.lua"),
    include_str!("scripts/arithmetic.lua"),
    // It clamps the clock as a fixed window does.
    include_str!("scripts/fixed_window.lua"),
    include_str!("scripts/sliding_window.lua"),
    "local run, IS_BUCKET, FIELDS, SPELLED = sliding_window, false, ':(%d+):(%d+):(%d+)$', WHOLE .. WHOLE .. WHOLE\n",
    include_str!("scripts/lone.lua"),
);

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
    pub(super) const ALL: [Self; 5] = [Self::Bucket, Self::Window, Self::Sliding, Self::Plain, Self::Whole];

    /// What is loaded into the server.
    pub(super) fn source(self) -> &'static str {
        match self {
            Self::Bucket => BUCKET,
            Self::Window => WINDOW,
            Self::Sliding => SLIDING,
            Self::Plain => PLAIN,
            Self::Whole => WHOLE,
        }
    }

    /// The name the server knows it by.
    pub(super) fn digest(self) -> &'static str {
        static DIGESTS: OnceLock<[String; 5]> = OnceLock::new();
        let made = || Self::ALL.map(|script| redis::Script::new(script.source()).get_hash().to_owned());
        &DIGESTS.get_or_init(made)[self as usize]
    }
}
