"""What tables, cards and figures call a cell: ``cells`` any, the others what is particular to one kind of set."""
