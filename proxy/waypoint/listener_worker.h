/* Listeners of a worker, between its parts. Worker thread. */
#pragma once
#include "proxy/waypoint/listener.h"

#include "proxy/core/timer.h"
#include <sys/queue.h>

struct wconf { /* one configuration of a listener, and what runs by it */
	TAILQ_ENTRY(wconf) link;
	struct wlisteners *ws;
	struct lconf *l;
	TAILQ_HEAD(, wconn) conns;
	TAILQ_HEAD(, wpre) pres;
	size_t n;
	bool old;      /* replaced or removed: goes when its last connection does */
	bool leaving;  /* its connections are drained, and closed when time is up */
	bool draining; /* connections that begin from now on are told at once */
	struct weft_timer drain;
	int drain_step;
};
struct wlistener {
	TAILQ_ENTRY(wlistener) link;
	struct wlisteners *ws;
	struct wconf *conf;
	struct weft_acceptor *acceptor[LISTENER_ADDRS_MAX];
	int fd[LISTENER_ADDRS_MAX];
	unsigned max_accept; /* of the acceptors */
};
struct wlisteners {
	struct wlisteners_conf conf;
	TAILQ_HEAD(, wlistener) list;
	TAILQ_HEAD(, wconf) confs;
	size_t open;
	struct weft_timers *timers;
	bool paused; /* by overload */
};
struct wconn {
	TAILQ_ENTRY(wconn) link;
	struct wconf *c;
	struct weft_io *io;	  /* until the chain has it */
	struct weft_chain *chain; /* NULL: in the handshake */
	const struct lchain *lc;
	uint64_t start_ns;
};
struct wpre {
	TAILQ_ENTRY(wpre) link;
	struct wconf *c;
	struct wlistener *wl;
	struct lpre *p;
	int fd;
	uint64_t start_ns;
	bool counted;
};

/* ---- listener_worker.c */
void wconf_drop(struct wconf *c); /* the last of an old one: it goes */

/* ---- listener_conn.c: one connection, from its chain's choice on */
/* NULL: no chain takes it; counted. */
const struct lchain *wconn_choose(struct wconf *c, const struct lpre_done *d);
/* The socket is taken. */
void wconn_start(struct wconf *c, const struct lpre_done *d, uint64_t start_ns);
/* The same of a stream: io is taken, its chain was chosen. */
void wconn_start_io(struct wconf *c, const struct lchain *lc, struct weft_io *io);
void wconn_free(struct wconn *x);
