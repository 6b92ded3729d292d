"""How a set holds in other uses than its own: the matrix, its tables, its figure."""
