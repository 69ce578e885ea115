"""Model serving: engines behind one protocol, model identity, the session protocol and metering."""
