"""The models that can be asked: limits, the network client, the ledger, launched servers."""
