"""What is used of OpenSSL's C API (3.0 or later), as its manual pages have it."""

from libc.stdint cimport uint8_t, uint64_t

cdef extern from "<openssl/ssl.h>" nogil:
    """
    #include <openssl/bio.h>
    #include <openssl/core_names.h>
    #include <openssl/crypto.h>
    #include <openssl/err.h>
    #include <openssl/evp.h>
    #include <openssl/hmac.h>
    #include <openssl/rand.h>
    #include <openssl/x509.h>
    """
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct SSL:
        pass
    ctypedef struct SSL_METHOD:
        pass
    ctypedef struct X509:
        pass
    ctypedef struct EVP_PKEY:
        pass
    ctypedef struct EVP_MD:
        pass
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct EVP_MAC_CTX:
        pass
    ctypedef struct CRYPTO_EX_DATA:
        pass
    ctypedef struct BIO:
        pass
    ctypedef struct BIO_METHOD:
        pass
    ctypedef struct OSSL_PARAM:
        pass
    ctypedef int (*Ticket_Callback)(SSL*, uint8_t*, uint8_t*, EVP_CIPHER_CTX*, EVP_MAC_CTX*, int) noexcept nogil
    ctypedef int (*Alpn_Callback)(SSL*, const uint8_t**, uint8_t*, const uint8_t*, unsigned int, void*) noexcept nogil
    ctypedef int (*Hello_Callback)(SSL*, int*, void*) noexcept nogil
    ctypedef int (*Servername_Callback)(SSL*, int*, void*) noexcept nogil
    ctypedef int (*Status_Callback)(SSL*, void*) noexcept nogil
    ctypedef void (*Free_Callback)(void*, void*, CRYPTO_EX_DATA*, int, long, void*) noexcept nogil

    const char* OpenSSL_version(int kind)
    int VERSION_TEXT "OPENSSL_VERSION"

    # What sessions are made of.
    const SSL_METHOD* TLS_server_method()
    SSL_CTX* SSL_CTX_new(const SSL_METHOD* method)
    void SSL_CTX_free(SSL_CTX* context)
    int SSL_CTX_set_min_proto_version(SSL_CTX* context, int version)
    uint64_t SSL_CTX_set_options(SSL_CTX* context, uint64_t options)
    long SSL_CTX_set_mode(SSL_CTX* context, long mode)
    long SSL_CTX_set_session_cache_mode(SSL_CTX* context, long mode)
    long SSL_CTX_set_timeout(SSL_CTX* context, long seconds)
    int SSL_CTX_set_num_tickets(SSL_CTX* context, size_t count)
    void SSL_CTX_set_read_ahead(SSL_CTX* context, int yes)
    int SSL_CTX_set_session_id_context(SSL_CTX* context, const uint8_t* octets, unsigned int length)
    int SSL_CTX_set_cipher_list(SSL_CTX* context, const char* ciphers)
    int SSL_CTX_set_ciphersuites(SSL_CTX* context, const char* ciphers)
    int SSL_CTX_use_certificate(SSL_CTX* context, X509* certificate)
    int SSL_CTX_add1_chain_cert(SSL_CTX* context, X509* certificate)
    int SSL_CTX_use_PrivateKey(SSL_CTX* context, EVP_PKEY* key)
    int SSL_CTX_check_private_key(const SSL_CTX* context)
    void SSL_CTX_set_alpn_select_cb(SSL_CTX* context, Alpn_Callback callback, void* argument)
    void SSL_CTX_set_client_hello_cb(SSL_CTX* context, Hello_Callback callback, void* argument)
    int SSL_CTX_set_tlsext_servername_callback(SSL_CTX* context, Servername_Callback callback)
    int SSL_CTX_set_tlsext_status_cb(SSL_CTX* context, Status_Callback callback)
    int SSL_CTX_set_tlsext_ticket_key_evp_cb(SSL_CTX* context, Ticket_Callback callback)
    int SSL_CTX_get_ex_new_index(long number, void* argument, void* made, void* copied, Free_Callback freed)
    int SSL_CTX_set_ex_data(SSL_CTX* context, int index, void* data)
    void* SSL_CTX_get_ex_data(const SSL_CTX* context, int index)
    int TLS1_2_VERSION, TLS1_3_VERSION, SSL_SESS_CACHE_OFF
    uint64_t SSL_OP_NO_RENEGOTIATION, SSL_OP_CIPHER_SERVER_PREFERENCE, SSL_OP_PRIORITIZE_CHACHA
    uint64_t SSL_OP_NO_COMPRESSION, SSL_OP_IGNORE_UNEXPECTED_EOF
    long SSL_MODE_ENABLE_PARTIAL_WRITE, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, SSL_MODE_RELEASE_BUFFERS

    # Sessions.
    SSL* SSL_new(SSL_CTX* context)
    void SSL_free(SSL* session)
    void SSL_set_bio(SSL* session, BIO* read, BIO* written)
    void SSL_set_accept_state(SSL* session)
    int SSL_set_ex_data(SSL* session, int index, void* data)
    void* SSL_get_ex_data(const SSL* session, int index)
    int SSL_get_ex_new_index(long number, void* argument, void* made, void* copied, void* freed)
    SSL_CTX* SSL_get_SSL_CTX(const SSL* session)
    SSL_CTX* SSL_set_SSL_CTX(SSL* session, SSL_CTX* context)
    int SSL_client_hello_get0_ext(SSL* session, unsigned int kind, const uint8_t** octets, size_t* length)
    const char* SSL_get_servername(const SSL* session, int kind)
    long SSL_set_tlsext_status_ocsp_resp(SSL* session, uint8_t* response, long length)
    int SSL_do_handshake(SSL* session)
    int SSL_read(SSL* session, void* octets, int room)
    int SSL_write(SSL* session, const void* octets, int length)
    int SSL_shutdown(SSL* session)
    void SSL_set_quiet_shutdown(SSL* session, int quiet)
    int SSL_get_error(const SSL* session, int result)
    int SSL_want(const SSL* session)
    BIO* SSL_get_rbio(const SSL* session)
    int SSL_has_pending(const SSL* session)
    int SSL_session_reused(const SSL* session)
    int SSL_version(const SSL* session)
    int SSL_is_init_finished(const SSL* session)
    int SSL_READING, SSL_WRITING
    int SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_ZERO_RETURN, SSL_ERROR_SYSCALL, SSL_ERROR_SSL
    int SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_NOACK, SSL_TLSEXT_ERR_ALERT_FATAL, TLSEXT_NAMETYPE_host_name
    int SSL_R_NO_SHARED_CIPHER, SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_HTTP_REQUEST, SSL_R_HTTPS_PROXY_REQUEST
    int SSL_R_WRONG_VERSION_NUMBER, SSL_R_UNEXPECTED_EOF_WHILE_READING, SSL_R_VERSION_TOO_LOW, SSL_AD_REASON_OFFSET
    int SSL_R_NO_SHARED_GROUPS, SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS, SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM
    int SSL_R_NO_SUITABLE_KEY_SHARE, SSL_R_NO_PROTOCOLS_AVAILABLE, SSL_R_PACKET_LENGTH_TOO_LONG
    int SSL_R_UNEXPECTED_MESSAGE, SSL_R_BAD_RECORD_TYPE, SSL_R_NO_APPLICATION_PROTOCOL, SSL_R_CALLBACK_FAILED
    int SSL_CLIENT_HELLO_SUCCESS, SSL_CLIENT_HELLO_ERROR, SSL_AD_NO_APPLICATION_PROTOCOL
    int TLSEXT_TYPE_application_layer_protocol_negotiation

    # The way to a socket.
    BIO_METHOD* BIO_meth_new(int kind, const char* name)
    int BIO_get_new_index()
    int BIO_meth_set_read(BIO_METHOD* method, int (*read)(BIO*, char*, int) noexcept nogil)
    int BIO_meth_set_write(BIO_METHOD* method, int (*write)(BIO*, const char*, int) noexcept nogil)
    int BIO_meth_set_ctrl(BIO_METHOD* method, long (*control)(BIO*, int, long, void*) noexcept nogil)
    BIO* BIO_new(const BIO_METHOD* method)
    void BIO_free(BIO* bio)
    void BIO_set_data(BIO* bio, void* data)
    void* BIO_get_data(BIO* bio)
    void BIO_set_init(BIO* bio, int is_ready)
    void BIO_clear_retry_flags(BIO* bio)
    int BIO_should_retry(const BIO* bio)
    void BIO_set_retry_read(BIO* bio)
    void BIO_set_retry_write(BIO* bio)
    int BIO_TYPE_SOURCE_SINK, BIO_CTRL_FLUSH, BIO_CTRL_EOF

    # Certificates, keys, errors.
    X509* d2i_X509(X509** certificate, const uint8_t** octets, long length)
    void X509_free(X509* certificate)
    EVP_PKEY* d2i_AutoPrivateKey(EVP_PKEY** key, const uint8_t** octets, long length)
    void EVP_PKEY_free(EVP_PKEY* key)
    void ERR_clear_error()
    unsigned long ERR_get_error()
    unsigned long ERR_peek_last_error()
    int ERR_GET_REASON(unsigned long error)
    const char* ERR_reason_error_string(unsigned long error)
    void* OPENSSL_memdup(const void* octets, size_t length)

    # What tickets are sealed with.
    const EVP_MD* EVP_sha512()
    const EVP_CIPHER* EVP_aes_128_cbc()
    int EVP_EncryptInit_ex(EVP_CIPHER_CTX* context, const EVP_CIPHER* cipher, void* engine, const uint8_t* key,
                           const uint8_t* iv)
    int EVP_DecryptInit_ex(EVP_CIPHER_CTX* context, const EVP_CIPHER* cipher, void* engine, const uint8_t* key,
                           const uint8_t* iv)
    int EVP_MAC_CTX_set_params(EVP_MAC_CTX* context, const OSSL_PARAM* parameters)
    OSSL_PARAM OSSL_PARAM_construct_octet_string(const char* key, void* octets, size_t length)
    OSSL_PARAM OSSL_PARAM_construct_utf8_string(const char* key, char* text, size_t length)
    OSSL_PARAM OSSL_PARAM_construct_end()
    const char* OSSL_MAC_PARAM_KEY
    const char* OSSL_MAC_PARAM_DIGEST
    uint8_t* HMAC(const EVP_MD* digest, const void* key, int key_length, const uint8_t* octets, size_t length,
                  uint8_t* out, unsigned int* out_length)
    int RAND_bytes(uint8_t* octets, int length)
    int CRYPTO_memcmp(const void* a, const void* b, size_t length)
    void OPENSSL_cleanse(void* octets, size_t length)
