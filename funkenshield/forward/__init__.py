"""A miss on its way: from the queue, to an upstream and back, to everybody who waits for it."""
