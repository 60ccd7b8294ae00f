from typing import Final

UPSTREAMS_MAX: Final[int]
GROUPS_MAX: Final[int]
MEMBERS_MAX: Final[int]
SOCKETS_MAX: Final[int]
LISTENERS_MAX: Final[int]
CONNECTION_WORKERS_MAX: Final[int]
PROXIES_MAX: Final[int]
IGNORED_MAX: Final[int]
COOKIE_SECRETS: Final[int]
SINKS_MAX: Final[int]
EDNS_UDP_SIZE: Final[int]
