"""Tendermint (arXiv 1807.04938, algorithm 1, stake-weighted) as pure functions on frozen data.

vote keeper (:mod:`votes`) → round state machine (:mod:`round`) → one height (:mod:`instance`) → all heights
(:mod:`driver`); :mod:`events` is what a shell exchanges with the driver. :mod:`certificate` and :mod:`evidence` are
the parts that know signatures.
"""
