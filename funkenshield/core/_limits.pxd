"""Limits that compiled code and Python share, each said once."""

cpdef enum:
    UPSTREAMS_MAX = 256
    GROUPS_MAX = 4096              # of upstreams
    MEMBERS_MAX = 64               # upstreams in a group
    SOCKETS_MAX = 8192             # to upstreams, with those that are given up and still wait for answers
    LISTENERS_MAX = 64
    CONNECTION_WORKERS_MAX = 126
    PROXIES_MAX = 64               # prefixes of front proxies
    IGNORED_MAX = 16               # EDNS options that an operator may have ignored
    COOKIE_SECRETS = 4
    SINKS_MAX = 16                 # of events
    EDNS_UDP_SIZE = 1232           # octets: the UDP payload size of a response, unless configured
