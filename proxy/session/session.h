/* An HTTP connection, server or client, HTTP/1.1 or HTTP/2, over a weft_io: bytes ↔ exchanges. An
 * exchange is one request with its answer. Knows no routes, no filters, no clusters. One thread.
 * RFC 9110, 9112, 9113. */
#pragma once
#include "proxy/net/io.h"
#include "proxy/session/headers.h"

struct weft_session;
struct weft_exchange;

enum weft_http { WEFT_HTTP_10 = 10, WEFT_HTTP_11 = 11, WEFT_HTTP_2 = 20 };

/* Why an exchange ended before its end. */
enum weft_reset {
	WEFT_RESET_NONE,
	WEFT_RESET_REMOTE,   /* RST_STREAM, or the connection closed by the peer inside the exchange
			      */
	WEFT_RESET_REFUSED,  /* REFUSED_STREAM, or above GOAWAY's last id, or a pooled h1 connection
				that closed before  one byte of the answer: the request was not
				processed */
	WEFT_RESET_LOCAL,    /* by us */
	WEFT_RESET_CONNECT,  /* the connection could not be made */
	WEFT_RESET_PROTOCOL, /* the peer broke the protocol: weft_exchange_detail */
	WEFT_RESET_OVERFLOW, /* no room: circuit breaker */
	WEFT_RESET_TIMEOUT,  /* connect timeout */
};

/* No op is called from inside a call that the owner made on that exchange: done() and reset() come
 * from the loop. An exchange that is paused gets no data() and no trailers(). Upgrades look the
 * same whatever is spoken: the request is h1's (":method" GET, "upgrade: websocket", "connection:
 * upgrade"), and taking it is a 101 with the same two fields; over h2 that is an extended CONNECT
 * (RFC 8441) and a 200. A plain CONNECT is ":method" CONNECT with ":authority" and a 2xx. After
 * either data() and send_data carry opaque bytes, and each direction ends by itself. */
