"""DNS over TLS for clients (RFC 7858, 8310): what a listener's sessions are made of, and what is done with each.

    TlsContexts -> TlsListener.use: published, the ones before retired
    a connection: begin -> handshake, in steps -> read, write -> end

It knows OpenSSL; connections, and when a handshake has its turn, are `_tcp_worker`'s. Sessions are resumed by tickets
alone (RFC 5077, RFC 8446 2.2), which any worker, and any node with the same secret, can open: there is no table of
sessions. Early data is never accepted: it could be replayed.
"""

cimport cython
from collections.abc import Sequence

from libc.errno cimport EAGAIN, ECONNRESET, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, strlen
from posix.strings cimport strcasecmp

from ..cache._store cimport Cache
from ..core._atomic cimport bump, load_pointer, store_pointer
from ..core._memory cimport zeros
from ._encryption cimport (
    AWAITS_INPUT, AWAITS_OUTPUT, HANDSHAKE_DONE, HANDSHAKE_FAILED, SOCKET_MAX, Encryption,
    HandshakeCounters, ListenerEncryption, Progress
)
from ._openssl cimport *

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void* octets, size_t length, int flags)
    ssize_t send(int fd, const void* octets, size_t length, int flags)
    int MSG_NOSIGNAL

cdef extern from *:
    "#define FS_SET_ERRNO(value) (errno = (value))"
    void set_errno "FS_SET_ERRNO"(int value) noexcept nogil

cdef enum:
    HANDSHAKE_RECORD = 22          # the first octet of one
    HELLO_LENGTH = 6               # where a ClientHello's length is, behind the head of a record and its own type
    TICKET_NAME = 16               # octets of a ticket's key: its name, that of the cipher, and that of the MAC
    TICKET_CIPHER = 16
    TICKET_MAC = 32
    TICKET_KEY = 64
    SECRET = 32                    # octets that keys of tickets are made from
    ALERTS = 256                   # kinds, at most

OPENSSL_VERSION = OpenSSL_version(VERSION_TEXT).decode()

cdef const uint8_t* SESSIONS_OF = b"funkenshield"  # one context for all certificates: tickets are good for each
cdef const uint8_t* DOT = b"\x03dot"
cdef const uint8_t* H2 = b"\x02h2"


cdef struct ServerName:            # a name that a certificate is for
    char* name                     # lower case; `*.` before it stands for one label
    SSL_CTX* context


cdef struct Contexts:              # what new sessions are made of
    SSL_CTX** contexts             # one for each certificate; the first is for clients who say no name, or an unknown
    uint32_t count
    ServerName* names
    uint32_t name_count
    uint8_t[SECRET] secret
    uint64_t lifetime              # of a key of tickets, seconds
    const uint8_t* protocol        # what is spoken (RFC 7301), its length before it


cdef struct Staple:                # an OCSP response (RFC 6066 8)
    size_t length
    uint8_t[1] octets              # and the others


cdef int staple_index, session_index


cdef void _free_staple(void* context, void* staple, CRYPTO_EX_DATA* data, int index, long number,
                       void* argument) noexcept nogil:
    free(staple)


staple_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, _free_staple)
session_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL)


# ---------------------------------------------------------------- a session

cdef struct Session:
    SSL* ssl
    const Encryption* encryption   # its listener's
    uint64_t wall                  # seconds since 1970
    int fd
    uint32_t left                  # octets that are still read of the socket in this turn
    uint32_t seen                  # of those that were ever read, the first ones
    bint ended                     # the client sends nothing more
    bint too_long                  # he says that his hello is


cdef void* _begin(const Encryption* encryption, int fd) noexcept nogil:
    """Return a session that a handshake can begin; NULL: there can be none. The caller is inside an epoch."""
    cdef:
        const Contexts* contexts = <const Contexts*> load_pointer(&encryption.contexts)
        Session* session = <Session*> calloc(1, sizeof(Session))
        BIO* bio
    if session == NULL or contexts == NULL:
        free(session)
        return NULL
    session.encryption, session.fd = encryption, fd
    session.ssl, bio = SSL_new(contexts.contexts[0]), BIO_new(socket_method)
    if session.ssl != NULL and bio != NULL and SSL_set_ex_data(session.ssl, session_index, session):
        BIO_set_data(bio, session)
        BIO_set_init(bio, 1)
        SSL_set_bio(session.ssl, bio, bio)
        SSL_set_accept_state(session.ssl)
        return session
    SSL_free(session.ssl)
    BIO_free(bio)
    free(session)
    return NULL


