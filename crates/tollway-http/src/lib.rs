//! HTTP words for limits: client address, identity, headers, the 429 body, the gate.
