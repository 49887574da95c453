/* Shared by the files of this folder: the session, its exchanges, and what each version of HTTP
 * must do. */
#pragma once
#include "proxy/codec/h1.h"
#include "proxy/codec/h2.h"
#include "proxy/session/session.h"
#include <event2/buffer.h>
#include <event2/event.h>
#include <sys/queue.h>

enum {
	WEFT_SESSION_LINGER_MS = 1000,	    /* default of conf.delayed_close_ms */
	WEFT_SESSION_H1_HEADERS = 100,	    /* default of conf.h1.max_headers */
	WEFT_SESSION_SPARE_EXCHANGES = 256, /* kept by a thread */
	WEFT_SESSION_SMALL = 2048, /* bytes of a body that are copied rather than moved by chunk */
};

struct weft_exchange {
	struct weft_session *s;
	const struct weft_exchange_ops *ops;
	void *user;
	struct weft_arena *arena;
	TAILQ_ENTRY(weft_exchange) link; /* of the session, its graveyard or the thread's spares */
	uint64_t id;
	struct weft_h2_bytes wire;
	const char *detail;
	uint32_t paused;
	bool gone : 1;	   /* its last callback was made, or the owner cut it */
	bool rx_end : 1;   /* the peer's direction ended and was told */
	bool tx_head : 1;  /* our (final) head was sent */
	bool tx_end : 1;   /* the owner ended our direction */
	bool blocked : 1;  /* send_data said 0 */
	bool head : 1;	   /* the request is HEAD */
	bool connect : 1;  /* it is CONNECT */
	bool upgrade : 1;  /* it asks for another protocol */
	bool opaque : 1;   /* bytes that are no longer HTTP, both ways */
	bool finished : 1; /* waits in the session's turn for done() */
	/* h1 */
	bool tx_chunked : 1, tx_until_close : 1, tx_no_body : 1;
	bool req_10 : 1;   /* the request is HTTP/1.0 */
	bool rx_began : 1; /* client: a byte of the answer came */
	bool held : 1;	   /* it holds a pause of the io */
	uint8_t reset_why; /* h2: told when the stream closes */
	int64_t tx_left;   /* of a content-length; -1: not counted */
	/* h2 */
	struct weft_h2_stream *st;
	struct evbuffer *in, *out; /* NULL while empty */
	struct weft_headers *late; /* trailers that wait behind a pause */
	TAILQ_ENTRY(weft_exchange) work;
	uint32_t owed;		/* credit held back */
	const char *upgrade_to; /* client: protocol asked for, to say so in the answer */
	bool queued : 1, in_end : 1, out_end : 1, has_trailers : 1, cut : 1;
	bool marked : 1; /* writable() is due */
};

/* What a version of HTTP does; every call is made with the session held (weft_session_hold). */
struct weft_session_proto {
	void (*begin)(struct weft_session *s);
	void (*readable)(struct weft_session *s);
	void (*writable)(struct weft_session *s);
	void (*turn)(struct weft_session *s);
	void (*timer)(struct weft_session *s);
	void (*lost)(struct weft_session *s); /* the io is dead: open exchanges may be told why */
	void (*closing)(struct weft_session *s); /* last words before closed() or free */
	void (*left)(struct weft_exchange *x);	 /* x was buried: forget it */
	void (*free)(struct weft_session *s);
	void (*drain)(struct weft_session *s, unsigned grace_ms);
	uint32_t (*room)(const struct weft_session *s);
	/* weft_exchange_*, of an exchange that is not gone. */
	int (*open)(struct weft_exchange *x, const struct weft_headers *h, bool body);
	int (*send_headers)(struct weft_exchange *x, const struct weft_headers *h, bool end);
	int (*send_informational)(struct weft_exchange *x, const struct weft_headers *h);
	int (*send_data)(struct weft_exchange *x, struct evbuffer *b, bool end);
	int (*send_trailers)(struct weft_exchange *x, const struct weft_headers *h);
	void (*reset)(struct weft_exchange *x, enum weft_reset why);
	void (*pause)(struct weft_exchange *x);
	void (*resume)(struct weft_exchange *x);
};
extern const struct weft_session_proto weft_session_h1_server, weft_session_h1_client,
	weft_session_h2;

