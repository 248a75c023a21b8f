"""Routewright where people already are: LangChain, LiteLLM and scikit-learn."""
