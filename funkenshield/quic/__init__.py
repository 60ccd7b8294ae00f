"""The process that clients over QUIC come to (RFC 9000, 9114, 9250), and that relays their queries to a worker."""
