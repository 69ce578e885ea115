"""llama.cpp as an engine: a server in a child process on a private Unix socket, and the adapter that speaks to it."""
