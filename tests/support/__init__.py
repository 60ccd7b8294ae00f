"""What the tests stand on: nameservers scripted and real, a relay that records, the daemon as a process."""
