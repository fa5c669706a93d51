//! The settings that every remote store has.

use std::time::Duration;

use tollway_core::ConfigError;

/// What they are set to.
pub(crate) struct Settings<'a> {
    pub(crate) prefix: &'a str,
    pub(crate) connect_timeout: Duration,
    pub(crate) command_timeout: Duration,
    pub(crate) queue: usize,
}

impl Settings<'_> {
    /// Whether a store can be run with them; `kind` is what messages call it.
    pub(crate) fn check(&self, kind: &str) -> Result<(), ConfigError> {
        let legal = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}');
        if self.prefix.is_empty() || self.prefix.len() > 128 || !self.prefix.bytes().all(legal) {
            return Err(ConfigError::new(format!(
                "{kind} prefix {:?} is not usable: use 1 to 128 visible ASCII characters without braces",
                self.prefix
            )));
        }
        for (name, value) in [("connect_timeout", self.connect_timeout), ("command_timeout", self.command_timeout)] {
            if value < Duration::from_millis(1) || value > Duration::from_secs(3_600) {
                return Err(ConfigError::new(format!("{kind} {name} is {value:?}: use 1 ms to 1 h")));
            }
        }
        if self.queue == 0 {
            return Err(ConfigError::new(format!("{kind} queue is 0: let at least one call wait")));
        }
        Ok(())
    }
}