cdef Progress _handshake(void* ours, uint64_t wall, HandshakeCounters* counts) noexcept nogil:
    """Go on with a handshake, as far as what came allows; `wall` is seconds since 1970. Inside an epoch."""
    cdef:
        Session* session = <Session*> ours
        SSL* ssl = session.ssl
        int result, error
    session.wall, session.left = wall, SOCKET_MAX
    ERR_clear_error()
    result = SSL_do_handshake(ssl)
    if result == 1:
        ERR_clear_error()
        bump(&counts.resumed if SSL_session_reused(ssl) else &counts.full, 1)
        bump(&counts.version_1_3 if SSL_version(ssl) == TLS1_3_VERSION else &counts.version_1_2, 1)
        return HANDSHAKE_DONE
    error = SSL_get_error(ssl, result)
    if error == SSL_ERROR_WANT_READ:
        return AWAITS_INPUT
    if error == SSL_ERROR_WANT_WRITE:
        return AWAITS_OUTPUT
    bump(&counts.other if session.too_long else _reason(counts, error), 1)
    return HANDSHAKE_FAILED


cdef uint64_t* _reason(HandshakeCounters* counts, int error) noexcept nogil:
    """Return which counter the reason has that a handshake failed for."""
    cdef int reason
    if error != SSL_ERROR_SSL:  # the connection was reset, or ended
        return &counts.closed
    reason = ERR_GET_REASON(ERR_peek_last_error())
    if reason == SSL_R_UNEXPECTED_EOF_WHILE_READING:
        return &counts.closed
    if reason == SSL_R_NO_APPLICATION_PROTOCOL or reason == SSL_R_CALLBACK_FAILED:
        return &counts.protocol
    if SSL_AD_REASON_OFFSET < reason < SSL_AD_REASON_OFFSET + ALERTS:
        return &counts.alert
    if reason == SSL_R_UNSUPPORTED_PROTOCOL or reason == SSL_R_VERSION_TOO_LOW:
        return &counts.version
    if (reason == SSL_R_NO_SHARED_CIPHER or reason == SSL_R_NO_SHARED_GROUPS or reason == SSL_R_NO_SUITABLE_KEY_SHARE
            or reason == SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS or reason == SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM):
        return &counts.cipher
    if (reason == SSL_R_HTTP_REQUEST or reason == SSL_R_HTTPS_PROXY_REQUEST or reason == SSL_R_WRONG_VERSION_NUMBER
            or reason == SSL_R_PACKET_LENGTH_TOO_LONG or reason == SSL_R_BAD_RECORD_TYPE):
        return &counts.not_tls
    return &counts.other


cdef ssize_t _read(void* ours, uint8_t* octets, size_t room, bint* ended) noexcept nogil:
    """Read all records that are whole with what is read of the socket in one turn."""
    cdef:
        Session* session = <Session*> ours
        size_t total = 0
        ssize_t failure = 0
        int got
    session.left, ended[0] = SOCKET_MAX, False
    while total < room:
        got = SSL_read(session.ssl, octets + total, <int> (room - total))
        if got <= 0:
            failure = _failure(session, got, SSL_READING)
            ended[0] = failure == 0 or errno != EAGAIN
            break
        total += <size_t> got
        if not SSL_has_pending(session.ssl):
            break
    return <ssize_t> total if total else failure


cdef ssize_t _write(void* ours, const uint8_t* octets, size_t length) noexcept nogil:
    """Write octets, in records that are as long as can be. What is refused must be offered again."""
    cdef:
        Session* session = <Session*> ours
        size_t total = 0
        int put
    while total < length:
        put = SSL_write(session.ssl, octets + total, <int> (length - total))
        if put <= 0:
            return <ssize_t> total if total else _failure(session, put, SSL_WRITING)
        total += <size_t> put
    return <ssize_t> total


