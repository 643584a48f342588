"""Which samples are left out of the training data: by quality (filters), as duplicates, as contamination by evaluation data."""
