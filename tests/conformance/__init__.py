"""The contract on the wire, clause by clause: scenarios that a person can read, and what plays them."""