cdef ssize_t _failure(Session* session, int result, int awaited) noexcept nogil:
    """Return what read(2) and write(2) would, and set `errno`.

    Who reads awaits input, and who writes awaits room. A client who makes either wait for the other asks for new keys
    and does not take them: the worker would wait for what comes all the time. Whether a session waits is its own;
    errors are in a queue that all sessions share, and none may find what another has left there.
    """
    cdef int error
    if SSL_want(session.ssl) == awaited and BIO_should_retry(SSL_get_rbio(session.ssl)):
        set_errno(EAGAIN)
        return -1
    error = SSL_get_error(session.ssl, result)
    ERR_clear_error()
    if error == SSL_ERROR_ZERO_RETURN and awaited == SSL_READING:
        return 0
    SSL_set_quiet_shutdown(session.ssl, 1)  # all has been said
    set_errno(ECONNRESET)
    return -1


cdef const char* _server_name(void* ours) noexcept nogil:
    """Return the name that the client asked for (RFC 6066 3), as long as the session is; NULL: it asked for none."""
    return SSL_get_servername((<Session*> ours).ssl, TLSEXT_NAMETYPE_host_name)


cdef void _end(void* ours) noexcept nogil:
    """Say that nothing more comes (RFC 8446 6.1), where that can still be said, and free a session."""
    cdef Session* session = <Session*> ours
    if SSL_is_init_finished(session.ssl):
        SSL_shutdown(session.ssl)
    SSL_free(session.ssl)
    free(session)
    ERR_clear_error()


# ---------------------------------------------------------------- its socket

cdef int _receive(BIO* bio, char* octets, int room) noexcept nogil:
    """Read of the socket what is left of a turn: whatever a client sends, others have theirs."""
    cdef:
        Session* session = <Session*> BIO_get_data(bio)
        uint32_t wanted = min(<uint32_t> room, session.left)
        ssize_t got
    BIO_clear_retry_flags(bio)
    got = recv(session.fd, octets, wanted, 0) if wanted else -1
    if got < 0:
        if not wanted or errno == EAGAIN or errno == EINTR:
            BIO_set_retry_read(bio)
        return -1
    session.left = session.left - <uint32_t> got if <uint32_t> got == wanted else 0  # there is no more
    session.ended = got == 0
    if session.seen <= HELLO_LENGTH:
        _look_at_hello(session, <const uint8_t*> octets, <uint32_t> got)
    return -1 if session.too_long else <int> got


cdef void _look_at_hello(Session* session, const uint8_t* octets, uint32_t length) noexcept nogil:
    """See whether a ClientHello has 64 KiB or more, by its first octets: OpenSSL has memory for all that it says."""
    if session.seen == 0 and length and octets[0] != HANDSHAKE_RECORD:
        session.seen = HELLO_LENGTH + 1  # it is something else
        return
    if session.seen + length > HELLO_LENGTH:
        session.too_long = octets[HELLO_LENGTH - session.seen] != 0
    session.seen += length


cdef int _transmit(BIO* bio, const char* octets, int length) noexcept nogil:
    cdef:
        Session* session = <Session*> BIO_get_data(bio)
        ssize_t sent = send(session.fd, octets, <size_t> length, MSG_NOSIGNAL)
    BIO_clear_retry_flags(bio)
    if sent < 0 and (errno == EAGAIN or errno == EINTR):
        BIO_set_retry_write(bio)
    return <int> sent


cdef long _control(BIO* bio, int what, long _number, void* _argument) noexcept nogil:
    if what == BIO_CTRL_EOF:
        return (<Session*> BIO_get_data(bio)).ended
    return what == BIO_CTRL_FLUSH


cdef BIO_METHOD* socket_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, b"socket by turns")
BIO_meth_set_read(socket_method, _receive)
BIO_meth_set_write(socket_method, _transmit)
BIO_meth_set_ctrl(socket_method, _control)


# ---------------------------------------------------------------- what a handshake asks for

cdef const Contexts* _contexts_of(const SSL* ssl) noexcept nogil:
    """Return what is in force at a session's listener."""
    return <const Contexts*> load_pointer(&(<const Session*> SSL_get_ex_data(ssl, session_index)).encryption.contexts)


