"""DNS over HTTPS by HTTP/2 for clients (RFC 8484, 9113): what a listener's requests are judged by, and its sessions.

    HttpManner -> Http2Listener.use: published, the one before retired
    a connection: begin -> receive -> take, take, .. -> respond, respond, .. -> transmit -> end

It knows nghttp2; connections, and what is answered, are `_tcp_worker`'s. Callbacks only collect: they call nothing of
the library but what a stream is kept with. Each stream of a client stands in one of the session's lists, by what it
waits for. All that the library allocates for a session is counted, and so is what asks for nothing: resets, pings,
settings, fields without an end.
"""

cimport cython
from collections.abc import Iterable, Sequence

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from ..cache._store cimport Cache
from ..core._atomic cimport bump, load_pointer, store_pointer
from ..core._memory cimport zeros
from ..core._prefix_table cimport PrefixTable, Prefixes, prefix_value
from ..wire._message cimport MESSAGE_MAX
from ._http cimport (
    BAD_REQUEST, CONTENT_TOO_LARGE, FIELDS_TOO_LARGE, FINE, METHOD_NOT_ALLOWED, NOT_FOUND, UNAVAILABLE,
    UNSUPPORTED_TYPE, URI_TOO_LONG, STATUSES, Http, HttpCounters, HttpSession, ListenerHttp, Request, status_code
)
from ._http_fields cimport (
    decode, decoded_length, dns_parameter, is_dns_message, last_forwarded_for, path_end, put_number, read_number
)
from ._http_memory cimport give_back, malloc_usable_size, resize, take, take_zeros
from ._nghttp2 cimport *

cdef enum:
    STREAMS_MAX = 100              # that a client may have open at once
    FIELDS_MAX = 16384             # octets of a request's fields, with 32 for each (RFC 9113 10.5.1), or else 431
    FIELDS_END = 65536             # and as many end the connection
    FIELD_EXTRA = 32
    TARGET_MAX = 8192              # octets of a path and its parameters, or else 414
    BLOCK_MAX = 32768              # octets that fields may take on the wire
    NOTHING_MAX = 1 << 17          # octets in a row that lead to nothing
    TABLE = 256                    # octets of the fields that ours refer to
    ACKS_MAX = 100                 # acknowledgements that wait at once
    SETTINGS_MAX = 32              # in one frame
    FRAME_HEADER = 9               # octets
    FAREWELL = 17                  # octets of a GOAWAY frame
    SMALL = 512                    # octets of a query, or an answer, that a stream holds in itself
    NUMBER = 10                    # digits
    NO_PRIORITIES = 9              # a setting: streams depend on none (RFC 9218 2.1)
    RESPONSE_FIELDS = 4
    LAST_ERRORS = -904             # the library's: floods that it notices itself

cdef enum:                         # methods
    OTHER
    GET
    HEAD
    POST

cdef enum:                         # stages of a stream, and a list for each
    COLLECTING                     # its client has not said all; the oldest first
    WHOLE                          # it waits to be taken
    TAKEN                          # it waits for its answer, or that for being sent
    EARLY                          # it was answered before its client had said all: it is to be reset
    STAGES

# Nanoseconds: of a budget that is full after BURST without a use.
cdef uint64_t BURST = <uint64_t> 2000000000
cdef uint64_t RESET = <uint64_t> 10000000     # what a reset takes of it: a hundred a second,
cdef uint64_t FRAME = <uint64_t> 1000000      # and a frame of its own: a thousand a second
cdef uint64_t REQUEST = <uint64_t> 6000000    # which a request gives back
cdef uint64_t REQUEST_TIME = <uint64_t> 10000000000  # after which one that is not whole is reset

cdef const uint8_t* GET_METHOD = b"GET"
cdef const uint8_t* HEAD_METHOD = b"HEAD"
cdef const uint8_t* POST_METHOD = b"POST"
cdef const uint8_t* METHOD_FIELD = b":method"
cdef const uint8_t* PATH_FIELD = b":path"
cdef const uint8_t* TYPE_FIELD = b"content-type"
cdef const uint8_t* LENGTH_FIELD = b"content-length"
cdef const uint8_t* FORWARDED_FIELD = b"x-forwarded-for"
cdef const uint8_t* MAX_AGE = b"max-age="

