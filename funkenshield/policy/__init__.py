"""What the operator allows: the guard with its rates and blocks, cookies, and rules as programs."""
