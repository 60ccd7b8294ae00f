"""Records as people write them in rules: `A 192.0.2.1`, `300 A 192.0.2.1`, `www.example.com. 300 A 192.0.2.1`."""

from functools import lru_cache

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

TTL = 60  # seconds, where none is given


def parse_record(text: str, owner: dns.name.Name = dns.name.root) -> dns.rrset.RRset:
    """Return the record that a text stands for, of this owner if it names none; ValueError where it is none."""
    own, ttl, rdata = _parse(text)
    return dns.rrset.from_rdata(own or owner, ttl, rdata)


@lru_cache(1024)  # rules say the same again and again
def _parse(text: str) -> tuple[dns.name.Name | None, int, dns.rdata.Rdata]:
    owner, ttl = None, TTL
    word, rest = _split(text)
    try:
        if not word.isdecimal() and not _is_type(word):
            owner = dns.name.from_text(word)
            word, rest = _split(rest)
        if word.isdecimal():
            ttl = int(word)
            word, rest = _split(rest)
        if not _is_type(word) or not rest or ttl > 0x7FFFFFFF or "\n" in rest.strip():
            raise ValueError("write TYPE DATA, with a TTL before it if you like")
        return owner, ttl, dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(word), rest)
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"{text!r} is not a record: {error}") from None


def _split(text: str) -> tuple[str, str]:
    """Return the first word of a text, and what follows."""
    word, *rest = text.split(None, 1) or [""]
    return word, rest[0] if rest else ""


def _is_type(word: str) -> bool:
    try:
        return not dns.rdatatype.is_metatype(dns.rdatatype.from_text(word))
    except (dns.exception.DNSException, ValueError):
        return False