NGHTTP2_VERSION = nghttp2_version(0).version_str.decode()


cdef struct Path:
    uint8_t* octets
    size_t length


cdef struct Manner:                # what requests are judged by
    Path* paths
    uint32_t count
    Prefixes proxies               # whose X-Forwarded-For is believed


cdef struct Stream:
    Stream* before
    Stream* after
    uint32_t stage
    int32_t number
    uint64_t began                 # when, nanoseconds
    uint32_t method
    uint32_t status                # FINE as long as nothing is wrong
    bint is_open                   # its client has not said all
    bint is_found                  # its path is one of ours
    bint has_query                 # and carries one
    bint has_type                  # its content is a DNS message
    bint too_long                  # its target is
    bint distorted                 # it was forwarded for nobody that can be read
    bint is_answered
    uint32_t announced             # octets of content
    uint32_t fields                # octets, with FIELD_EXTRA for each
    uint8_t[16] address            # whom a proxy has asked it for
    uint8_t address_octets         # 0: there is none
    uint8_t* octets                # the query, and then the answer; `small`, or its own
    uint32_t length, capacity
    uint32_t sent                  # octets of the answer that the library has taken
    uint8_t[NUMBER] length_text
    uint8_t[8 + NUMBER] age_text
    uint8_t[SMALL] small


cdef struct List:
    Stream* first
    Stream* last


cdef struct Http2Session:
    HttpSession head
    nghttp2_session* nghttp2
    const Http* http
    HttpCounters* counts
    List[STAGES] lists
    int32_t latest                 # the highest number of a stream
    Stream* reading                # whose fields come; NULL: nobody's
    Stream* found                  # the last one that was looked for; NULL: it is closed
    const uint8_t* frame           # what is to be transmitted, the library's
    size_t left                    # octets of that
    uint64_t now                   # nanoseconds, when something came last
    uint64_t resets, frames        # until when the budgets are used up
    size_t nothing                 # octets in a row that led to nothing
    size_t block                   # octets of fields on the wire, so far
    uint32_t error                 # what the connection ends for, as HTTP/2 counts errors; 0: nothing
    bint counted                   # and it was
    bint failed                    # the library may not be asked any more
    bint has_left                  # and the last frame, of ours, is given out
    bint is_leaving                # the client was told to ask no more here
    bint is_believed               # what its client says of whom he asks for
    uint8_t[FAREWELL] farewell


# ---------------------------------------------------------------- streams

cdef void _append(Http2Session* session, Stream* stream, uint32_t stage) noexcept nogil:
    """Let a stream that is in no list be the last of one."""
    cdef List* into = &session.lists[stage]
    stream.stage, stream.before, stream.after = stage, into.last, NULL
    if into.last == NULL:
        into.first = stream
    else:
        into.last.after = stream
    into.last = stream
    session.head.whole += stage == WHOLE


cdef void _remove(Http2Session* session, Stream* stream) noexcept nogil:
    """Take a stream out of its list."""
    cdef List* source = &session.lists[stream.stage]
    if stream.before == NULL:
        source.first = stream.after
    else:
        stream.before.after = stream.after
    if stream.after == NULL:
        source.last = stream.before
    else:
        stream.after.before = stream.before
    session.head.whole -= stream.stage == WHOLE


cdef void _move(Http2Session* session, Stream* stream, uint32_t stage) noexcept nogil:
    _remove(session, stream)
    _append(session, stream, stage)


cdef inline Stream* _find(Http2Session* session, int32_t number) noexcept nogil:
    """Return a stream by its number; NULL: it is closed."""
    if session.found == NULL or session.found.number != number:
        session.found = <Stream*> nghttp2_session_get_stream_user_data(session.nghttp2, number)
    return session.found


cdef Stream* _open(Http2Session* session, int32_t number) noexcept nogil:
    """Begin to collect a request; NULL: there is no memory."""
    cdef Stream* stream = <Stream*> take(sizeof(Stream), session)
    if stream == NULL:
        return NULL
    memset(stream, 0, sizeof(Stream) - SMALL)
    stream.number, stream.began, stream.is_open = number, session.now, True
    stream.octets, stream.capacity = stream.small, SMALL
    session.latest = number
    _append(session, stream, COLLECTING)
    return stream