cdef int _choose_certificate(SSL* ssl, int* _alert, void* _argument) noexcept nogil:
    """Have a session go on with the certificate for the name that the client asked for (RFC 6066 3)."""
    cdef:
        const Contexts* contexts = _contexts_of(ssl)
        const char* asked = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name)
        const char* name
        SSL_CTX* found = NULL
        uint32_t k
    if asked == NULL:
        return SSL_TLSEXT_ERR_NOACK
    for k in range(contexts.name_count):
        name = contexts.names[k].name
        if strcasecmp(name, asked) == 0:  # before any that has a name with `*`
            found = contexts.names[k].context
            break
        if found == NULL and name[0] == c"*" and _is_below(asked, name + 1):
            found = contexts.names[k].context
    if found == NULL:
        return SSL_TLSEXT_ERR_NOACK
    SSL_set_SSL_CTX(ssl, found)
    return SSL_TLSEXT_ERR_OK


cdef bint _is_below(const char* asked, const char* suffix) noexcept nogil:
    """Tell whether a name is one label, and then a suffix that begins with a dot (RFC 6125 6.4.3)."""
    cdef size_t label = 0
    while asked[label] and asked[label] != c".":
        label += 1
    return label and strcasecmp(asked + label, suffix) == 0


cdef int _refuse_without_protocol(SSL* ssl, int* alert, void* _argument) noexcept nogil:
    """End the handshake with a client who does not say that he speaks HTTP/2 (RFC 9113 3.2), before it costs more."""
    cdef:
        const uint8_t* octets
        size_t length
    if SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &octets, &length):
        return SSL_CLIENT_HELLO_SUCCESS
    alert[0] = SSL_AD_NO_APPLICATION_PROTOCOL
    return SSL_CLIENT_HELLO_ERROR


cdef int _choose_protocol(SSL* ssl, const uint8_t** chosen, uint8_t* length, const uint8_t* offered,
                          unsigned int octets, void* _argument) noexcept nogil:
    """Choose what is spoken, or end the handshake with a client who came for something else (RFC 7301 3.2)."""
    cdef:
        const uint8_t* ours = _contexts_of(ssl).protocol
        unsigned int at = 0
    while at < octets:
        if octets - at > ours[0] and memcmp(offered + at, ours, 1 + ours[0]) == 0:
            chosen[0], length[0] = offered + at + 1, ours[0]
            return SSL_TLSEXT_ERR_OK
        at += 1 + <unsigned int> offered[at]
    return SSL_TLSEXT_ERR_ALERT_FATAL


cdef int _staple(SSL* ssl, void* _argument) noexcept nogil:
    """Give a client who asks for it the certificate's OCSP response."""
    cdef:
        const Staple* staple = <const Staple*> SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), staple_index)
        void* copied
    if staple == NULL:
        return SSL_TLSEXT_ERR_NOACK
    copied = OPENSSL_memdup(staple.octets, staple.length)
    if copied == NULL:
        return SSL_TLSEXT_ERR_NOACK
    SSL_set_tlsext_status_ocsp_resp(ssl, <uint8_t*> copied, <long> staple.length)
    return SSL_TLSEXT_ERR_OK


cdef bint _make_ticket_key(uint8_t* key, const Contexts* contexts, uint64_t period) noexcept nogil:
    """Make the key of a period from the secret: all who have that make the same, and need not tell each other."""
    cdef:
        uint8_t[8] octets
        unsigned int length = 0
        int k
    for k in range(8):
        octets[k] = <uint8_t> (period >> 56 - 8 * k)
    return HMAC(EVP_sha512(), contexts.secret, SECRET, octets, 8, key, &length) != NULL and length == TICKET_KEY


