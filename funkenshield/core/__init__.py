"""What any fast network program needs, and no DNS: clocks, memory order, sockets, rings, tables, files."""