cdef void _close(Http2Session* session, Stream* stream) noexcept nogil:
    """Forget a stream."""
    _remove(session, stream)
    if stream.is_answered:
        session.head.waiting -= stream.length - stream.sent
    if session.reading == stream:
        session.reading = NULL
    if session.found == stream:
        session.found = NULL
    if stream.octets != stream.small:
        give_back(stream.octets, session)
    give_back(stream, session)


cdef bint _make_room(Http2Session* session, Stream* stream, uint32_t needed) noexcept nogil:
    """Have room for so many octets, those that there are included; False: there is no memory."""
    cdef:
        uint32_t capacity = stream.capacity
        uint8_t* larger
    if needed <= capacity:
        return True
    while capacity < needed:
        capacity *= 2
    if stream.octets == stream.small:
        larger = <uint8_t*> take(capacity, session)
        if larger != NULL:
            memcpy(larger, stream.small, stream.length)
    else:
        larger = <uint8_t*> resize(stream.octets, capacity, session)
    if larger == NULL:
        return False
    stream.octets, stream.capacity = larger, capacity
    return True


# ---------------------------------------------------------------- what a session may cost

cdef inline bint _exceeds(uint64_t* used, uint64_t now, uint64_t cost) noexcept nogil:
    """Take something from a budget that was used up until then; True: it has not so much."""
    used[0] = max(used[0], now) + cost
    return used[0] > now + BURST


cdef int _end_for(Http2Session* session, uint32_t error) noexcept nogil:
    """Have the library give up, for what is told to the client."""
    session.error = error
    return NGHTTP2_ERR_CALLBACK_FAILURE


cdef void _count(Http2Session* session, uint32_t error) noexcept nogil:
    """Count what a session ends for, once."""
    if not session.counted:
        session.counted = True
        bump(&session.counts.floods if error == NGHTTP2_ENHANCE_YOUR_CALM else &session.counts.protocol_errors, 1)


cdef void _fail(Http2Session* session, int why) noexcept nogil:
    """End a session that the library has given up: it may not be asked again, and the last frame is ours."""
    cdef:
        uint32_t number = <uint32_t> session.latest
        uint8_t* frame = session.farewell
        uint32_t k
    if why <= LAST_ERRORS:
        session.error = NGHTTP2_ENHANCE_YOUR_CALM
    elif not session.error:
        session.error = NGHTTP2_INTERNAL_ERROR if why == NGHTTP2_ERR_NOMEM else NGHTTP2_PROTOCOL_ERROR
    _count(session, session.error)
    session.failed = session.head.ends = True
    memset(frame, 0, FAREWELL)
    frame[2], frame[3] = FAREWELL - FRAME_HEADER, NGHTTP2_GOAWAY
    for k in range(4):
        frame[FRAME_HEADER + k] = <uint8_t> (number >> (24 - 8 * k))
        frame[FRAME_HEADER + 4 + k] = <uint8_t> (session.error >> (24 - 8 * k))


# ---------------------------------------------------------------- callbacks: they only collect

cdef int _on_begin_frame(nghttp2_session* library, const nghttp2_frame_hd* header, void* ours) noexcept nogil:
    """Take each frame from the budget, and bound the octets that fields come in, however many frames they take."""
    cdef Http2Session* session = <Http2Session*> ours
    session.nothing = 0
    if _exceeds(&session.frames, session.now, FRAME):
        return _end_for(session, NGHTTP2_ENHANCE_YOUR_CALM)
    if header.type == NGHTTP2_PRIORITY and not header.stream_id:  # the library does not look into what it ignores
        return _end_for(session, NGHTTP2_PROTOCOL_ERROR)
    if header.type == NGHTTP2_RST_STREAM and _exceeds(&session.resets, session.now, RESET):
        return _end_for(session, NGHTTP2_ENHANCE_YOUR_CALM)
    if header.type == NGHTTP2_HEADERS:
        session.block = 0
    if header.type == NGHTTP2_HEADERS or header.type == NGHTTP2_CONTINUATION:
        session.block += FRAME_HEADER + header.length
        if session.block > BLOCK_MAX:
            return _end_for(session, NGHTTP2_ENHANCE_YOUR_CALM)
    return 0


