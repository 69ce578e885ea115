"""ExLlamaV2 as an engine: the dynamic generator on a thread of its own in a child process, and the adapter to it."""
