"""The gateway: an HTTP server that speaks the OpenAI API, so that any OpenAI client can use it."""
