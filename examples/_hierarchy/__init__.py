"""Parts of wordnet_poincare.py: hierarchies, embeddings to compare, training, ranking, pictures."""
