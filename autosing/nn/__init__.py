"""Blocks that models are made of: attention, layers, embeddings, muP rules, sampling. They know nothing of songs or tasks."""
