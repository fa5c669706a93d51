"""Processes that serve: their command line, sockets, threads, bounds, ends and successors."""
