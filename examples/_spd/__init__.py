"""Parts of spd_networks.py: which norms, which data, how to train, how to report."""
