"""Training: the task Protocol, the data plan, the loop and its state."""
