"""The OpenAI-compatible gateway: any OpenAI client can use it, and need not know that it is one."""
