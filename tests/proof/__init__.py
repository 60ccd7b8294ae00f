"""Know what takes long to be shown, or wants a machine to itself: `make proof`."""
