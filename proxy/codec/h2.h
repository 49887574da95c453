/* HTTP/2 session, sans-I/O: bytes in, bytes out, over nghttp2. RFC 9113. One thread. The only clock
 * is a coarse one that forgives old flood counts. Used for gRPC (xDS) and HBONE tunnels. Every
 * limit is in weft_h2_conf. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct weft_h2;
struct weft_h2_stream;

/* RFC 9113 §7 */
enum weft_h2_code {
	WEFT_H2_NO_ERROR = 0,
	WEFT_H2_PROTOCOL_ERROR = 1,
	WEFT_H2_INTERNAL_ERROR = 2,
	WEFT_H2_FLOW_CONTROL_ERROR = 3,
	WEFT_H2_SETTINGS_TIMEOUT = 4,
	WEFT_H2_STREAM_CLOSED = 5,
	WEFT_H2_FRAME_SIZE_ERROR = 6,
	WEFT_H2_REFUSED_STREAM = 7,
	WEFT_H2_CANCEL = 8,
	WEFT_H2_COMPRESSION_ERROR = 9,
	WEFT_H2_CONNECT_ERROR = 10,
	WEFT_H2_ENHANCE_YOUR_CALM = 11,
	WEFT_H2_INADEQUATE_SECURITY = 12,
	WEFT_H2_HTTP_1_1_REQUIRED = 13,
};

/* Limits that no configuration changes. NOISE and RAPID are counts in FLOOD_WINDOW_S. */
enum {
	WEFT_H2_HEADERS_MAX = 100,	     /* default, fields of one block received */
	WEFT_H2_HEADERS_OUT_MAX = 1024,	     /* fields we send in one block */
	WEFT_H2_SEND_BLOCK_MAX = 1 << 20,    /* bytes of one, before HPACK */
	WEFT_H2_STREAM_WINDOW_MAX = 4 << 20, /* default of conf.stream_window_max */
	WEFT_H2_FLOOD_WINDOW_S = 10,
	WEFT_H2_NOISE_MAX = 10000,     /* PING, SETTINGS, PRIORITY, empty DATA, surplus credit */
	WEFT_H2_RAPID_MAX = 10000,     /* streams that failed before they were answered */
	WEFT_H2_ACKS_MAX = 1000,       /* PING and SETTINGS answers waiting to be sent */
	WEFT_H2_SETTINGS_MAX = 32,     /* entries of one SETTINGS */
	WEFT_H2_CONTINUATIONS_MAX = 8, /* of one header block, and one for each 16 KiB of
					  conf.max_header_list */
};

struct weft_h2_header {
	const char *name, *value; /* NUL-terminated as well; valid during the call */
	size_t name_len, value_len;
};
struct weft_h2_headers {
	const struct weft_h2_header *v;
	size_t n;
};
const char *weft_h2_headers_get(const struct weft_h2_headers *h,
				const char *name); /* first value or NULL */

struct weft_h2_conf {
	bool server;
	uint32_t max_streams;	/* of the peer's, at a time (server); 0: 100 */
	uint32_t stream_window; /* bytes, initial, to 2^31-1; 0: 256 KiB */
	uint32_t conn_window;	/* bytes, to 2^31-1; 0: 16 MiB. Credit is returned on receipt, or
				   as conn_credit_on_consume says. */
	/* weft_h2_grow_window goes so far; 0: 4 MiB, or stream_window */
	uint32_t stream_window_max;
	uint32_t max_frame;	  /* accepted; 0: 1 MiB */
	uint32_t max_header_list; /* bytes accepted; 0: 16 KiB; beyond: the stream is refused */
	uint32_t max_headers;	  /* fields of a block accepted; 0: 100 */
	uint32_t max_control;	  /* PING and SETTINGS answers waiting; 0: WEFT_H2_ACKS_MAX */
	bool set_table_size;	  /* HPACK: table_size instead of 4096, both ways */
	uint32_t table_size;
	bool connect_protocol;	 /* server: takes extended CONNECT (RFC 8441) */
	uint32_t max_send_frame; /* DATA payload sent, bytes; 0: 16375, so that frame + header fill
				    one TLS record */
	bool conn_credit_on_consume; /* connection credit too goes back by weft_h2_consume, so that
					one limit holds for all streams together */
	bool invalid_ends_conn; /* invalid HTTP messaging is an error of the connection, as without
				   Envoy's override_stream_error_on_invalid_http_message; else of
				   its stream */
	bool keep_headers;	/* names (lower-case) and values given to be sent stay until
				   closed(): they are not copied */
};

