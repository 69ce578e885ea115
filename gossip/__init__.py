"""What nodes say to one another: signed messages (pure) and the libp2p layer that carries them."""
