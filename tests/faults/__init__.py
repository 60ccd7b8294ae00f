"""What breaks, lags and lies, on purpose: how many queries of clients are lost or fail is counted."""
