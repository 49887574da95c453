/* A stream of a tunnel joined to a TCP socket of this node. Bytes from the peer go from the
 * decrypted buffer to the socket in one writev a turn, bytes to the peer are read straight into the
 * frame. Half-close and abort pass both ways: EOF = END_STREAM, RST = RST_STREAM(CANCEL). Embedded
 * in its owner. Worker thread. */
#pragma once
#include "proxy/codec/h2.h"
#include "proxy/node/node.h"
#include <event2/event_struct.h>
#include <sys/queue.h>
#include <sys/uio.h>

struct evbuffer;
struct weft_link;
struct weft_tunnel;

enum { WEFT_LINK_IOV = 16 };

struct weft_link_ops { /* either may free the link, after weft_link_done */
	/* Client: the answer to CONNECT. why: the peer's x-weft-reason or "". Only 200 lets bytes
	 * flow (weft_link_join). */
	void (*answer)(struct weft_link *k, int status, const char *why);
	/* Over: OK, CLIENT_RESET or SERVER_RESET (which of the two ends did it), TUNNEL_LOST and
	 * the like. retry: nothing was answered and the request can be sent again elsewhere. */
	void (*ended)(struct weft_link *k, enum weft_reason r, const char *detail, bool retry);
};
struct weft_link {
	TAILQ_ENTRY(weft_link) on; /* of the tunnel */
	TAILQ_ENTRY(weft_link) todo;
	struct weft_tunnel *t; /* NULL: the stream is over */
	struct weft_h2_stream *s;
	const struct weft_link_ops *ops;
	struct weft_wstate *ws;
	struct weft_flow *flow; /* bytes are counted here */
	int fd;			/* -1: not joined yet */
	struct event rd, wr;
	struct evbuffer *held; /* from the peer, for the socket; NULL when empty */
	struct iovec *iov; /* gathered in this turn, points into the tunnel's buffer; NULL: none */
	unsigned n_iov;
	uint32_t window, window_seen; /* stream window now; bytes consumed since window_ns */
	uint64_t window_ns;
	uint32_t code; /* RST_STREAM code, once gone */
	int status;
	char why[32];
	bool client : 1, queued : 1, joined : 1;
	bool got_answer : 1, got_end : 1, gone : 1, lost : 1; /* seen from the peer, for step */
	bool told_answer : 1, shut : 1; /* done towards the owner, the socket */
	bool app_eof : 1, app_gone : 1,
		sent_end : 1; /* seen from the socket, done towards the peer */
	bool readable : 1, pulled : 1, rd_on : 1, wr_on : 1;
};

/* Client: opens the stream. -EAGAIN: no room any more. The link is the owner's until ended(). */
int weft_link_open(struct weft_link *k, struct weft_wstate *ws, struct weft_tunnel *t,
		   const struct weft_h2_header *v, size_t n);
/* Server: takes the request's stream. */
void weft_link_accept(struct weft_link *k, struct weft_wstate *ws, struct weft_tunnel *t,
		      struct weft_h2_stream *s);
/* Server: status without a body; the link, if any, ends. why: a reason code for x-weft-reason. */
void weft_link_refuse(struct weft_tunnel *t, struct weft_h2_stream *s, int status, const char *why);
/* Bytes flow between stream and fd from now on. Server: sends the 200 first. fd stays the owner's
 * to close after ended(). */
int weft_link_join(struct weft_link *k, int fd);
/* Leaves the tunnel and the loop without ended(); a live stream is reset with code. */
void weft_link_done(struct weft_link *k, uint32_t code);

/* ---- called by tunnel.c */
void weft_link_on_answer(struct weft_link *k, const struct weft_h2_headers *h, bool end);
void weft_link_on_data(struct weft_link *k, const uint8_t *p, size_t n);
void weft_link_on_end(struct weft_link *k);
void weft_link_on_closed(struct weft_link *k, uint32_t code, bool lost);
ssize_t weft_link_pull(struct weft_link *k, uint8_t *dst, size_t max, bool *ret_end);
void weft_link_step(struct weft_link *k); /* may free k */