cdef int _on_begin_headers(nghttp2_session* library, const nghttp2_frame* frame, void* ours) noexcept nogil:
    """Begin a stream; what follows the content of one means nothing, and is counted with its fields."""
    cdef Http2Session* session = <Http2Session*> ours
    if frame.headers.cat != NGHTTP2_HCAT_REQUEST:
        session.reading = _find(session, frame.hd.stream_id)
        return 0
    session.reading = _open(session, frame.hd.stream_id)
    if session.reading == NULL:
        return _end_for(session, NGHTTP2_INTERNAL_ERROR)
    nghttp2_session_set_stream_user_data(library, frame.hd.stream_id, session.reading)
    return 0


cdef int _on_field(nghttp2_session* library, const nghttp2_frame* frame, const uint8_t* name, size_t name_length,
                   const uint8_t* value, size_t length, uint8_t flags, void* ours) noexcept nogil:
    """Take a field of a request, as far as it means something."""
    cdef:
        Http2Session* session = <Http2Session*> ours
        Stream* stream = session.reading
    if stream == NULL:
        return 0
    stream.fields += <uint32_t> min(name_length + length + FIELD_EXTRA, <size_t> FIELDS_END)
    if stream.fields > FIELDS_END:
        return _end_for(session, NGHTTP2_ENHANCE_YOUR_CALM)
    if stream.fields > FIELDS_MAX or frame.headers.cat != NGHTTP2_HCAT_REQUEST:
        return 0
    if name_length == 5 and memcmp(name, PATH_FIELD, 5) == 0:
        if not _take_target(session, stream, value, length):
            return _end_for(session, NGHTTP2_INTERNAL_ERROR)
    elif name_length == 7 and memcmp(name, METHOD_FIELD, 7) == 0:
        stream.method = _method(value, length)
    elif name_length == 12 and memcmp(name, TYPE_FIELD, 12) == 0:
        stream.has_type = is_dns_message(value, length)
    elif name_length == 14 and memcmp(name, LENGTH_FIELD, 14) == 0:
        stream.announced = read_number(value, length)
    elif session.is_believed and name_length == 15 and memcmp(name, FORWARDED_FIELD, 15) == 0:
        stream.address_octets = last_forwarded_for(value, length, stream.address)
        stream.distorted = not stream.address_octets
    return 0


cdef uint32_t _method(const uint8_t* value, size_t length) noexcept nogil:
    if length == 3 and memcmp(value, GET_METHOD, 3) == 0:
        return GET
    if length == 4 and memcmp(value, POST_METHOD, 4) == 0:
        return POST
    return HEAD if length == 4 and memcmp(value, HEAD_METHOD, 4) == 0 else OTHER


cdef bint _take_target(Http2Session* session, Stream* stream, const uint8_t* target, size_t length) noexcept nogil:
    """See whether a path is one of ours, and decode the query behind it; False: there is no memory for that."""
    cdef:
        const Manner* manner = <const Manner*> load_pointer(&session.http.manner)
        size_t end, size
        const uint8_t* text
        uint32_t k
    if length > TARGET_MAX:  # nothing of that length is decoded
        stream.too_long = True
        return True
    end = path_end(target, length)
    for k in range(manner.count):
        stream.is_found |= manner.paths[k].length == end and memcmp(manner.paths[k].octets, target, end) == 0
    text = dns_parameter(target, length, &size)
    if text == NULL or not stream.is_found:
        return True
    if not _make_room(session, stream, <uint32_t> decoded_length(size)):
        return False
    stream.has_query = decode(stream.octets, text, size)
    stream.length = <uint32_t> decoded_length(size)
    return True


cdef uint32_t _judge(const Stream* stream) noexcept nogil:
    """Tell what is wrong with a request, as far as its fields say."""
    if stream.fields > FIELDS_MAX:
        return FIELDS_TOO_LARGE
    if stream.too_long:
        return URI_TOO_LONG
    if not stream.is_found:
        return NOT_FOUND
    if stream.method == OTHER:
        return METHOD_NOT_ALLOWED
    if stream.method == POST and not stream.has_type:
        return UNSUPPORTED_TYPE
    if stream.method == POST and stream.announced > MESSAGE_MAX:
        return CONTENT_TOO_LARGE
    if stream.distorted or stream.method != POST and not stream.has_query:
        return BAD_REQUEST
    return FINE


