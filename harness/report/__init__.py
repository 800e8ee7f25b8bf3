"""What is told of finished runs, and in which form."""
