"""Limits that compiled code and Python share, each said once."""
