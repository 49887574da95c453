/* Shared by h2*.c: the session, its streams, and what nghttp2 calls. */
#pragma once
#include "proxy/codec/h2.h"
#include <nghttp2/nghttp2.h>
#include <sys/queue.h>
#include <time.h>

/* The allocator of sessions: a session and all its blocks stay on one thread. */
nghttp2_mem *weft_h2_mem(void);

struct weft_h2_count { /* events in the current flood window */
	uint32_t n;
	time_t since;
};

struct weft_h2_stream {
	TAILQ_ENTRY(weft_h2_stream) all;
	struct weft_h2 *h;
	void *user;
	nghttp2_nv *trailers; /* owned; one block with its text */
	size_t n_trailers;
	size_t held;		   /* received and not consumed */
	uint64_t rx, tx;	   /* frames with their heads */
	uint32_t rx_head, tx_head; /* of these HEADERS */
	int32_t id;
	bool announced : 1; /* the owner knows of it */
	bool final : 1;	    /* request or final response headers were seen */
	bool answered : 1;
	bool reset : 1;
	bool too_big : 1;
	bool bad : 1;
	bool peer_reset : 1;
	bool many : 1; /* too_big by the number of fields */
	bool peer_ended : 1;
	bool stop_peer : 1; /* once our answer, which is all, has gone out */
};

/* The header block being received: one at a time a session. nghttp2 keeps the text. */
struct weft_h2_block {
	struct weft_h2_header *v;
	nghttp2_rcbuf **rc; /* two a header */
	size_t n, cap, bytes;
};

struct weft_h2 {
	nghttp2_session *ng;
	const struct weft_h2_ops *ops;
	void *owner;
	struct weft_h2_conf conf;
	TAILQ_HEAD(, weft_h2_stream) streams;
	uint32_t n_streams;
	struct weft_h2_stream *cur; /* whose block is being received */
	bool in_head;
	struct weft_h2_block block;
	const uint8_t *rest; /* nghttp2's, of a frame that did not fit */
	size_t rest_n;
	uint8_t *out; /* during weft_h2_send */
	size_t off, cap;
	struct weft_h2_count noise, rapid;
	uint32_t goaway_code;
	bool late;    /* the peer used a stream that it had ended */
	bool cut_any; /* RST_STREAM or GOAWAY went out */
	bool flood, invalid, dead, settings_seen, goaway_sent, goaway_due;
};

static inline struct weft_h2_stream *weft_h2_stream_of(struct weft_h2 *h, int32_t id)
{
	return nghttp2_session_get_stream_user_data(h->ng, id);
}

static inline void weft_h2_credit(struct weft_h2_count *c, uint32_t n)
{
	c->n -= n < c->n ? n : c->n;
}

struct weft_h2_stream *weft_h2_stream_new(struct weft_h2 *h);
void weft_h2_stream_free(struct weft_h2_stream *s);
/* As weft_h2_respond, without flood credit. */
int weft_h2_answer(struct weft_h2_stream *s, int status, const struct weft_h2_header *extra,
		   size_t n, bool body);
void weft_h2_block_clear(struct weft_h2_block *b);
time_t weft_h2_coarse_now(void);
/* Reading and writing sides' callbacks. */
void weft_h2_recv_hooks(nghttp2_session_callbacks *cb);
void weft_h2_send_hooks(nghttp2_session_callbacks *cb);
ssize_t weft_h2_read_body(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t max,
			  uint32_t *flags, nghttp2_data_source *src, void *user);
