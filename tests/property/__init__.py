"""What is true of any input: against a model, dnspython, or a plain reading of the same."""