struct weft_session_h1 {
	struct weft_h1 p;
	struct weft_h1_conf conf;
	struct weft_exchange *x; /* the one there is */
	uint32_t grace_ms;	 /* how long a drained connection may wait for one more request */
	bool reuse : 1;		 /* the connection goes on after it */
	bool held : 1;		 /* paused because requests wait behind it */
	bool room_due : 1;	 /* room() is, in the turn */
	bool stale : 1;		 /* the next exchange is on a used connection */
};
struct weft_session_h2;

TAILQ_HEAD(weft_exchanges, weft_exchange);
struct weft_session {
	struct weft_io *io;
	const struct weft_session_conf *conf;
	unsigned grace_ms; /* of drain, told before the version was known */
	const struct weft_session_ops *ops;
	void *owner;
	const struct weft_session_proto *proto; /* NULL: not known yet */
	struct weft_exchanges open, grave;
	struct event *timer; /* made when first needed */
	uint64_t total;
	uint32_t n_open, depth, linger_ms;
	uint8_t version;
	uint8_t end; /* enum weft_io_end that closing tells */
	int16_t err;
	bool freeing : 1;   /* by its owner */
	bool freed : 1;	    /* io and exchanges are gone; the rest follows when depth is 0 */
	bool closing : 1;   /* closed() follows in the turn */
	bool told : 1;	    /* closed() was called */
	bool orderly : 1;   /* what is written must still go out */
	bool draining : 1;  /* no request beyond those that are open */
	bool went_away : 1; /* goaway() was called */
	bool idle : 1;	    /* as last told */
	bool looping : 1;   /* ends of exchanges are looked for without a kick */
	union {
		struct weft_session_h1 h1;
		struct weft_session_h2 *h2;
	};
};

/* ---- session.c */
static inline void weft_session_hold(struct weft_session *s)
{
	s->depth++;
}
void weft_session_release(struct weft_session *s); /* s may be gone after it */
/* Nothing more is to be read or written for it. */
static inline bool weft_session_over(const struct weft_session *s)
{
	return s->freed || s->told || s->closing;
}
void weft_session_start(struct weft_session *s, const struct weft_session_proto *proto);
void weft_session_timer(struct weft_session *s, unsigned ms); /* 0: off */
/* closed() in the next turn, once for all; exchanges that are open get reset(REMOTE) before. */
void weft_session_close(struct weft_session *s, enum weft_io_end why, int err, bool orderly);
void weft_session_goaway(struct weft_session *s);
void weft_session_bad(struct weft_session *s, int status, const char *detail);

/* ---- exchange.c */
struct weft_exchange *weft_exchange_new(struct weft_session *s);
/* It leaves the session and dies when nobody is inside the session any more. */
void weft_exchange_bury(struct weft_exchange *x);
void weft_exchange_recycle(struct weft_exchange *x);
void weft_exchange_tell_reset(struct weft_exchange *x, enum weft_reset why); /* buries */
void weft_exchange_tell_done(struct weft_exchange *x);			     /* buries */
/* Both directions ended: done() in the next turn. */
void weft_exchange_finish(struct weft_exchange *x);
struct weft_h1_event *weft_session_h1_event(void); /* the thread's */
struct evbuffer *weft_session_buffer(void);	   /* an empty one of the thread's */
void weft_session_buffer_give(struct evbuffer *b); /* what is left in it is thrown away */

/* ---- h1_head.c */
/* Messages as the owner sees them, in x's arena. */
struct weft_headers *weft_h1_request_headers(struct weft_exchange *x, struct weft_h1_head *head);
struct weft_headers *weft_h1_response_headers(struct weft_exchange *x, struct weft_h1_head *head);
/* Connection names no field that must travel. */
bool weft_h1_connection_ok(const struct weft_h1_head *head);
extern const char WEFT_H1_BAD_CONNECTION[]; /* the detail then */
struct weft_headers *weft_h1_trailer_headers(struct weft_exchange *x, struct weft_h1_head *head);

/* ---- h1_out.c */
int weft_h1_send_request(struct weft_exchange *x, const struct weft_headers *h, bool body);
int weft_h1_send_response(struct weft_exchange *x, const struct weft_headers *h, bool end);
int weft_h1_send_interim(struct weft_exchange *x, const struct weft_headers *h);
int weft_h1_send_body(struct weft_exchange *x, struct evbuffer *b, bool end);
int weft_h1_send_last(struct weft_exchange *x, const struct weft_headers *trailers);
void weft_h1_send_error(struct weft_session *s, int status, const char *body, bool keep);
