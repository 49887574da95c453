/* Of the files of HTTP/2 sessions. nghttp2's callbacks only note what came, but for heads; what is
 * noted is told between its calls. */
#pragma once
#include "proxy/session/session_priv.h"

TAILQ_HEAD(weft_exchange_work, weft_exchange);
struct weft_session_h2 {
	struct weft_h2 *c;
	struct weft_h2_conf conf;
	struct weft_exchange_work work;		      /* exchanges with something to tell */
	size_t waiting;				      /* bytes of all exchanges' out */
	uint64_t ping_at, pong_by, head_by, grace_at; /* weft_now_ns; 0: off */
	uint64_t armed;				      /* what the timer was set to */
	uint32_t peer_max;			      /* as last seen */
	const char *broken; /* why the connection must end: a message's rule was broken */
	bool room_due : 1;
	bool notice : 1; /* the drain's first GOAWAY went out */
	bool last : 1;	 /* its second */
};

/* ---- h2_head.c */
/* A head as the owner sees it, in x's arena. */
struct weft_headers *weft_h2_request_list(struct weft_exchange *x, const struct weft_h2_headers *h);
struct weft_headers *weft_h2_response_list(struct weft_exchange *x,
					   const struct weft_h2_headers *h);
struct weft_headers *weft_h2_trailer_list(struct weft_exchange *x, const struct weft_h2_headers *h);
/* The other way; *ret_v is in few or x's arena. */
enum { WEFT_H2_FEW = 64 };
size_t weft_h2_request_fields(struct weft_exchange *x, const struct weft_headers *h,
			      struct weft_h2_header few[WEFT_H2_FEW],
			      struct weft_h2_header **ret_v);
size_t weft_h2_response_fields(struct weft_exchange *x, const struct weft_headers *h,
			       struct weft_h2_header few[WEFT_H2_FEW],
			       struct weft_h2_header **ret_v);

/* ---- h2_work.c: what nghttp2 tells, and telling it on */
extern const struct weft_h2_ops weft_session_h2_ops;
void weft_h2_queue(struct weft_exchange *x);
void weft_h2_do_work(struct weft_session *s);
void weft_h2_forget(struct weft_exchange *x); /* the stream goes its own way */
