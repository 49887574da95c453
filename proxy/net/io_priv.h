/* The inside of a weft_io, shared by io*.c. A socket is a kind like any other; what kinds tell and
 * what owners ask is only noted, and done once a turn by the loop's own event. */
#pragma once
#include "proxy/net/io.h"
#include "proxy/net/race.h"
#include <event2/event.h>
#include <event2/event_struct.h>

struct weft_tls_sess;
struct weft_splice;
struct weft_race;

/* Of one thread and event base; lives while an io of it does. */
struct weft_io_loop {
	LIST_ENTRY(weft_io_loop) next;
	struct event_base *base;
	struct event turn;
	TAILQ_HEAD(weft_io_list, weft_io) work, writes; /* writes go after all other work */
	LIST_HEAD(, weft_io) closing;			/* nobody's any more; end with the thread */
	unsigned refs;
	bool armed, running;
};

enum { /* weft_io.todo */
       WEFT_IO_T_READY = 1,
       WEFT_IO_T_READ = 2,
       WEFT_IO_T_FLUSH = 4,
       WEFT_IO_T_MARKS = 8,
       WEFT_IO_T_CLOSED = 16,
       WEFT_IO_T_KICK = 32,
};
enum { WEFT_IO_HIGH = 1 << 20, WEFT_IO_CLOSE_MAX_MS = 60000 };

struct weft_io {
	const struct weft_io_ops *ops;
	void *owner;
	const struct weft_io_kind *kind;
	struct weft_io_loop *loop;
	struct evbuffer *in, *out; /* NULL while empty and nobody looked */
	struct evbuffer_cb_entry *in_cb;
	TAILQ_ENTRY(weft_io) link;
	LIST_ENTRY(weft_io) close_link; /* while closing */
	size_t high;
	struct weft_io_stat stat;
	struct weft_io_info info;
	struct weft_arena *arena;
	struct event *timer;
	void (*on_timer)(struct weft_io *io);
	char *detail;
	int err;
	uint16_t busy, pauses;
	uint8_t end, todo;
	bool queued : 1, q_writes : 1, sock : 1;
	bool ready : 1, eof : 1, dead : 1, freed : 1;
	bool reading : 1; /* what the kind was told */
	bool stuffed : 1, was_full : 1, want_drained : 1;
	bool fin_asked : 1, fin_done : 1;
	bool closing : 1, linger : 1; /* close_after_flush */
	bool info_filled : 1;
};

/* ---- io.c */
bool weft_io_hold(struct weft_io *io);	  /* before a call out */
bool weft_io_release(struct weft_io *io); /* after it: false: io is gone, touch nothing */
void weft_io_todo(struct weft_io *io, unsigned what);
/* After bytes came or eof was set, from an event of the kind: calls readable. io must be held. */
void weft_io_deliver(struct weft_io *io);
void weft_io_deliver_ready(struct weft_io *io); /* io must be held */
void weft_io_marks(struct weft_io *io);		/* out shrank: writable, drained, shutdown; held */
void weft_io_reading(struct weft_io *io);	/* tells the kind when whether to read changed */
/* One timer an io; ms 0: off. */
void weft_io_timer(struct weft_io *io, unsigned ms, void (*fn)(struct weft_io *io));
void weft_io_set_detail(struct weft_io *io, const char *text);
size_t weft_io_out_len(const struct weft_io *io);

/* ---- io_loop.c */
/* The base's; on_turn: its own event, made active when there is work. */
struct weft_io_loop *weft_io_loop_get(struct event_base *base, event_callback_fn on_turn);
void weft_io_loop_put(struct weft_io_loop *l);
struct evbuffer *weft_evbuffer_take(void); /* of the thread's spares: an idle io has none */
void weft_evbuffer_give(struct evbuffer *b);
bool weft_io_thread_watch(void); /* true: what the thread keeps ends with it */

/* ---- io_sock.c */
enum weft_sock_state { WEFT_SOCK_CONNECT, WEFT_SOCK_HANDSHAKE, WEFT_SOCK_OPEN };
enum weft_sock_wr { WEFT_WR_OFF, WEFT_WR_WAIT, WEFT_WR_WATCH };
struct weft_sock {
	struct event rd;
	struct event *wr; /* made when first needed */
	struct weft_tls_sess *tls;
	struct weft_splice *splice;
	struct weft_race *race; /* connects; there is no fd yet */
	unsigned handshake_ms;
	int fd;
	int werr; /* writing failed with this; what the peer had sent before is still read */
	uint8_t state, wr_mode, grow;
	bool rd_on;
};
static inline struct weft_sock *weft_sock_of(const struct weft_io *io)
{
	return weft_io_state(io);
}
struct weft_io *weft_sock_make(struct event_base *base, int fd, const struct weft_io_tls *tls,
			       bool server, const struct weft_io_ops *ops, void *owner);
void weft_sock_await(struct weft_io *io, unsigned ms); /* that connect(2) is done */
void weft_sock_quiet(struct weft_io *io);	       /* no event of it fires any more */
/* Of a race: the socket that connected to `to`, or why the last one did not. */
void weft_sock_won(struct weft_io *io, int fd, const struct weft_sockaddr *to);
void weft_sock_lost(struct weft_io *io, int err);

/* ---- io_dial.c: options and the binding of a socket that will be connected */
int weft_dial_socket(int fd, const struct weft_dial *d, int family);

/* ---- io_race.c */
/* Begun; NULL: *ret_err < 0. Tells nothing before weft_race_run and the loop. */
struct weft_race *weft_race_new(struct event_base *base, const struct weft_race_want *want,
				int *ret_err);
void weft_race_run(struct weft_race *r, struct weft_io *io);
void weft_race_free(struct weft_race *r); /* NULL ok; those that connect are closed */

/* ---- io_tls.c; results as those of read(2), -errno; -EPROTO: the io's detail says why */
struct weft_tls_sess *weft_tls_sess_new(struct weft_io *io, const struct weft_io_tls *conf,
					bool server);
void weft_tls_sess_free(struct weft_tls_sess *t, bool notify);
void weft_tls_sess_raw(struct weft_tls_sess *t, const void *p, size_t n); /* goes out as it is */
/* Bytes read ahead; false: there were none. */
bool weft_tls_sess_feed(struct weft_tls_sess *t, struct evbuffer *b);
/* 1 done, 0 goes on, < 0. Early plaintext is put into the io's in. */
int weft_tls_sess_handshake(struct weft_tls_sess *t);
ssize_t weft_tls_sess_read(struct weft_tls_sess *t);
/* 0: all of out is with the kernel; -EAGAIN: the socket is full. */
int weft_tls_sess_write(struct weft_tls_sess *t, uint64_t *ret_tx);
int weft_tls_sess_shutdown(struct weft_tls_sess *t);
enum weft_tls_fault weft_tls_sess_fault(const struct weft_tls_sess *t);
bool weft_tls_sess_pending(const struct weft_tls_sess *t);
const struct weft_tls_info *weft_tls_sess_info(struct weft_tls_sess *t);
const char *weft_tls_sess_alpn(struct weft_tls_sess *t);
const char *weft_tls_sess_sni(struct weft_tls_sess *t);
const char *weft_tls_sess_pem(struct weft_tls_sess *t);
const char *weft_tls_sess_chain_pem(struct weft_tls_sess *t);

/* ---- io_splice.c */
void weft_splice_cancel(struct weft_splice *s); /* without done(); NULL ok */
void weft_pipes_done(void);			/* the thread's spares */
