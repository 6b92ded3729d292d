"""What sets of text are worth to other encoders: the matrix, its tables, its heat map."""
