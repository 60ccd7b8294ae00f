"""What would become of a question: the functions that decide about queries, on copies of all that they would change."""
