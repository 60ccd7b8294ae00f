"""The real daemon in front of scripted and real nameservers."""
