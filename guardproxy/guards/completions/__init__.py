"""Guard models on servers with OpenAI's completions API, such as vLLM: our own prompts, read token by token."""