cdef int _seal_ticket(SSL* ssl, uint8_t* name, uint8_t* iv, EVP_CIPHER_CTX* cipher, EVP_MAC_CTX* mac,
                      int makes) noexcept nogil:
    """Prepare what a ticket is sealed or opened with: 1: so it is, 2: it is to be replaced, 0: its key is unknown."""
    cdef:
        const Contexts* contexts = _contexts_of(ssl)
        uint64_t period = (<const Session*> SSL_get_ex_data(ssl, session_index)).wall // contexts.lifetime
        uint8_t[TICKET_KEY] key
        int found = 0
        uint64_t k
    if makes:
        if (_make_ticket_key(key, contexts, period) and RAND_bytes(iv, TICKET_CIPHER) == 1
                and EVP_EncryptInit_ex(cipher, EVP_aes_128_cbc(), NULL, key + TICKET_NAME, iv)):
            memcpy(name, key, TICKET_NAME)
            found = 1
    else:
        for k in range(3):  # this period's, the one's before, or the next one's, of a node whose clock is ahead
            if not _make_ticket_key(key, contexts, period + (1 if k == 2 else -k)):
                break
            if CRYPTO_memcmp(name, key, TICKET_NAME) == 0:
                if EVP_DecryptInit_ex(cipher, EVP_aes_128_cbc(), NULL, key + TICKET_NAME, iv):
                    found = 2 if k == 1 or SSL_version(ssl) == TLS1_3_VERSION else 1  # RFC 8446 C.4: each is used once
                break
    if found and not _set_mac(mac, key + TICKET_NAME + TICKET_CIPHER):
        found = -1
    elif makes and not found:
        found = -1
    OPENSSL_cleanse(key, TICKET_KEY)
    return found


cdef bint _set_mac(EVP_MAC_CTX* mac, uint8_t* key) noexcept nogil:
    cdef OSSL_PARAM[3] parameters
    parameters[0] = OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key, TICKET_MAC)
    parameters[1] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, b"sha256", 0)
    parameters[2] = OSSL_PARAM_construct_end()
    return EVP_MAC_CTX_set_params(mac, parameters) == 1


# ---------------------------------------------------------------- for the control thread

cdef str _refusal():
    """Return why OpenSSL has just refused something."""
    cdef const char* reason = ERR_reason_error_string(ERR_get_error())
    ERR_clear_error()
    return reason.decode() if reason != NULL else "OpenSSL refuses it"


@cython.final
cdef class TlsContexts:
    """What sessions are made of: OpenSSL's contexts, one for each certificate. Nothing of it is changed later.

    Memory ownership: contexts, names and the struct are its own; sessions keep the context that they are made of.
    """

    cdef Contexts made

    def __cinit__(self, certificates: Sequence, *, str min_version not None, str ciphers not None,
                  str ciphersuites not None, bytes ticket_secret not None, double ticket_lifetime,
                  bint http=False) -> None:
        """Take certificates (`certificates.Certificate`), of which the first is for clients who name none of all.

        `min_version` is "1.2" or "1.3", `ciphers` and `ciphersuites` are OpenSSL's lists, "" its own choice. Keys of
        tickets follow from `ticket_secret`, of 32 octets, and change every `ticket_lifetime` seconds. What is spoken
        is HTTP/2, which a client has to ask for, or DNS. Raises ValueError with one line for what OpenSSL refuses.
        """
        cdef:
            uint32_t names = sum(len(each.names) for each in certificates)
            int version = TLS1_3_VERSION if min_version == "1.3" else TLS1_2_VERSION
        if len(ticket_secret) != SECRET or ticket_lifetime < 1 or not certificates:
            raise ValueError(f"sessions take a certificate, {SECRET} octets of secret, and a second at least")
        memcpy(self.made.secret, <const uint8_t*> ticket_secret, SECRET)
        self.made.lifetime, self.made.protocol = <uint64_t> ticket_lifetime, H2 if http else DOT
        self.made.contexts = <SSL_CTX**> zeros(len(certificates), sizeof(SSL_CTX*))
        self.made.names = <ServerName*> zeros(names + 1, sizeof(ServerName))
        for each in certificates:
            self._add(each, version, ciphers.encode(), ciphersuites.encode())

    def __dealloc__(self) -> None:
        for k in range(self.made.name_count):
            free(self.made.names[k].name)
        for k in range(self.made.count):
            SSL_CTX_free(self.made.contexts[k])
        free(self.made.names)
        free(self.made.contexts)
        OPENSSL_cleanse(self.made.secret, SECRET)

    cdef int _add(self, certificate, int version, bytes ciphers, bytes ciphersuites) except -1:
        """Add a certificate; ValueError with OpenSSL's reason where that refuses it."""
        cdef SSL_CTX* context = SSL_CTX_new(TLS_server_method())
        ERR_clear_error()
        if context == NULL:
            raise MemoryError("no memory for a TLS context")
        self.made.contexts[self.made.count] = context
        self.made.count += 1
        _set_protocol(context, version, <long> (2 * self.made.lifetime))
        if self.made.protocol == H2:
            SSL_CTX_set_client_hello_cb(context, _refuse_without_protocol, NULL)
        if ciphers and not SSL_CTX_set_cipher_list(context, ciphers):
            raise ValueError(f"ciphers: {_refusal()}")
        if ciphersuites and not SSL_CTX_set_ciphersuites(context, ciphersuites):
            raise ValueError(f"ciphersuites: {_refusal()}")
        _set_certificate(context, certificate)
        if certificate.ocsp_response:
            _set_staple(context, certificate.ocsp_response)
        for name in certificate.names:
            self._add_name(name.encode(), context)
        return 0

    cdef int _add_name(self, bytes name, SSL_CTX* context) except -1:
        cdef char* copied = <char*> zeros(len(name) + 1, 1)
        memcpy(copied, <const char*> name, len(name))
        self.made.names[self.made.name_count].name = copied
        self.made.names[self.made.name_count].context = context
        self.made.name_count += 1
        return 0


