/* HTTP/1.x, sans-I/O: bytes in, one event a call out. RFC 9112. What can be read two ways is
 * refused: bare CR or LF, folded lines, space before a colon, Content-Length beside
 * Transfer-Encoding or twice, any transfer coding but chunked, anything odd in a chunk head.
 * One thread. An idle parser is sizeof(struct weft_h1) and no more. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	WEFT_H1_HEAD_BYTES = 60 << 10,	    /* default, start line and fields */
	WEFT_H1_HEADERS = 100,		    /* default, fields of a block */
	WEFT_H1_CHUNK_EXT_BYTES = 256,	    /* default, of one chunk */
	WEFT_H1_CHUNK_EXT_TOTAL = 16 << 10, /* of one message; not configurable */
	WEFT_H1_CHUNK_DIGITS = 16,	    /* leading zeros count */
	WEFT_H1_EMPTY_LINES = 2,	    /* CRLFs let pass before a request */
	WEFT_H1_CHUNK_HEAD_MAX = 16 + 2,    /* what weft_h1_chunk_head writes at most */
};

/* Each has its text for %RESPONSE_CODE_DETAILS% (Envoy's where Envoy has one) and a status. */
enum weft_h1_error {
	WEFT_H1_OK,
	WEFT_H1_E_CODEC,	  /* broken line structure or start line */
	WEFT_H1_E_METHOD,	  /* not a known method */
	WEFT_H1_E_VERSION,	  /* of HTTP: not 1.1, nor 1.0 where that is allowed */
	WEFT_H1_E_URL,		  /* authority of the target */
	WEFT_H1_E_PATH,		  /* of the target: does not begin with a slash */
	WEFT_H1_E_SCHEME,	  /* of an absolute target: neither http nor https */
	WEFT_H1_E_CHARACTERS,	  /* in a field name or value */
	WEFT_H1_E_TOO_LARGE,	  /* header block or trailers */
	WEFT_H1_E_TOO_MANY,	  /* fields */
	WEFT_H1_E_HOST_MISSING,	  /* in an HTTP/1.1 request */
	WEFT_H1_E_HOST,		  /* twice, or not an authority */
	WEFT_H1_E_LENGTH,	  /* Content-Length: not a number, or twice */
	WEFT_H1_E_LENGTH_CHUNKED, /* Content-Length beside Transfer-Encoding */
	WEFT_H1_E_CODING, /* Transfer-Encoding: not chunked, twice, in HTTP/1.0 or CONNECT */
	WEFT_H1_E_BODY,	  /* a body where none may be (CONNECT) */
	WEFT_H1_E_CODING_FORBIDDEN, /* Transfer-Encoding in 1xx or 204 */
	WEFT_H1_E_LENGTH_FORBIDDEN, /* Content-Length in 1xx or 204 */
	WEFT_H1_E_CHUNK,	    /* chunk framing */
	WEFT_H1_E_TRAILER,	    /* a trailer that frames or routes */
	WEFT_H1_E_UNASKED,	    /* response bytes without a request */
	WEFT_H1_E_EOF,		    /* the connection ended within a message */
	WEFT_H1_ERRORS,
};
const char *weft_h1_error_text(enum weft_h1_error e); /* stable: "http1.codec_error" */
int weft_h1_error_status(enum weft_h1_error e); /* what an edge answers: 400, 404, 426, 431, 501 */

struct weft_h1_conf {
	bool response;		 /* parses responses */
	bool http10;		 /* requests of HTTP/1.0 are taken (accept_http_10) */
	bool any_method;	 /* any token (allow_custom_methods) */
	bool chunked_length;	 /* Content-Length beside chunked is passed over instead of
				    refused (allow_chunked_length) */
	bool asterisk;		 /* OPTIONS * is let through; Envoy answers it 404 */
	bool hostless;		 /* HTTP/1.1 without Host is let through: the caller refuses it */
	uint32_t max_head_bytes; /* 0: WEFT_H1_HEAD_BYTES; also of trailers */
	uint32_t max_headers;	 /* 0: WEFT_H1_HEADERS; also of trailers */
	uint32_t max_chunk_ext;	 /* 0: WEFT_H1_CHUNK_EXT_BYTES */
};

struct weft_h1_header {
	const char *name, *value; /* not NUL-terminated; names in the peer's case */
	uint32_t name_len, value_len;
};
struct weft_h1_slice {
	const char *p;
	uint32_t n;
};

enum weft_h1_form {
	WEFT_H1_ORIGIN,	   /* path */
	WEFT_H1_ABSOLUTE,  /* scheme, authority, path ("" when the target has none) */
	WEFT_H1_AUTHORITY, /* CONNECT: authority */
	WEFT_H1_ASTERISK,  /* OPTIONS *: path is "*" */
};

/* Head of a message. All slices point into block. */
struct weft_h1_head {
	const char *block; /* start line to the empty line: one piece, for one copy */
	uint32_t block_len;
	uint32_t n;
	struct weft_h1_header *v;
	struct weft_h1_slice method, target;	      /* request */
	struct weft_h1_slice scheme, authority, path; /* request, parts of target by form */
	struct weft_h1_slice reason;		      /* response */
	int64_t content_length;			      /* -1: none given */
	int32_t host;				      /* index of Host, -1: none */
	uint16_t status;			      /* response */
	uint8_t minor;				      /* HTTP/1.x */
	uint8_t form;				      /* enum weft_h1_form */
	bool chunked : 1;
	bool keep_alive : 1; /* as the peer wants it, by version and Connection */
	bool upgrade : 1;    /* Upgrade field, named in Connection; 101 in a response */
	bool connect : 1;    /* CONNECT, or the 2xx to one */
	bool expect_continue : 1;
	bool interim : 1;     /* 1xx but 101: another head follows */
	bool until_close : 1; /* response body ends with the connection */
};

