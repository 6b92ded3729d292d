"""What tables, cards and figures call a cell: ``rows`` its row, ``cells`` what all have, the others one kind of set."""
