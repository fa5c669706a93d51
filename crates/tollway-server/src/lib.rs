//! A fast HTTP server with handlers behind a trait.
