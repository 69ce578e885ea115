"""The market's rules: access, book, draw, the home router's desk, the ledger and its batches. Pure.

Nothing here reads a clock or draws a random number: time is passed in, randomness comes from the beacon.
"""
