"""All that a training run needs, whatever it trains on."""
