"""A vLLM, TabbyAPI or llama-server elsewhere as an engine: what a GPU cluster sells through."""
