"""One stream, from samples to predictions and alert events: pure and synchronous."""
