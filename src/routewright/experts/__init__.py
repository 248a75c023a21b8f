"""The models that can be asked: limits, the network client, the ledger, servers of our own."""
