"""Rules that nodes must agree on, as plain functions on frozen data: no socket, file, clock, randomness or log."""