enum weft_h2_bad {
	WEFT_H2_BAD_FIELD,     /* a name or value that may not be */
	WEFT_H2_BAD_MESSAGE,   /* pseudo-headers, content-length, order */
	WEFT_H2_BAD_TOO_LARGE, /* block */
	WEFT_H2_BAD_TOO_MANY,  /* fields */
};
struct weft_h2_ops {
	/* Request (server) or final response (client) headers. end: no body follows. */
	void (*headers)(struct weft_h2_stream *s, const struct weft_h2_headers *h, bool end);
	/* Client: a 1xx; NULL: skipped. */
	void (*informational)(struct weft_h2_stream *s, const struct weft_h2_headers *h);
	/* Body bytes, valid during the call. Stream credit goes back by weft_h2_consume. */
	void (*data)(struct weft_h2_stream *s, const uint8_t *p, size_t n);
	void (*trailers)(struct weft_h2_stream *s,
			 const struct weft_h2_headers *h); /* may be NULL */
	void (*end)(struct weft_h2_stream
			    *s); /* the peer ended its direction; not after headers(end) */
	/* Last call for s in any case; code is the RST_STREAM code or 0. s is freed after it. Also
	 * called from weft_h2_free (CANCEL). A server's stream that was refused before headers() is
	 * never told of. */
	void (*closed)(struct weft_h2_stream *s, uint32_t code);
	/* Writes up to max body bytes into dst. > 0: bytes; 0 with *ret_end false: nothing now
	 * (weft_h2_resume later); *ret_end true: these are the last. < 0: the stream is reset
	 * INTERNAL_ERROR. Called only within weft_h2_send. Must not call weft_h2_resume for its own
	 * stream. */
	ssize_t (*pull)(struct weft_h2_stream *s, uint8_t *dst, size_t max, bool *ret_end);
	/* The peer broke a rule with s: it will be (server, too many or too long fields: answered
	 * 431 and) reset. A request of which headers() was not told has no user. May be NULL. */
	void (*bad)(struct weft_h2 *h, struct weft_h2_stream *s, enum weft_h2_bad what);
	void (*settings)(struct weft_h2 *h); /* the peer's first SETTINGS; may be NULL */
	void (*goaway)(struct weft_h2 *h, uint32_t code, int32_t last_stream); /* may be NULL */
	void (*pong)(struct weft_h2 *h);				       /* may be NULL */
	/* As pong, with what weft_h2_ping_opaque sent. May be NULL. */
	void (*ping_ack)(struct weft_h2 *h, const uint8_t opaque[8]);
};

/* Queues SETTINGS (and the client preface). ops must outlive it. */
struct weft_h2 *weft_h2_new(const struct weft_h2_conf *conf, const struct weft_h2_ops *ops,
			    void *owner);
void weft_h2_free(struct weft_h2 *h); /* not from a callback */
void *weft_h2_owner(const struct weft_h2 *h);
void *weft_h2_stream_user(const struct weft_h2_stream *s);
void weft_h2_stream_set_user(struct weft_h2_stream *s,
			     void *user); /* server: NULL until set in headers() */
struct weft_h2 *weft_h2_stream_session(const struct weft_h2_stream *s);
int32_t weft_h2_stream_id(const struct weft_h2_stream *s);

/* Feeds n bytes, all of them. 0, or -EPROTO: send what weft_h2_send gives (GOAWAY), then close.
 * Calls ops. Floods (RST, SETTINGS, PING, empty frames: CVE-2019-9511..9518, CVE-2023-44487) end in
 * -EPROTO. */
int weft_h2_recv(struct weft_h2 *h, const uint8_t *p, size_t n);
/* Writes pending frames to dst, at most cap (>= 16 KiB + 9); returns bytes, 0: nothing to send now;
 * -EPROTO. Body bytes come by ops->pull straight into dst: no copy between. */