cdef int _on_invalid_field(nghttp2_session* nghttp2, const nghttp2_frame* frame, const uint8_t* name, size_t named,
                           const uint8_t* value, size_t length, uint8_t flags, void* ours) noexcept nogil:
    """Have a stream reset whose request is malformed (RFC 9113 8.2.1): some versions would leave out the field."""
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE


cdef int _on_content(nghttp2_session* library, uint8_t flags, int32_t number, const uint8_t* octets, size_t length,
                     void* ours) noexcept nogil:
    """Take octets of a query; those of a request that is judged by now are nobody's, and so are those of a GET."""
    cdef:
        Http2Session* session = <Http2Session*> ours
        Stream* stream = _find(session, number)
    session.nothing = 0
    if stream == NULL or stream.stage != COLLECTING or stream.method != POST:
        return 0
    if stream.length + length > MESSAGE_MAX:
        stream.status = CONTENT_TOO_LARGE
        _move(session, stream, WHOLE)
        return 0
    if not _make_room(session, stream, <uint32_t> (stream.length + length)):
        return _end_for(session, NGHTTP2_INTERNAL_ERROR)
    memcpy(stream.octets + stream.length, octets, length)
    stream.length += <uint32_t> length
    return 0


cdef int _on_frame(nghttp2_session* library, const nghttp2_frame* frame, void* ours) noexcept nogil:
    """Judge a request by its fields, and let it be taken when all of it is there, or something is wrong with it."""
    cdef:
        Http2Session* session = <Http2Session*> ours
        Stream* stream
    if frame.hd.type != NGHTTP2_HEADERS and frame.hd.type != NGHTTP2_DATA:
        return 0
    session.reading = NULL
    stream = _find(session, frame.hd.stream_id)
    if stream == NULL:
        return 0
    if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
        stream.is_open = False
    if stream.stage != COLLECTING:
        return 0
    if frame.hd.type == NGHTTP2_HEADERS and frame.headers.cat == NGHTTP2_HCAT_REQUEST:
        stream.status = _judge(stream)
        if stream.method == POST:
            stream.length = 0  # a query in its path means nothing
    if not stream.is_open or stream.status != FINE:
        session.frames -= min(session.frames, REQUEST)
        _move(session, stream, WHOLE)
    return 0


cdef int _on_sent(nghttp2_session* library, const nghttp2_frame* frame, void* ours) noexcept nogil:
    """Note what was answered before its client had said all; count resets of ours that he has brought about."""
    cdef:
        Http2Session* session = <Http2Session*> ours
        Stream* stream
    if frame.hd.type == NGHTTP2_GOAWAY and frame.goaway.error_code != NGHTTP2_NO_ERROR:
        _count(session, frame.goaway.error_code)
    elif frame.hd.type == NGHTTP2_RST_STREAM and frame.rst_stream.error_code != NGHTTP2_NO_ERROR:
        if _exceeds(&session.resets, session.now, RESET):
            return _end_for(session, NGHTTP2_ENHANCE_YOUR_CALM)
    elif ((frame.hd.type == NGHTTP2_DATA or frame.hd.type == NGHTTP2_HEADERS)
            and frame.hd.flags & NGHTTP2_FLAG_END_STREAM):
        stream = _find(session, frame.hd.stream_id)
        if stream != NULL and stream.is_open:
            _move(session, stream, EARLY)
    return 0


cdef int _on_stream_close(nghttp2_session* library, int32_t number, uint32_t error, void* ours) noexcept nogil:
    """Forget a stream: whatever comes for it later finds none of its number."""
    cdef:
        Http2Session* session = <Http2Session*> ours
        Stream* stream = _find(session, number)
    if stream != NULL:
        _close(session, stream)
    return 0


