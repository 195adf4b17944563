"""Networks on whole numbers, for chips and other engines."""
