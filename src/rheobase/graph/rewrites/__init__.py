"""Rewrites of graphs: fold batch normalisation, replace max-pooling, move factors into weights, align spike trains."""
