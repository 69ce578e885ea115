"""What a node can be: full node, committee member with its home-router desk, provider, user agent."""