ssize_t weft_h2_send(struct weft_h2 *h, uint8_t *dst, size_t cap);
bool weft_h2_want_send(const struct weft_h2 *h);
bool weft_h2_done(const struct weft_h2 *h); /* nothing more to send or receive (after GOAWAY) */

/* Client: opens a stream. body: ops->pull is asked for bytes. NULL: no more stream ids, GOAWAY
 * seen, or peer's MAX_CONCURRENT_STREAMS reached. */
struct weft_h2_stream *weft_h2_request(struct weft_h2 *h, const struct weft_h2_header *v, size_t n,
				       bool body, void *user);
/* Server: answers once; body as above; without it END_STREAM goes with the headers and a peer still
 * sending is stopped by RST_STREAM(NO_ERROR). -EINVAL after the stream was reset or answered;
 * -E2BIG: too many headers. */
int weft_h2_respond(struct weft_h2_stream *s, int status, const struct weft_h2_header *extra,
		    size_t n, bool body);
/* The head as it stands, ":status" first. Server: 1xx any number of times before the answer. */
int weft_h2_send_head(struct weft_h2_stream *s, const struct weft_h2_header *v, size_t n,
		      bool body);
int weft_h2_send_interim(struct weft_h2_stream *s, const struct weft_h2_header *v, size_t n);
/* Server: once our direction has ended, a peer that is still sending is stopped by
 * RST_STREAM(NO_ERROR). */
void weft_h2_stop_peer(struct weft_h2_stream *s);
bool weft_h2_peer_reset(const struct weft_h2_stream *s); /* it came as RST_STREAM, or GOAWAY */
struct weft_h2_bytes {
	uint64_t rx, tx;	   /* frames with their heads */
	uint32_t rx_head, tx_head; /* of these HEADERS */
};
void weft_h2_stream_bytes(const struct weft_h2_stream *s, struct weft_h2_bytes *ret);
bool weft_h2_in_head(const struct weft_h2 *h);	/* a header block was begun but not ended */
size_t weft_h2_queued(const struct weft_h2 *h); /* frames waiting to be sent */
/* Trailers to send once pull says end, of a request or a response. Call before that pull returns.
 */
int weft_h2_trailers(struct weft_h2_stream *s, const struct weft_h2_header *v, size_t n);
void weft_h2_resume(struct weft_h2_stream *s);		  /* pull has bytes again */
void weft_h2_consume(struct weft_h2_stream *s, size_t n); /* returns stream credit */
void weft_h2_grow_window(struct weft_h2_stream *s,
			 uint32_t bytes); /* raises the stream's receive window, to at most
					   conf.stream_window_max */
/* Bytes that may be sent on s now, as the peer's windows of stream and connection go. */
size_t weft_h2_send_window(const struct weft_h2_stream *s);
/* Receive window of s as it stands (a size), and what of it is received and not consumed. */
size_t weft_h2_stream_window(const struct weft_h2_stream *s);
size_t weft_h2_stream_held(const struct weft_h2_stream *s);
void weft_h2_reset(struct weft_h2_stream *s,
		   uint32_t code); /* RST_STREAM; only closed() follows, from a later send/recv */
void weft_h2_shutdown_notice(struct weft_h2 *h); /* server: graceful GOAWAY, step one */
void weft_h2_goaway(struct weft_h2 *h,
		    uint32_t code); /* final GOAWAY; streams at or below last id go on */
void weft_h2_ping(struct weft_h2 *h);
void weft_h2_ping_opaque(struct weft_h2 *h, const uint8_t opaque[8]);
uint32_t weft_h2_streams(const struct weft_h2 *h);		/* open now */
uint32_t weft_h2_peer_max_streams(const struct weft_h2 *h);	/* 100 until its SETTINGS came */
uint32_t weft_h2_peer_max_header_list(const struct weft_h2 *h); /* UINT32_MAX: it said none */
/* Client: the peer takes extended CONNECT. */
bool weft_h2_peer_connect_protocol(const struct weft_h2 *h);