cdef ssize_t _on_read(nghttp2_session* library, int32_t number, uint8_t* out, size_t room, uint32_t* flags,
                      nghttp2_data_source* source, void* ours) noexcept nogil:
    """Give the library what it may send of an answer."""
    cdef:
        Http2Session* session = <Http2Session*> ours
        Stream* stream = <Stream*> source.ptr
        uint32_t length = <uint32_t> min(room, <size_t> (stream.length - stream.sent))
    memcpy(out, stream.octets + stream.sent, length)
    stream.sent += length
    session.head.waiting -= length
    if stream.sent == stream.length:
        flags[0] |= NGHTTP2_DATA_FLAG_EOF
    return <ssize_t> length


# ---------------------------------------------------------------- a session

cdef HttpSession* _begin(const Http* http, HttpCounters* counts, const uint8_t* address, uint8_t octets) noexcept nogil:
    """Return the session of a connection that something has come from; NULL: there is no memory."""
    cdef:
        Http2Session* session
        nghttp2_mem memory
        nghttp2_settings_entry[3] ours
        const Manner* manner = <const Manner*> load_pointer(&http.manner)
    session = <Http2Session*> calloc(1, sizeof(Http2Session)) if manner != NULL else NULL
    if session == NULL:
        return NULL
    session.http, session.counts = http, counts
    session.is_believed = prefix_value(&manner.proxies, address, octets) != 0
    session.head.held = malloc_usable_size(session)
    memory.mem_user_data = session
    memory.malloc, memory.free, memory.calloc, memory.realloc = take, give_back, take_zeros, resize
    ours[0].settings_id, ours[0].value = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, STREAMS_MAX
    ours[1].settings_id, ours[1].value = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, FIELDS_MAX
    ours[2].settings_id, ours[2].value = NO_PRIORITIES, 1
    if nghttp2_session_server_new3(&session.nghttp2, callbacks, session, options, &memory):
        free(session)
        return NULL
    if nghttp2_submit_settings(session.nghttp2, NGHTTP2_FLAG_NONE, ours, 3):
        _end(&session.head)
        return NULL
    return &session.head


cdef void _receive(HttpSession* ours, const uint8_t* octets, size_t length, uint64_t now) noexcept nogil:
    """Collect what came; `now` is in nanoseconds."""
    cdef:
        Http2Session* session = <Http2Session*> ours
        Stream* oldest
        ssize_t taken
    if session.failed:
        return
    session.now = now
    session.nothing += length
    taken = nghttp2_session_mem_recv(session.nghttp2, octets, length)
    if taken < 0:
        _fail(session, <int> taken)
        return
    if session.nothing > NOTHING_MAX:
        session.error = NGHTTP2_ENHANCE_YOUR_CALM
        _fail(session, NGHTTP2_ERR_CALLBACK_FAILURE)
        return
    oldest = session.lists[COLLECTING].first
    if oldest != NULL and oldest.began + REQUEST_TIME < now:
        _move(session, oldest, TAKEN)  # nobody answers it
        nghttp2_submit_rst_stream(session.nghttp2, NGHTTP2_FLAG_NONE, oldest.number, NGHTTP2_CANCEL)


cdef bint _take(HttpSession* ours, Request* request) noexcept nogil:
    """Take the next request that is whole, and right as far as HTTP knows; those that are not are refused."""
    cdef:
        Http2Session* session = <Http2Session*> ours
        Stream* stream
    while not session.failed and session.lists[WHOLE].first != NULL:
        stream = session.lists[WHOLE].first
        _move(session, stream, TAKEN)
        if stream.status == FINE:
            request.number, request.query, request.length = <uint32_t> stream.number, stream.octets, stream.length
            request.address = stream.address if stream.address_octets else NULL
            request.octets = stream.address_octets
            return True
        _submit(session, stream, stream.status, 0)
    return False


cdef void _respond(HttpSession* ours, uint32_t number, const uint8_t* wire, size_t length,
                   uint32_t max_age) noexcept nogil:
    """Answer a request; one that was reset, or answered, gets nothing more."""
    cdef:
        Http2Session* session = <Http2Session*> ours
        Stream* stream = _find(session, <int32_t> number) if not session.failed else NULL
    if stream == NULL or stream.is_answered or stream.stage != TAKEN:
        return
    if not _make_room(session, stream, <uint32_t> length):
        _submit(session, stream, UNAVAILABLE, 0)
        return
    memcpy(stream.octets, wire, length)
    stream.length = <uint32_t> length
    _submit(session, stream, FINE, max_age)


