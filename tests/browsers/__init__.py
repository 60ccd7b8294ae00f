"""Tests that look with real browsers; `make browsers` installs them, and runs these."""
