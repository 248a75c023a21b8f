"""What answers tell: whether two say the same, who agrees, and how likely each is right."""
