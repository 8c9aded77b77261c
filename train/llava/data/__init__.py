"""Data of the vision language model: annotations, films, datasets and batches."""
