"""Training sets and the training of every network."""
