"""The Compute Contract's side of the protocol: Vyper sources, pure twins of their rules, and the only web3 user."""