cdef void _set_protocol(SSL_CTX* context, int version, long lifetime) noexcept:
    """Set all that is the same for each certificate."""
    SSL_CTX_set_min_proto_version(context, version)
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_IGNORE_UNEXPECTED_EOF
                        | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA)
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
                     | SSL_MODE_RELEASE_BUFFERS)
    SSL_CTX_set_read_ahead(context, 1)  # one system call for all records that have come
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF)
    SSL_CTX_set_session_id_context(context, SESSIONS_OF, <unsigned int> strlen(<const char*> SESSIONS_OF))
    SSL_CTX_set_num_tickets(context, 1)
    SSL_CTX_set_timeout(context, lifetime)
    SSL_CTX_set_tlsext_ticket_key_evp_cb(context, _seal_ticket)
    SSL_CTX_set_tlsext_servername_callback(context, _choose_certificate)
    SSL_CTX_set_tlsext_status_cb(context, _staple)
    SSL_CTX_set_alpn_select_cb(context, _choose_protocol, NULL)


cdef int _set_certificate(SSL_CTX* context, certificate) except -1:
    cdef:
        const uint8_t* octets
        X509* one
        EVP_PKEY* key
        bytes der
        int taken
        Py_ssize_t k
    for k, der in enumerate(certificate.chain):
        octets = der
        one = d2i_X509(NULL, &octets, len(der))
        if one == NULL:
            raise ValueError(f"certificate: {_refusal()}")
        taken = SSL_CTX_add1_chain_cert(context, one) if k else SSL_CTX_use_certificate(context, one)
        X509_free(one)
        if not taken:
            raise ValueError(f"certificate: {_refusal()}")
    octets = certificate.key
    key = d2i_AutoPrivateKey(NULL, &octets, len(certificate.key))
    if key == NULL:
        raise ValueError(f"key: {_refusal()}")
    taken = SSL_CTX_use_PrivateKey(context, key) and SSL_CTX_check_private_key(context)
    EVP_PKEY_free(key)
    if not taken:
        raise ValueError(f"key: {_refusal()}")
    return 0


cdef int _set_staple(SSL_CTX* context, bytes response) except -1:
    cdef Staple* staple = <Staple*> malloc(sizeof(Staple) + len(response))
    if staple == NULL:
        raise MemoryError("no memory for an OCSP response")
    staple.length = len(response)
    memcpy(staple.octets, <const uint8_t*> response, len(response))
    if not SSL_CTX_set_ex_data(context, staple_index, staple):
        free(staple)
        raise MemoryError("no memory for an OCSP response")
    return 0


@cython.final
cdef class TlsListener(ListenerEncryption):
    """What connections to one listener are encrypted with: replaced as a whole, while connections go on."""

    def __cinit__(self, Cache cache not None) -> None:
        self.cache = cache
        self.encryption.begin, self.encryption.handshake = _begin, _handshake
        self.encryption.read, self.encryption.write, self.encryption.end = _read, _write, _end
        self.encryption.server_name = _server_name

    def use(self, TlsContexts contexts not None) -> None:
        """Have handshakes from now on go by these; connections that there are stay as they are."""
        cdef object before = self.in_force
        store_pointer(&self.encryption.contexts, &contexts.made)
        self.in_force = contexts
        if before is not None:
            self.cache.epochs.retire(before)
