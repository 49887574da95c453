/* Listening sockets, and accepting from them. */
#pragma once
#include "proxy/core/addr.h"
#include "proxy/core/err.h"
#include <stdbool.h>
#include <stdint.h>

struct event_base;

enum weft_sockopt_when { WEFT_SOCKOPT_PREBIND, WEFT_SOCKOPT_BOUND, WEFT_SOCKOPT_LISTENING };
struct weft_sockopt { /* envoy.config.core.v3.SocketOption */
	int level, name;
	bool is_bytes;
	int value;
	const void *bytes;
	uint32_t bytes_n;
	enum weft_sockopt_when when;
};
/* Sets those of `when`. -errno and reterr: which one. */
int weft_sockopts_set(int fd, const struct weft_sockopt *v, size_t n, enum weft_sockopt_when when,
		      struct weft_err *reterr);

struct weft_listen_conf {
	struct weft_sockaddr addr;
	const char *unix_path; /* instead of addr; '@' first: an abstract name */
	uint32_t unix_mode;    /* 0: as umask has it */
	uint32_t backlog;      /* 0: as Envoy: what the system allows */
	uint32_t fastopen;     /* queue length; 0: off */
	bool reuse_port, transparent, freebind;
	bool v4_compat; /* a v6 socket takes v4 too */
	bool mptcp;
	bool keepalive; /* inherited by what is accepted */
	uint32_t keep_idle_s, keep_interval_s, keep_probes;
	const struct weft_sockopt *opts;
	size_t n_opts;
};
/* 0 and a listening socket (non-blocking, close-on-exec, TCP_NODELAY for what it accepts); -errno
 * and reterr. A unix path where a dead socket lies is taken over; one that answers is -EADDRINUSE.
 */
int weft_listen(const struct weft_listen_conf *conf, int *ret_fd, struct weft_err *reterr);

/* Accepts while open. */
struct weft_acceptor;
struct weft_acceptor_ops {
	/* A connection: fd (non-blocking, close-on-exec) is the callee's. peer: family 0 for unix.
	 * May free the acceptor. */
	void (*accepted)(void *owner, int fd, const struct weft_sockaddr *peer);
	/* accept failed for want of descriptors or memory: paused for 100 ms. Once until it works
	 * again. NULL: not wanted. */
	void (*failed)(void *owner, int err);
	/* So many came in this turn, at least one. NULL: not wanted. */
	void (*turn)(void *owner, unsigned n);
};
/* fd stays the caller's (it may be shared with other workers); max: accepted in one turn, 0: 16. */
struct weft_acceptor *weft_acceptor_new(struct event_base *base, int fd, unsigned max,
					const struct weft_acceptor_ops *ops, void *owner);
void weft_acceptor_free(struct weft_acceptor *a); /* NULL ok */
/* While off connections wait in the backlog. */
void weft_acceptor_enable(struct weft_acceptor *a, bool on);
