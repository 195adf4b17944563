"""Graphs changed into others: batch normalisation folded, max-pooling replaced, factors moved, trains aligned."""
