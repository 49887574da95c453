/* Listeners of the process, between its parts. Main thread. */
#pragma once
#include "proxy/waypoint/waypoint.h"

#include <sys/queue.h>

/* One bound address: a socket for each worker (reuse_port), or one for all. Outlives
 * configurations. */
struct lsock {
	TAILQ_ENTRY(lsock) link;
	struct listeners *m;
	struct weft_listen_conf conf; /* strings are ours */
	struct weft_sockaddr bound;
	int *fd; /* [n] */
	size_t n;
	unsigned refs;	/* entries that use it now, or did until workers let go */
	unsigned users; /* of them, entries that use it now */
	bool closed;	/* before its time: nobody accepts from it any more */
};
struct entry {
	TAILQ_ENTRY(entry) link;
	struct listeners *m;
	char *name;
	struct lconf *active, *warming;
	struct lsock *sock[LISTENER_ADDRS_MAX], *warm_sock[LISTENER_ADDRS_MAX];
	struct weft_sockaddr bound[LISTENER_ADDRS_MAX];
	unsigned n_bound;
};
struct listeners {
	struct listeners_conf conf;
	TAILQ_HEAD(, entry) list;
	TAILQ_HEAD(, lsock) socks;
	bool started, stopped, inbound_stopped;
};

/* ---- listener_socks.c */
/* An entry's: given back. */
void lsock_leave(struct lsock *s);
void lsock_unref(struct lsock *s);
void lsock_close(struct lsock *s); /* stays an entry's, without descriptors; NULL is fine */
/* Sockets for a configuration, those of the entry used again. 0, -EADDRINUSE. */
int lsocks_take(struct listeners *m, const struct entry *e, const struct lconf *l,
		struct lsock **ret, struct weft_err *reterr);
