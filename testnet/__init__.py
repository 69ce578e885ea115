"""Local networks: the launcher behind ``make testnet``, fault plans and benchmarks."""