struct weft_exchange_ops {
	/* Server: a request's head. Client: the answer's head (never 1xx). h's arena is the one
	 * given to weft_exchange_open / the session's arena_new; it is the callee's to change. end:
	 * no body, no trailers. */
	void (*headers)(struct weft_exchange *x, struct weft_headers *h, bool end);
	/* Client: 100, 102, 103. Server: never. NULL: dropped. 101 and 2xx to CONNECT come by
	 * headers(). */
	void (*informational)(struct weft_exchange *x, struct weft_headers *h);
	/* Body: take (move or drain) what you want of b; what is left is thrown away. Credit for
	 * flow control is given back unless the exchange is paused. */
	void (*data)(struct weft_exchange *x, struct evbuffer *b, bool end);
	void (*trailers)(struct weft_exchange *x, struct weft_headers *h); /* always the end */
	/* Bytes waiting to be sent went below the low mark after weft_exchange_send_data returned
	 * 0. */
	void (*writable)(struct weft_exchange *x);
	/* Last call when the exchange was cut by anyone but us. Not called after both directions
	 * ended in order, nor after weft_exchange_reset. x is gone after it. */
	void (*reset)(struct weft_exchange *x, enum weft_reset why);
	/* Last call when both directions ended in order; x is gone after it. */
	void (*done)(struct weft_exchange *x);
};
/* weft_exchange_detail of an exchange that the peer cut by a frame of its own */
#define WEFT_DETAIL_REMOTE_RESET   "http2.remote_reset"
#define WEFT_DETAIL_REMOTE_REFUSED "http2.remote_refuse"
struct weft_session_ops {
	/* Server: a request begins. Return the exchange's ops and *ret_user, and the arena for its
	 * headers (which must live until done/reset); NULL: refuse (h2 REFUSED_STREAM; h1 close).
	 * headers() follows at once. */
	const struct weft_exchange_ops *(*begin)(struct weft_session *s, struct weft_exchange *x,
						 void **ret_user, struct weft_arena **ret_arena);
	/* Server: a message that cannot be parsed, before or instead of headers(): the session
	 * answers `status` itself (h1) or resets (h2) with `detail` as response code details; told
	 * for counters and the access log. NULL ok. */
	void (*bad)(struct weft_session *s, int status, const char *detail);
	/* Server, h1: the request of x is broken and nothing was answered yet; told instead of
	 * bad(). x was begun for this where its head could not be read; h: its head as far as it is
	 * one, or NULL (also where headers() told it). Its direction is over; the owner answers on
	 * x, with `body` unless it knows better; the connection ends after that. NULL: the session
	 * answers. */
	void (*broken)(struct weft_session *s, struct weft_exchange *x, struct weft_headers *h,
		       int status, const char *body);
	/* Client: the peer will take no more requests (GOAWAY, Connection: close, EOF while idle).
	 * Exchanges that are open go on. NULL: not wanted. */
	void (*goaway)(struct weft_session *s);
	/* Client: an exchange ended and a new one may be opened (h1: keep-alive; h2: below max
	 * streams again; also when the peer's SETTINGS changed how many). NULL: not wanted. */
	void (*room)(struct weft_session *s);
	/* No exchange is open any more (server: between requests; for idle timers), or one was
	 * opened. NULL: not wanted. */
	void (*idle)(struct weft_session *s, bool idle);
	/* The connection ended; every exchange was told already. The owner must free the session
	 * (here or later). */
	void (*closed)(struct weft_session *s, enum weft_io_end why, int err);
};
struct weft_h1_options {
	uint32_t max_headers;	   /* fields; 0: 100 */
	uint32_t max_header_bytes; /* 0: 60 KiB */
	bool accept_http_10;	   /* server; default_host used where Host is missing */
	const char *default_host;
	bool proper_case;     /* write Names-Like-This */
	bool preserve_case;   /* keep how names were written, for whoever writes the message on */
	bool preserve_reason; /* with it: client: the reason phrase too */
	bool proper_rest;     /* with it: names that did not come with it Like-This */
	bool allow_absolute_url;      /* Envoy: default true */
	bool allow_chunked_length;    /* CL+TE: drop CL instead of refusing; default false */
	bool stream_error_on_invalid; /* server: answer 400 without closing where framing is not in
					 doubt: a bad target or Host, no body */
	bool enable_trailers;	      /* Envoy: trailers of h1 are dropped unless true */
	bool send_fully_qualified_url;
	const char *error_fields; /* server: of the answer to what cannot be read: lines with CRLF;
				     NULL: none */
	bool owner_checks;	  /* server: no Host and OPTIONS * are for the owner to refuse */
	/* server: protocols of Upgrade that are passed over as if they were not asked for. NULL:
	 * none */
	bool (*ignore_upgrade)(const void *ctx, const char *protocol, size_t n);
	const void *ignore_ctx;
};
struct weft_h2_options {
	uint32_t max_streams;		     /* advertised; 0: 2^31-1 as Envoy */
	uint32_t stream_window, conn_window; /* bytes, 64 KiB - 1 .. 2^31-1; 0: 256 MiB as Envoy */
	uint32_t table_size;		     /* HPACK; UINT32_MAX: default 4096 */
	bool allow_connect;
	bool stream_error_on_invalid;
	uint32_t max_headers, max_header_bytes;
	uint32_t ping_interval_ms, ping_timeout_ms; /* connection_keepalive; 0: off */
	uint32_t max_outbound_frames, max_outbound_control_frames; /* 0: 10,000, 1,000 */
};
struct weft_session_conf { /* must outlive the session */
	bool server;
	enum weft_http version; /* of what is spoken; server WEFT_HTTP_10 means: find out by the
				   first bytes (auto: h1 or h2 preface) unless ALPN said */
	struct weft_h1_options h1;
	struct weft_h2_options h2;
	uint32_t headers_ms;   /* server: from the first byte of a request head to its end; 0: none.
				  h1: 408; h2: reset */
	uint32_t buffer_bytes; /* per exchange and direction: high mark; 0: the io's */
	uint32_t delayed_close_ms; /* server: for how long the peer's late bytes are let pass after
				      we closed; 0: 1,000; UINT32_MAX: closed once written */
};
/* Takes io (its ops are replaced). */
struct weft_session *weft_session_new(struct weft_io *io, const struct weft_session_conf *conf,
				      const struct weft_session_ops *ops, void *owner);
