/* Inside of tcp_*.c only. */
#pragma once
#include "proxy/core/timer.h"
#include "proxy/l4/als.h"
#include "proxy/l4/chain.h"
#include "proxy/upstream/pool.h"

enum tcp_stat {
#define STAT(name, kind, help) TCP_##name,
#include "proxy/l4/filters/tcp_stats.def"
#undef STAT
};
struct tcp_header {
	const char *name;
	const struct weft_format *value;
	enum { TCP_APPEND, TCP_IF_ABSENT, TCP_OVERWRITE, TCP_IF_PRESENT } how;
	bool keep_empty;
};
struct tcp_tunnel_conf {
	const struct weft_format *hostname;
	const char *post_path; /* NULL: CONNECT */
	const struct tcp_header *headers;
	size_t n_headers;
};
struct tcp_target {
	const char *cluster;
	uint64_t upto; /* weights up to and with this one */
};
struct tcp_conf {
	struct weft_scope *scope;
	const struct tcp_target *targets;
	size_t n_targets;
	uint64_t weights;		     /* of all */
	uint64_t idle_ms;		     /* 0: none */
	uint64_t max_ms;		     /* 0: none */
	double jitter;			     /* 0.1: up to a tenth longer */
	uint64_t backoff_ms, backoff_max_ms; /* 0: at once */
	uint32_t max_attempts;
	bool hash_source;
	const struct weft_access_logs *logs;
	uint64_t log_every_ms; /* 0: not */
	bool log_connected;
	const struct tcp_tunnel_conf *tunnel; /* NULL: bytes as they are */
};
int tcp_conf_prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
		     const void **ret);

struct tcp { /* of one connection; in the chain's arena */
	struct weft_chain *ch;
	const struct tcp_conf *conf;
	struct weft_info *info;
	struct weft_timers *timers;
	const struct tcp_target *target;
	struct weft_io *down;	  /* the chain's */
	struct weft_wcluster *wc; /* referenced; NULL */
	struct weft_io *up;	  /* NULL: none, or a tunnel */
	struct weft_lease *lease; /* tunnel */
	struct weft_exchange *x;
	struct weft_timer idle, age, again, log, answer, tick;
	uint64_t last_ns, dial_ns;
	uint64_t spliced_rx, spliced_tx; /* of down, already counted */
	bool open, over;
	bool down_eof, up_eof;	 /* seen, and passed on */
	bool down_held, up_held; /* not read because the other side is full */
	bool spliced, no_splice;
};
/* The upstream takes bytes: relaying begins. */
void tcp_established(struct tcp *t);
/* The attempt failed: the next one, or the end. why: for the log; NULL. */
void tcp_failed(struct tcp *t, bool timeout, const char *why);
enum tcp_end {
	TCP_END_ORDER,	    /* both directions ended */
	TCP_END_DOWN_RESET, /* the client's */
	TCP_END_UP_RESET,
	TCP_END_LOCAL, /* by us: flags say why */
};
void tcp_finish(struct tcp *t, enum tcp_end how, const char *details);
void tcp_count(struct tcp *t, size_t rx, size_t tx);

/* tcp_relay.c: two streams. */
extern const struct weft_io_ops tcp_down_ops, tcp_up_ops;
void tcp_relay_start(struct tcp *t);
void tcp_relay_counts(struct tcp *t); /* what was spliced since the last look */
/* tcp_tunnel.c: a stream inside an HTTP exchange. */
int tcp_tunnel_start(struct tcp *t, struct weft_host *h, const struct weft_take *how);
void tcp_tunnel_send(struct tcp *t, struct evbuffer *b, bool end);
void tcp_tunnel_resume(struct tcp *t); /* down takes bytes again */
void tcp_tunnel_end(struct tcp *t);
