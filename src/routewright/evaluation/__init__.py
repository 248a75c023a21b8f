"""What a strategy or a router would have done on recorded outcomes, and whether it paid."""
