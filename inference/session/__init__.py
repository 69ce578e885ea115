"""The session protocol: a direct stream on which a ticket buys an answer (S29, S30), both halves of it."""
