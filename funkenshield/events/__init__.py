"""What becomes of queries, told to whoever wants to know: one record for each, and those who read them."""
