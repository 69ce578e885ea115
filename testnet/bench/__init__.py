"""Measurements of a whole network on this machine: ``python -m testnet.bench``."""