enum weft_h1_type {
	WEFT_H1_MORE,	  /* all was taken, nothing to tell yet */
	WEFT_H1_HEAD,	  /* ev->head */
	WEFT_H1_BODY,	  /* ev->body */
	WEFT_H1_TRAILERS, /* ev->head.v, .n, .block; the message ends with them */
	WEFT_H1_END,	  /* the message ends */
	WEFT_H1_OPAQUE,	  /* no longer HTTP: nothing was taken, the bytes are the caller's */
	WEFT_H1_FAIL,	  /* ev->error; the parser takes nothing more */
};
/* One a worker is enough: filled by each call. Zeroed to begin with; weft_h1_event_done frees. */
struct weft_h1_event {
	enum weft_h1_type type;
	enum weft_h1_error error;
	bool end; /* the message is complete with this event (HEAD, BODY, TRAILERS, END) */
	struct weft_h1_slice body;
	struct weft_h1_head head;
	struct weft_h1_header *v; /* storage of head.v, kept from call to call */
	uint32_t cap;
};
void weft_h1_event_done(struct weft_h1_event *ev);

enum weft_h1_asked {
	WEFT_H1_ASKED_OTHER,
	WEFT_H1_ASKED_HEAD,
	WEFT_H1_ASKED_CONNECT,
	WEFT_H1_ASKED_UPGRADE, /* only then may 101 be the answer */
};

struct weft_h1 { /* embedded by value; fields are h1.c's */
	const struct weft_h1_conf *conf;
	char *buf; /* of a block that came in pieces, and while its slices are in use */
	uint64_t left;
	uint32_t len, cap, line, lines, ext_total, ext;
	uint8_t state, digits, empty, asked, error;
	bool told : 1, waiting : 1;
};

void weft_h1_init(struct weft_h1 *p, const struct weft_h1_conf *conf); /* conf must outlive it */
void weft_h1_done(struct weft_h1 *p);

/* Reads of in up to the end of one event; returns the bytes taken (possibly 0), fills ev. Slices
 * are valid until in changes or the next call for p. After ev->end the next call begins the next
 * message: not calling is how a caller pauses. n may be 0 only to learn of OPAQUE or FAIL. */
size_t weft_h1_feed(struct weft_h1 *p, const char *in, size_t n, struct weft_h1_event *ev);
/* The peer ended its direction: END of a body until close, FAIL within a message, else MORE. */
void weft_h1_eof(struct weft_h1 *p, struct weft_h1_event *ev);
/* After HEAD of an upgrade or CONNECT request, in place of reading its body: all that follows is
 * opaque. (Responses turn opaque by themselves, on 101 and on 2xx to CONNECT.) */
void weft_h1_tunnel(struct weft_h1 *p);
/* Response side, before its bytes are fed: the request this final response will answer. */
void weft_h1_expect(struct weft_h1 *p, enum weft_h1_asked asked);
bool weft_h1_idle(const struct weft_h1 *p); /* between messages, nothing of the next read */

/* Copies head's block to mem (head->block_len bytes) and moves all slices there; with lower, names
 * become lower-case in the copy. */
void weft_h1_head_move(struct weft_h1_head *head, char *mem, bool lower);

/* ---- writing (h1_write.c) */
enum weft_h1_case {
	WEFT_H1_AS_IS,
	WEFT_H1_PROPER_CASE, /* Envoy's proper_case_words: a letter first or after a special one */
};
struct weft_h1_out {
	struct weft_h1_slice method, target; /* request line if method.n, else a status line */
	struct weft_h1_slice reason;	     /* {NULL, 0}: the usual one of status */
	int status;
	uint8_t minor; /* HTTP/1.x */
	enum weft_h1_case name_case;
	const struct weft_h1_header *v; /* may have pseudo-headers: skipped */
	size_t n;
};
/* Bytes of the head with its empty line. Written to dst only if they fit in cap, so a cap of 0 asks
 * for the size. -EINVAL: a name that is no token, or CR, LF, NUL or another control in a value,
 * reason or target. */
ssize_t weft_h1_head_write(const struct weft_h1_out *o, char *dst, size_t cap);
/* Trailers after the last chunk: "0", the fields, an empty line. As above; v may be empty. */
ssize_t weft_h1_last_chunk_write(const struct weft_h1_header *v, size_t n, enum weft_h1_case c,
				 char *dst, size_t cap);
/* "1f4\r\n" for n > 0 bytes; returns its length. After the bytes comes "\r\n". */
size_t weft_h1_chunk_head(char dst[WEFT_H1_CHUNK_HEAD_MAX], uint64_t n);
const char *weft_h1_reason(int status); /* "Not Found"; "Unknown" */
/* A token; a value without controls but HT. For what configuration or a filter makes. */
bool weft_h1_name_ok(const char *s, size_t n);
bool weft_h1_value_ok(const char *s, size_t n);
