"""Base of all packages: errors, checks, seeds, versions, progress bars, results and checked values."""