void weft_session_free(struct weft_session *s); /* exchanges that are open get reset(LOCAL); from
						   any callback; NULL ok */
void *weft_session_owner(const struct weft_session *s);
struct weft_io *weft_session_io(const struct weft_session *s);
enum weft_http weft_session_version(const struct weft_session *s);
uint32_t weft_session_open_count(const struct weft_session *s);
uint64_t weft_session_total(const struct weft_session *s); /* exchanges ever */
/* Client: how many more exchanges could be opened now. */
uint32_t weft_session_room(const struct weft_session *s);
/* Graceful end. Server h1: `Connection: close` with the next answer; h2: GOAWAY notice, then after
 * grace_ms GOAWAY with the last id. Client: no new exchanges. closed() comes when the last exchange
 * is over. */
void weft_session_drain(struct weft_session *s, unsigned grace_ms);

/* Client: begins an exchange and sends its head. body false: END_STREAM. a: arena for the answer's
 * headers, lives until done/reset. upgrade (":protocol" or "upgrade" header, or CONNECT) is read
 * off the head. -EAGAIN: no room; -EPIPE: going away. */
int weft_exchange_open(struct weft_session *s, const struct weft_exchange_ops *ops, void *user,
		       struct weft_arena *a, const struct weft_headers *h, bool body,
		       struct weft_exchange **ret);
void *weft_exchange_user(const struct weft_exchange *x);
struct weft_session *weft_exchange_session(const struct weft_exchange *x);
const char *weft_exchange_detail(
	const struct weft_exchange *x); /* response code details of a protocol error; "" */
uint64_t weft_exchange_id(const struct weft_exchange *x); /* h2 stream id; h1: counts */
/* Of its request: HTTP/1.0 too on a connection that speaks 1.1. */
enum weft_http weft_exchange_version(const struct weft_exchange *x);
/* Server: the answer's head. end: no body. The session adds framing (chunked, content-length is the
 * caller's header), Connection and Keep-Alive for h1, and drops hop-by-hop fields. 0; -EPIPE: the
 * exchange was cut. */
int weft_exchange_send_headers(struct weft_exchange *x, const struct weft_headers *h, bool end);
int weft_exchange_send_informational(struct weft_exchange *x, const struct weft_headers *h);
/* Moves all of b. 1: go on; 0: over the high mark, writable() will follow; what was given is kept.
 */
int weft_exchange_send_data(struct weft_exchange *x, struct evbuffer *b, bool end);
int weft_exchange_send_trailers(struct weft_exchange *x, const struct weft_headers *h); /* ends */
/* Cuts it: h2 RST_STREAM (code from why), h1: the connection closes. No callback follows; x is
 * gone. */
void weft_exchange_reset(struct weft_exchange *x, enum weft_reset why);
/* Back-pressure on the peer's bytes of this exchange; counted. */
void weft_exchange_pause(struct weft_exchange *x);
void weft_exchange_resume(struct weft_exchange *x);
/* The callbacks change hands. */
void weft_exchange_set_user(struct weft_exchange *x, const struct weft_exchange_ops *ops,
			    void *user);
/* Bytes of this exchange on the wire, heads and all. */
void weft_exchange_bytes(const struct weft_exchange *x, uint64_t *ret_rx, uint64_t *ret_tx);
/* Heads and trailers alone. As Envoy counts them: HTTP/2: HEADERS frames; HTTP/1: received names,
 * values and three bytes a field, sent four, without the first and the empty line. */
void weft_exchange_head_bytes(const struct weft_exchange *x, uint64_t *ret_rx, uint64_t *ret_tx);
