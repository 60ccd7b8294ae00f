"""What operators look at and steer with: the control socket and the metrics."""
