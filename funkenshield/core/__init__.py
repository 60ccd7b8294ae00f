"""What a fast network program needs: clocks, memory order, sockets, rings, tables, files; of DNS, names and limits."""
