"""Protocols that measure a cascade; each is a module with a `run`."""
