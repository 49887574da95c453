/* A request with its answer, between stream*.c. */
#pragma once
#include "proxy/http/hcm_priv.h"

/* What a filter that said WAIT keeps of a direction. */
struct hold {
	struct evbuffer *b; /* bytes held here */
	size_t seen;	    /* of which this filter was given so many, first ones */
	bool waiting;
	bool headers;  /* wait here too */
	bool end;      /* the direction ends after b */
	bool end_told; /* and this filter knows */
	bool trailers; /* come after b */
	bool trailers_told;
	bool paused; /* the source was told to stop */
};
struct slot { /* a filter of this stream */
	const void *conf;
	struct hold *hold[WEFT_DIRS];
	uint8_t early; /* by direction: resumed before it said WAIT */
	bool off;
};
struct weft_stream {
	TAILQ_ENTRY(weft_stream) link;
	struct hcm_conn *c;
	struct weft_exchange *x; /* NULL: gone */
	struct weft_arena *arena;
	const struct http_chain *chain; /* NULL: not chosen yet */
	struct slot *slot;
	char *state;
	struct weft_headers *head[WEFT_DIRS], *trailers[WEFT_DIRS];
	const struct weft_routes *routes;
	struct weft_routes_hold *routes_hold; /* NULL: they live as long as the listener */
	const struct weft_route *route;
	const struct weft_weighted *weighted;
	uint64_t random, now;
	struct evbuffer *spare; /* an empty one, for bytes that move on */
	size_t limit[WEFT_DIRS];
	int16_t limit_by[WEFT_DIRS];
	int16_t cur[WEFT_DIRS]; /* filter whose callback runs; -1 */
	int16_t reached;	/* filters 0..reached know of this stream; -1: none */
	uint16_t epoch[WEFT_DIRS];
	uint16_t holds[WEFT_DIRS];
	uint16_t paused[WEFT_DIRS];
	uint16_t depth; /* calls inside: it is freed when they are over */
	bool routed : 1, tls_redirect : 1, random_set : 1, grpc : 1, is_head : 1;
	bool is_connect : 1, is_upgrade : 1, tunnel : 1, counted_upgrade : 1;
	bool head_end : 1;  /* request: no body */
	bool rx_end : 1;    /* the request is complete, as received */
	bool answering : 1; /* response headers were begun */
	bool local : 1;	    /* by us: what the terminal filter says is ignored */
	bool resp_end : 1;  /* the response's end is known to the chain */
	bool resp_head_end : 1;
	bool tx_head : 1, tx_end : 1, over : 1, gone : 1, full : 1, told_full : 1;
	bool log_due : 1; /* once all of the answer is framed */
	bool limit_fill[WEFT_DIRS];
	struct weft_timer idle, life, request, log_timer;
	uint64_t idle_ms;
	void (*writable)(void *ctx, bool full);
	void *writable_ctx;
	const char *upgrade; /* protocol asked for; "CONNECT" */
	struct weft_info info;
};

/* stream.c */
extern const struct weft_exchange_ops weft_stream_ops;
struct weft_stream *weft_stream_new(struct hcm_conn *c, struct weft_exchange *x);
static inline void stream_enter(struct weft_stream *s)
{
	s->depth++;
}
void weft_stream_leave(struct weft_stream *s); /* s may be gone after it */
/* The answer is complete or cut: logs, filters' closed(), counters. Once. */
void weft_stream_complete(struct weft_stream *s);
void weft_stream_touch(struct weft_stream *s); /* something moved */
void weft_stream_log(struct weft_stream *s, const char *type);
void weft_stream_times(struct weft_stream *s);		 /* timers, once the route is known */
void weft_stream_start(struct weft_stream *s, bool end); /* chooses the chain and runs it */
void weft_stream_choose_chain(struct weft_stream *s, const struct http_chain *ch);
void weft_stream_reset_chain(struct weft_stream *s); /* ends its filters */

/* stream_run.c: through the filters of a direction, from position i on. */
void weft_stream_run_headers(struct weft_stream *s, enum weft_dir d, int i);
void weft_stream_run_data(struct weft_stream *s, enum weft_dir d, int i, struct evbuffer *b,
			  bool end);
void weft_stream_run_trailers(struct weft_stream *s, enum weft_dir d, int i);
void weft_stream_drop_holds(struct weft_stream *s, enum weft_dir d);
static inline int stream_first(const struct weft_stream *s, enum weft_dir d)
{
	/* the terminal filter answers: it is not asked about its own answer */
	return d == WEFT_REQUEST ? 0 : (int)s->chain->n - 2;
}
static inline bool stream_dead(const struct weft_stream *s, enum weft_dir d, uint16_t epoch)
{
	return s->over || s->epoch[d] != epoch;
}

/* stream_out.c: to the client, after the filters. */
void weft_stream_send_headers(struct weft_stream *s);
void weft_stream_send_data(struct weft_stream *s, struct evbuffer *b, bool end);
void weft_stream_send_trailers(struct weft_stream *s);
void weft_stream_tell_full(struct weft_stream *s);
/* Back-pressure on the source of a direction; counted. */
void weft_stream_pause_dir(struct weft_stream *s, enum weft_dir d);
void weft_stream_unpause_dir(struct weft_stream *s, enum weft_dir d);