cdef void _refuse(HttpSession* ours, uint32_t number, uint32_t status) noexcept nogil:
    """Answer a request with a status, and no content."""
    cdef:
        Http2Session* session = <Http2Session*> ours
        Stream* stream = _find(session, <int32_t> number) if not session.failed else NULL
    if stream != NULL and not stream.is_answered and stream.stage == TAKEN:
        _submit(session, stream, status, 0)


cdef void _submit(Http2Session* session, Stream* stream, uint32_t status, uint32_t max_age) noexcept nogil:
    """Let the library have a response: what the stream holds, or nothing where something is wrong."""
    cdef:
        nghttp2_nv[RESPONSE_FIELDS] fields
        nghttp2_data_provider provider
        size_t count = 2
        int result
    if status != FINE:
        stream.length = 0
    memcpy(fields, prepared, sizeof(fields))
    fields[0] = statuses[status]
    fields[1].value, fields[1].valuelen = stream.length_text, put_number(stream.length_text, stream.length)
    if status == FINE:
        memcpy(stream.age_text, MAX_AGE, 8)
        fields[3].value, fields[3].valuelen = stream.age_text, 8 + put_number(stream.age_text + 8, max_age)
        count = RESPONSE_FIELDS
    elif status == METHOD_NOT_ALLOWED:
        fields[2] = allow
        count = 3
    if stream.method == HEAD:
        stream.length = 0
    provider.source.ptr, provider.read_callback = stream, _on_read
    stream.is_answered, stream.sent = True, 0
    session.head.waiting += stream.length
    bump(&session.counts.responses[status], 1)
    result = nghttp2_submit_response(session.nghttp2, stream.number, fields, count,
                                     &provider if stream.length else NULL)
    if nghttp2_is_fatal(result):
        _fail(session, result)


cdef size_t _transmit(HttpSession* ours, uint8_t* out, size_t room) noexcept nogil:
    """Write what is to be sent, as far as windows and room allow; return its octets. Fewer than `room`: that is all."""
    cdef:
        Http2Session* session = <Http2Session*> ours
        size_t size, total = 0
    while True:
        if not session.left and not _next_frame(session):
            break
        size = min(session.left, room - total)
        memcpy(out + total, session.frame, size)
        session.frame += size
        session.left -= size
        total += size
        if total == room:
            return total
    session.head.ends |= not (session.failed or nghttp2_session_want_read(session.nghttp2)
                              or nghttp2_session_want_write(session.nghttp2))
    return total


cdef bint _next_frame(Http2Session* session) noexcept nogil:
    """Have the library say what is to be sent next; False: nothing is."""
    cdef ssize_t length
    while not session.failed:
        length = nghttp2_session_mem_send(session.nghttp2, &session.frame)
        if length < 0:
            _fail(session, <int> length)
            break
        session.left = <size_t> length
        if length:
            return True
        if session.lists[EARLY].first == NULL:
            return False
        while session.lists[EARLY].first != NULL:  # the client is told to send no more of them (RFC 9113 8.1)
            nghttp2_submit_rst_stream(session.nghttp2, NGHTTP2_FLAG_NONE, session.lists[EARLY].first.number,
                                      NGHTTP2_NO_ERROR)
            _move(session, session.lists[EARLY].first, TAKEN)
    if session.has_left:
        return False
    session.frame, session.left, session.has_left = session.farewell, FAREWELL, True
    return True


cdef void _leave(HttpSession* ours) noexcept nogil:
    """Tell a client to ask no more here (RFC 9113 6.8)."""
    cdef Http2Session* session = <Http2Session*> ours
    if not session.failed and not session.is_leaving:
        session.is_leaving = True
        nghttp2_submit_goaway(session.nghttp2, NGHTTP2_FLAG_NONE,
                              nghttp2_session_get_last_proc_stream_id(session.nghttp2), NGHTTP2_NO_ERROR, NULL, 0)


cdef void _end(HttpSession* ours) noexcept nogil:
    """Forget a session."""
    cdef:
        Http2Session* session = <Http2Session*> ours
        uint32_t stage
    nghttp2_session_del(session.nghttp2)
    for stage in range(STAGES):
        while session.lists[stage].first != NULL:
            _close(session, session.lists[stage].first)
    free(session)


