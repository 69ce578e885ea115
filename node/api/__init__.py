"""The node's two HTTP servers, both on loopback only: the user's OpenAI gateway and the operator's control API."""
