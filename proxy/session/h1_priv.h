/* Of the two sides of HTTP/1. */
#pragma once
#include "proxy/session/session_priv.h"

/* What differs: called with the session held. */
struct weft_h1_side {
	/* ev's slices stand in the io's `in`, whose first `used` bytes are to be drained. */
	void (*head)(struct weft_session *s, struct weft_h1_event *ev, size_t used);
	/* True: answered, and the next message may follow. */
	bool (*fail)(struct weft_session *s, enum weft_h1_error e);
	void (*end)(struct weft_session *s);  /* the exchange is over */
	bool (*idle)(struct weft_session *s); /* before bytes are read without an exchange */
};
void weft_h1_read(struct weft_session *s, const struct weft_h1_side *side);

/* Members of struct weft_session_proto that both have. */
void weft_h1_begin(struct weft_session *s);
void weft_h1_free(struct weft_session *s);
void weft_h1_lost(struct weft_session *s);
void weft_h1_left(struct weft_exchange *x);
void weft_h1_pause(struct weft_exchange *x);
void weft_h1_resume(struct weft_exchange *x);
void weft_h1_writable(struct weft_session *s);
int weft_h1_proto_send_headers(struct weft_exchange *x, const struct weft_headers *h, bool end);
int weft_h1_proto_send_data(struct weft_exchange *x, struct evbuffer *b, bool end);
int weft_h1_proto_send_trailers(struct weft_exchange *x, const struct weft_headers *h);
