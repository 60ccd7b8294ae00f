"""DNS cookies of the server (RFC 7873, 9018): whether one is ours, and the option that goes back.

A server cookie is version, three octets of nothing, the time it was made, and a hash of all that, the
client cookie and the client's address. So any machine with the secret can tell it, and none keeps it.
Times are seconds since 1970, compared as serial numbers (RFC 1982).
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ..core._prefix_table cimport octets_of
from ..core._siphash cimport Secret, le64toh, siphash24
from ._message cimport COOKIE, OPTION_DATA, OPTION_LENGTH, get32, set16, set32

cdef enum:
    VERSION = 0x01000000           # 1, and three reserved octets
    MADE = CLIENT_COOKIE + 4       # where the time stands
    HASH = CLIENT_COOKIE + 8       # where the hash stands, and what it covers beside the address
    ADDRESS_MAX = 16
    RENEW = 1800                   # seconds after which a client gets a new one
    LIFE = 3600                    # seconds
    AHEAD = 300                    # seconds that another machine's clock may be ahead


cdef uint64_t _hash(const Secret* secret, const uint8_t* cookie, const uint8_t* address,
                    size_t address_length) noexcept nogil:
    """Return the hash in the order of octets in which it is sent (RFC 9018 4.4)."""
    cdef uint8_t[HASH + ADDRESS_MAX] data
    memcpy(data, cookie, HASH)
    memcpy(data + HASH, address, address_length)
    return le64toh(siphash24(secret, data, HASH + address_length))


cdef CookieStatus check_cookie(const Cookies* cookies, const uint8_t* cookie, size_t size, const uint8_t* address,
                               size_t address_length, uint32_t now) noexcept nogil:
    """Tell whose server cookie stands behind the client's (RFC 9018 4.3).

    `cookie` is the option without code and length. Caller must ensure that `size`, its octets, is one
    that RFC 7873 allows, and that the address has 4 or 16 octets. The hash covers version and reserved
    octets, so they are ours if it is. Hashes are compared as one word, and under every secret: how long
    that takes tells nothing about them.
    """
    cdef:
        uint64_t hashed
        uint8_t k, ours = 0
        int32_t age
    if size == CLIENT_COOKIE:
        return CLIENT_ALONE
    if size != CLIENT_COOKIE + SERVER_COOKIE:
        return NOT_OURS
    memcpy(&hashed, cookie + HASH, 8)
    for k in range(cookies.count):
        ours |= (_hash(&cookies.secrets[k], cookie, address, address_length) == hashed) << k
    age = <int32_t> (now - get32(cookie + MADE))
    if not ours or not -AHEAD <= age <= LIFE:
        return NOT_OURS
    return OURS if ours & 1 and age < RENEW else OURS_TO_RENEW


cdef size_t put_cookie(uint8_t* out, const Cookies* cookies, const uint8_t* cookie, CookieStatus status,
                       const uint8_t* address, size_t address_length, uint32_t now) noexcept nogil:
    """Write the option for a client whose cookie was judged so: its own if that is OURS, else a new one.

    Caller must ensure that there is a secret, and room for COOKIE_OPTION octets; that many are written.
    """
    cdef:
        uint8_t* data = out + OPTION_DATA
        uint64_t hashed
    set16(out, COOKIE)
    set16(out + OPTION_LENGTH, CLIENT_COOKIE + SERVER_COOKIE)
    if status == OURS:
        memcpy(data, cookie, CLIENT_COOKIE + SERVER_COOKIE)
        return COOKIE_OPTION
    memcpy(data, cookie, CLIENT_COOKIE)
    set32(data + CLIENT_COOKIE, VERSION)
    set32(data + MADE, now)
    hashed = _hash(&cookies.secrets[0], data, address, address_length)
    memcpy(data + HASH, &hashed, 8)
    return COOKIE_OPTION


# ---------------------------------------------------------------- for Python

_STATUSES = {CLIENT_ALONE: "client alone", OURS: "ours", OURS_TO_RENEW: "ours to renew", NOT_OURS: "not ours"}


cdef Secret _secret(bytes secret) except *:
    """Return the secret that 16 octets are; raises ValueError where they are more or fewer."""
    cdef Secret read
    if len(secret) != sizeof(Secret):
        raise ValueError(f"a secret has {sizeof(Secret)} octets, not {len(secret)}")
    memcpy(&read, <char*> secret, sizeof(Secret))
    read.k0 = le64toh(read.k0)
    read.k1 = le64toh(read.k1)
    return read


cdef bint set_secrets(Cookies* cookies, tuple secrets) except False:
    """Take the secrets over; raises ValueError where they are too many or none, or one is not 16 octets."""
    if not 1 <= len(secrets) <= COOKIE_SECRETS:
        raise ValueError(f"there are 1 to {COOKIE_SECRETS} secrets, not {len(secrets)}")
    for k, secret in enumerate(secrets):
        cookies.secrets[k] = _secret(secret)
    cookies.count = <uint8_t> len(secrets)
    return True


def hash24(bytes secret not None, bytes data not None) -> bytes:
    """Return SipHash-2-4 in the order of octets of its paper; raises ValueError for a secret that is none."""
    cdef:
        Secret key = _secret(secret)
        uint64_t hashed = le64toh(siphash24(&key, data, len(data)))
    return (<char*> &hashed)[:8]


def answer_cookie(tuple secrets not None, bytes cookie not None, bytes address not None,
                  uint32_t now) -> tuple[str, bytes]:
    """Return how a client's cookie stands, and the option that goes back to it.

    `cookie` is an option without code and length, `address` 4 or 16 octets, `now` seconds since 1970.
    Raises ValueError where one of them cannot be that.
    """
    cdef:
        Cookies cookies
        CookieStatus status
        uint8_t[COOKIE_OPTION] out
    set_secrets(&cookies, secrets)
    if len(cookie) != CLIENT_COOKIE and not 16 <= len(cookie) <= 40:
        raise ValueError(f"a cookie has 8, or 16 to 40 octets, not {len(cookie)}")
    status = check_cookie(&cookies, cookie, len(cookie), address, octets_of(address), now)
    return _STATUSES[status], (<char*> out)[:put_cookie(out, &cookies, cookie, status, address, len(address), now)]
