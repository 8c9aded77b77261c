"""Audio in, text out: the model and its parts."""
