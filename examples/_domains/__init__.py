"""Parts of domain_norms.py: the norms, which sessions train and test, training, and the table of differences."""
