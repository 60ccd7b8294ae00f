"""How clients come in: sockets, the workers on them, TCP."""
