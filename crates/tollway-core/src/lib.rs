//! Rate-limit decisions as pure functions: rates, policies, algorithms, the store port.
