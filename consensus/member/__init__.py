"""One committee member as a pure state machine: inputs in, effects out. :mod:`node.roles.member` is its shell."""
