"""A trained router: what it predicts, its operating points, and the folder it is saved in."""
