"""Know that nobody who means harm costs a client who means well his answer, and what becomes of a machine in need."""
