"""What operators write: configuration, lists of names, records. It is right, or one clear line says what is wrong."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from funkenshield import config
from funkenshield.errors import ConfigError
from funkenshield.rules import engine
from funkenshield.rules.compiler import read_names
from funkenshield.wire.record_text import parse_record

FOLDER = TemporaryDirectory(prefix="funkenshield-fuzz-")
FILE = Path(FOLDER.name) / "file"
LINES = [
    'listen = ["127.0.0.1:53", "[::1]:53"]',
    'proxy_protocol_from = ["192.0.2.0/24"]',
    "workers = 2",
    "drain_timeout = 0.5",
    "minimal_any = true",
]
TABLES = [
    '[[upstreams]]\naddress = ["127.0.0.1:5300"]\ngroups = ["default", "inner"]\nweight = 2',
    '[[upstreams]]\naddress = "192.0.2.1:853"\ntransport = "tls"\ntls.server_name = "ns.test"',
    '[cache]\nmemory = "64M"',
    "[ttl]\nmin = 5\nmax = 600",
    '[stale]\nmode = "immediate"',
    '[cookies]\nmode = "serve"',
    '[[zones]]\nname = "example.com"\nupstreams = ["127.0.0.1:5300"]\nttl.max = 60',
    '[guard]\naccess.allow = ["192.0.2.0/24"]\nrate_limits = [{ queries_per_second = 50, action = "truncate" }]',
    '[[rules]]\nmatch.suffix = ["example.com", "b\u00fccher.test"]\naction = "refused"',
    '[[rules]]\nmatch = { any = [{ qtype = "ANY" }, { not = { regex = "^w" } }], time = "8:00-9:00" }\naction = "drop"',
    '[[rules]]\nmatch.rate = { limit = 5, per = "zone" }\naction = { ttl = { max = 5 } }',
    '[[rules]]\nchain = "responses"\nmatch.rcode = "NXDOMAIN"\naction = "nodata"',
    '[[rules]]\nmatch.name = "www.example.com"\naction = { answer = ["A 192.0.2.1", "300 TXT a"] }',
]
NAMES = ["# names", "*.a.test", "0.0.0.0 b.test c.test # d", "::1\te.test", "\\098.test", "b\u00fccher.test"]
RECORDS = ["A 192.0.2.1", "300 AAAA ::1", "www.example.com. 60 MX 5 mail", 'TXT "a" "b"', "SVCB 1 . alpn=h2"]


def made(dice):
    """Return a file: a configuration as a rule, else names or records."""
    kind = dice.random()
    if kind < 0.8:
        lines = dice.sample(LINES, dice.randrange(3)) + dice.sample(TABLES, dice.randrange(1, 4))
    else:
        lines = dice.sample(NAMES if kind < 0.9 else RECORDS, 3)
    return "\n".join(lines).encode()


def one(data):
    """Read a file as each of them."""
    FILE.write_bytes(data)
    with suppress(ConfigError):
        read_names(FILE)
    for line in data.decode(errors="replace").split("\n"):
        with suppress(ValueError):
            parse_record(line)
    with suppress(ConfigError):
        settings = config.load(FILE)
        engine.check(settings.model_copy(update={"rules_file": ""}))  # which nobody wants to be run
