"""The shop of `examples/shop`, under the servers that people run."""
