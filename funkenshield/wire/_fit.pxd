"""What is left of an answer for a client who cannot take all of it (RFC 2181 9)."""

from libc.stdint cimport uint8_t, uint16_t

from ._message cimport ADDITIONAL, Query

cdef struct Sections:              # answer, authority and additional, as they stand behind the question of a message
    const uint8_t* octets          # not owned
    size_t length
    uint16_t[ADDITIONAL + 1] counts  # records in each
    uint16_t ttls                  # of how many records the TTL's offset is known
    bint bare                      # neither an OPT nor a signature of the whole is among them


cdef bint fit(uint8_t* out, uint16_t* ttls, Sections* kept, const Sections* whole, const Query* query,
              size_t room) noexcept nogil
cdef size_t copy_opt(uint8_t* out, const Sections* whole, const Query* query, size_t room) noexcept nogil
cdef size_t fit_message(uint8_t* out, const uint8_t* wire, size_t length, const Query* query,
                        size_t limit) noexcept nogil
