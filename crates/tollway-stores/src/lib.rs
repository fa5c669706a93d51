//! Where limiter state lives: one feature, one module, one URL scheme for each backend.