# ---------------------------------------------------------------- what all sessions share

cdef:
    nghttp2_session_callbacks* callbacks
    nghttp2_option* options
    nghttp2_nv[RESPONSE_FIELDS] prepared   # status, length, type, age
    nghttp2_nv[STATUSES] statuses
    nghttp2_nv allow
    list texts = []                        # what these refer to


cdef nghttp2_nv _field(bytes name, bytes value, uint8_t flags):
    """Return a field whose text lives for ever."""
    cdef nghttp2_nv field
    texts.append((name, value))
    field.name, field.namelen, field.value, field.valuelen = name, len(name), value, len(value)
    field.flags = flags | NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE
    return field


def _prepare() -> None:
    """Make what all sessions share."""
    global allow
    if nghttp2_session_callbacks_new(&callbacks) or nghttp2_option_new(&options):
        raise MemoryError("no memory for callbacks")
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, _on_begin_frame)
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, _on_begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(callbacks, _on_field)
    nghttp2_session_callbacks_set_on_invalid_header_callback(callbacks, _on_invalid_field)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, _on_content)
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, _on_frame)
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, _on_sent)
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, _on_stream_close)
    nghttp2_option_set_no_closed_streams(options, 1)
    nghttp2_option_set_max_deflate_dynamic_table_size(options, TABLE)
    nghttp2_option_set_max_outbound_ack(options, ACKS_MAX)
    nghttp2_option_set_max_settings(options, SETTINGS_MAX)
    for k in range(STATUSES):
        statuses[k] = _field(b":status", b"%d" % status_code(k), NGHTTP2_NV_FLAG_NONE)
    prepared[1] = _field(b"content-length", b"", NGHTTP2_NV_FLAG_NO_INDEX)
    prepared[2] = _field(b"content-type", b"application/dns-message", NGHTTP2_NV_FLAG_NONE)
    prepared[3] = _field(b"cache-control", b"", NGHTTP2_NV_FLAG_NO_INDEX)
    allow = _field(b"allow", b"GET, HEAD, POST", NGHTTP2_NV_FLAG_NONE)


_prepare()


# ---------------------------------------------------------------- for the control thread

@cython.final
cdef class HttpManner:
    """What requests are judged by: paths, and the prefixes of proxies, as (network address, bits), which are believed.

    Memory ownership: paths and prefixes are its own. Nothing of it is changed later.
    """

    cdef:
        Manner made
        PrefixTable proxies

    def __cinit__(self, paths: Sequence[str], proxies: Iterable = ()) -> None:
        """Take paths that begin with a slash; raises ValueError where a prefix is none."""
        cdef bytes path
        self.proxies = PrefixTable([(address, bits, 1) for address, bits in proxies])
        self.made.proxies = self.proxies.prefixes
        self.made.paths = <Path*> zeros(len(paths) + 1, sizeof(Path))
        for each in paths:
            path = each.encode()
            self.made.paths[self.made.count].octets = <uint8_t*> zeros(len(path) + 1, 1)
            memcpy(self.made.paths[self.made.count].octets, <const uint8_t*> path, len(path))
            self.made.paths[self.made.count].length = len(path)
            self.made.count += 1

    def __dealloc__(self) -> None:
        for k in range(self.made.count):
            free(self.made.paths[k].octets)
        free(self.made.paths)


@cython.final
cdef class Http2Listener(ListenerHttp):
    """What clients of one listener may ask by HTTP/2: replaced as a whole, while connections go on."""

    def __cinit__(self, Cache cache not None) -> None:
        self.cache = cache
        self.http.begin, self.http.receive, self.http.take, self.http.respond = _begin, _receive, _take, _respond
        self.http.refuse, self.http.transmit, self.http.leave, self.http.end = _refuse, _transmit, _leave, _end

    def use(self, HttpManner manner not None) -> None:
        """Have requests from now on judged by this."""
        cdef object before = self.in_force
        store_pointer(&self.http.manner, &manner.made)
        self.in_force = manner
        if before is not None:
            self.cache.epochs.retire(before)
