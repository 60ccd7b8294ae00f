"""What of nghttp2's C API is used (nghttp2 1.40 or later), by its own names."""

from libc.stdint cimport int32_t, uint8_t, uint32_t

cdef extern from "<nghttp2/nghttp2.h>" nogil:
    ctypedef struct nghttp2_session
    ctypedef struct nghttp2_session_callbacks
    ctypedef struct nghttp2_option
    ctypedef struct nghttp2_frame_hd:
        size_t length
        int32_t stream_id
        uint8_t type
        uint8_t flags
    ctypedef struct nghttp2_headers:
        int cat
    ctypedef struct nghttp2_rst_stream:
        uint32_t error_code
    ctypedef struct nghttp2_goaway:
        uint32_t error_code
    ctypedef union nghttp2_frame:
        nghttp2_frame_hd hd
        nghttp2_headers headers
        nghttp2_rst_stream rst_stream
        nghttp2_goaway goaway
    ctypedef struct nghttp2_nv:
        uint8_t* name
        uint8_t* value
        size_t namelen
        size_t valuelen
        uint8_t flags
    ctypedef union nghttp2_data_source:
        void* ptr
    ctypedef ssize_t (*nghttp2_data_source_read_callback)(
        nghttp2_session* session, int32_t stream_id, uint8_t* buf, size_t length, uint32_t* data_flags,
        nghttp2_data_source* source, void* user_data) noexcept
    ctypedef struct nghttp2_data_provider:
        nghttp2_data_source source
        nghttp2_data_source_read_callback read_callback
    ctypedef struct nghttp2_settings_entry:
        int32_t settings_id
        uint32_t value
    ctypedef struct nghttp2_mem:
        void* mem_user_data
        void* (*malloc)(size_t size, void* mem_user_data) noexcept
        void (*free)(void* ptr, void* mem_user_data) noexcept
        void* (*calloc)(size_t nmemb, size_t size, void* mem_user_data) noexcept
        void* (*realloc)(void* ptr, size_t size, void* mem_user_data) noexcept
    ctypedef struct nghttp2_info:
        const char* version_str

    enum:
        NGHTTP2_DATA, NGHTTP2_HEADERS, NGHTTP2_PRIORITY, NGHTTP2_RST_STREAM  # frames
        NGHTTP2_GOAWAY, NGHTTP2_CONTINUATION
        NGHTTP2_HCAT_REQUEST
        NGHTTP2_FLAG_NONE, NGHTTP2_FLAG_END_STREAM
        NGHTTP2_DATA_FLAG_EOF
        NGHTTP2_NV_FLAG_NONE, NGHTTP2_NV_FLAG_NO_INDEX, NGHTTP2_NV_FLAG_NO_COPY_NAME, NGHTTP2_NV_FLAG_NO_COPY_VALUE
        NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
        NGHTTP2_NO_ERROR, NGHTTP2_PROTOCOL_ERROR, NGHTTP2_INTERNAL_ERROR, NGHTTP2_CANCEL, NGHTTP2_ENHANCE_YOUR_CALM
        NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE, NGHTTP2_ERR_CALLBACK_FAILURE, NGHTTP2_ERR_NOMEM, NGHTTP2_ERR_FLOODED

    const nghttp2_info* nghttp2_version(int least)
    int nghttp2_is_fatal(int lib_error_code)

    int nghttp2_session_callbacks_new(nghttp2_session_callbacks** callbacks)
    void nghttp2_session_callbacks_set_on_begin_frame_callback(
        nghttp2_session_callbacks* callbacks,
        int (*callback)(nghttp2_session*, const nghttp2_frame_hd*, void*) noexcept)
    void nghttp2_session_callbacks_set_on_begin_headers_callback(
        nghttp2_session_callbacks* callbacks, int (*callback)(nghttp2_session*, const nghttp2_frame*, void*) noexcept)
    void nghttp2_session_callbacks_set_on_header_callback(
        nghttp2_session_callbacks* callbacks,
        int (*callback)(nghttp2_session*, const nghttp2_frame*, const uint8_t*, size_t, const uint8_t*, size_t, uint8_t,
                        void*) noexcept)
    void nghttp2_session_callbacks_set_on_invalid_header_callback(
        nghttp2_session_callbacks* callbacks,
        int (*callback)(nghttp2_session*, const nghttp2_frame*, const uint8_t*, size_t, const uint8_t*, size_t, uint8_t,
                        void*) noexcept)
    void nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        nghttp2_session_callbacks* callbacks,
        int (*callback)(nghttp2_session*, uint8_t, int32_t, const uint8_t*, size_t, void*) noexcept)
    void nghttp2_session_callbacks_set_on_frame_recv_callback(
        nghttp2_session_callbacks* callbacks, int (*callback)(nghttp2_session*, const nghttp2_frame*, void*) noexcept)
    void nghttp2_session_callbacks_set_on_frame_send_callback(
        nghttp2_session_callbacks* callbacks, int (*callback)(nghttp2_session*, const nghttp2_frame*, void*) noexcept)
    void nghttp2_session_callbacks_set_on_stream_close_callback(
        nghttp2_session_callbacks* callbacks, int (*callback)(nghttp2_session*, int32_t, uint32_t, void*) noexcept)

    int nghttp2_option_new(nghttp2_option** option)
    void nghttp2_option_set_no_closed_streams(nghttp2_option* option, int value)
    void nghttp2_option_set_max_deflate_dynamic_table_size(nghttp2_option* option, size_t value)
    void nghttp2_option_set_max_outbound_ack(nghttp2_option* option, size_t value)
    void nghttp2_option_set_max_settings(nghttp2_option* option, size_t value)

    int nghttp2_session_server_new3(nghttp2_session** session, const nghttp2_session_callbacks* callbacks,
                                    void* user_data, const nghttp2_option* option, nghttp2_mem* mem)
    void nghttp2_session_del(nghttp2_session* session)
    ssize_t nghttp2_session_mem_recv(nghttp2_session* session, const uint8_t* octets, size_t length)
    ssize_t nghttp2_session_mem_send(nghttp2_session* session, const uint8_t** octets)
    int nghttp2_session_want_read(nghttp2_session* session)
    int nghttp2_session_want_write(nghttp2_session* session)
    int32_t nghttp2_session_get_last_proc_stream_id(nghttp2_session* session)
    void* nghttp2_session_get_stream_user_data(nghttp2_session* session, int32_t stream_id)
    int nghttp2_session_set_stream_user_data(nghttp2_session* session, int32_t stream_id, void* stream_user_data)

    int nghttp2_submit_settings(nghttp2_session* session, uint8_t flags, const nghttp2_settings_entry* entries,
                                size_t count)
    int nghttp2_submit_response(nghttp2_session* session, int32_t stream_id, const nghttp2_nv* fields, size_t count,
                                const nghttp2_data_provider* provider)
    int nghttp2_submit_rst_stream(nghttp2_session* session, uint8_t flags, int32_t stream_id, uint32_t error_code)
    int nghttp2_submit_goaway(nghttp2_session* session, uint8_t flags, int32_t last_stream_id, uint32_t error_code,
                              const uint8_t* octets, size_t length)
