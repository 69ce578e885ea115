"""The whole committee in one thread: virtual time, seeded faults, and an oracle that looks at every step."""
