"""Which samples are left out of the training data: by quality and personal data (filters), by a classifier, as
duplicates, as contamination by evaluation data."""
