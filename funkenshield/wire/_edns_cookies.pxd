"""DNS cookies of the server (RFC 7873, 9018): whether one is ours, and the option that goes back.

It knows secrets and one COOKIE option. Where options stand in a message is `_message`'s; what a client
with a wrong cookie gets is decided elsewhere.
"""

from libc.stdint cimport uint8_t, uint32_t

from ..core._limits cimport COOKIE_SECRETS
from ..core._siphash cimport Secret

cdef enum:
    CLIENT_COOKIE = 8              # octets
    SERVER_COOKIE = 16             # octets of one that we made
    COOKIE_OPTION = 4 + CLIENT_COOKIE + SERVER_COOKIE

cdef struct Cookies:                # how the shield deals with cookies; replaced as a whole
    uint8_t serve                   # it is the server; else cookies are passed on
    uint8_t require                 # over UDP, a query whose cookie is not one of ours gets BADCOOKIE
    uint8_t count                   # of the secrets
    Secret secrets[COOKIE_SECRETS]  # the first makes cookies, all verify

cdef enum CookieStatus:
    CLIENT_ALONE                   # no server cookie yet
    OURS                           # made by us, lately, under the secret that makes cookies now
    OURS_TO_RENEW                  # made by us, but half an hour ago or under another secret
    NOT_OURS                       # made by somebody else, or too long ago

cdef bint set_secrets(Cookies* cookies, tuple secrets) except False
cdef CookieStatus check_cookie(const Cookies* cookies, const uint8_t* cookie, size_t size, const uint8_t* address,
                               size_t address_length, uint32_t now) noexcept nogil
cdef size_t put_cookie(uint8_t* out, const Cookies* cookies, const uint8_t* cookie, CookieStatus status,
                       const uint8_t* address, size_t address_length, uint32_t now) noexcept nogil
