//! The script: one file for each algorithm and the one that applies them.

use std::sync::OnceLock;

/// What is loaded into the server.
pub(super) const SOURCE: &str = concat!(
    include_str!("scripts/arithmetic.lua"),
    include_str!("scripts/schedule.lua"),
    include_str!("scripts/fixed_window.lua"),
    include_str!("scripts/calendar.lua"),
    include_str!("scripts/sliding_window.lua"),
    include_str!("scripts/apply.lua"),
);

/// The name the server knows it by.
pub(super) fn digest() -> &'static str {
    static DIGEST: OnceLock<String> = OnceLock::new();
    DIGEST.get_or_init(|| redis::Script::new(SOURCE).get_hash().to_owned())
}
