/* What the files of weft-proxy's main thread share. The byte path includes node.h only. */
#pragma once
#include "proxy/core/err.h"
#include "proxy/l4/accesslog.h"
#include "proxy/node/node.h"
#include "xds/type.h"

struct weft_podtab;
struct weft_reserve;
struct weft_state;

enum weft_phase { WEFT_PHASE_START, WEFT_PHASE_RUN, WEFT_PHASE_DRAIN };

struct weft_live { /* a worker's answer to weft_node_ask_live */
	atomic_uint conns, round;
};
struct weft_node {
	struct weft_node_conf conf;
	unsigned stock_min, stock_max; /* sockets kept ahead of need, a pod and kind */
	struct weft_worker *main;
	struct weft_wstate *ws; /* n_ws of them */
	unsigned n_ws;
	struct weft_wstate *const *all; /* pointers to them */
	struct weft_live *live;
	unsigned live_round;
	struct weft_podtab *podtab;
	struct weft_reserve *reserve;
	struct weft_state *state;
	struct weft_log_sink *access_log; /* NULL: off */
	enum weft_log_format access_format;
	atomic_bool broker_up; /* written by main, read by workers */
	enum weft_phase phase;
	uint64_t start_ns;
	int64_t start_unix_s;
};

/* ---- node.c: conf (workers >= 1), stock_* and access_* are set before. Main thread. */
int weft_node_init(struct weft_node *n,
		   struct weft_err *reterr); /* loops and workers' states; no thread yet */
int weft_node_start(struct weft_node *n, struct weft_err *reterr);
void weft_node_stop(struct weft_node *n); /* ends the threads */
void weft_node_done(
	struct weft_node *n); /* after podtab, reserve and state are freed and set to NULL */
void weft_node_ask_live(struct weft_node *n);
int weft_node_live(const struct weft_node *n,
		   unsigned *ret); /* users' connections; -EAGAIN: not all answered yet */

/* ---- npod.c */
struct weft_npod_conf { /* strings are copied */
	const char *uid, *name, *ns, *sa, *trust_domain, *workload_uid, *network;
	struct weft_ip addrs[4];
	size_t n_addrs;
};
struct weft_npod *weft_npod_new(const struct weft_npod_conf *c, int home);
bool weft_npod_same(const struct weft_npod *p, const struct weft_npod_conf *c);

/* ---- secret.c: identity → certificate, immutable; a change makes a new table that shares the
 * entries. */
struct weft_secrets;
struct weft_secrets *weft_secrets_new(void);
struct weft_secrets *weft_secrets_ref(struct weft_secrets *t);
void weft_secrets_unref(struct weft_secrets *t);
/* A copy of prev with s (taken) in the place of its identity's entry. */
struct weft_secrets *weft_secrets_with(const struct weft_secrets *prev, struct weft_secret *s);
struct weft_secrets *weft_secrets_without(const struct weft_secrets *prev, const char *identity);
struct weft_secret *weft_secrets_find(const struct weft_secrets *t,
				      const char *identity); /* borrowed */
void weft_secrets_each(const struct weft_secrets *t,
		       void (*fn)(void *ctx, const struct weft_secret *s), void *ctx);
struct weft_secret *weft_secret_ref(struct weft_secret *s);
struct Envoy__Tls__Secret;
/* Main thread. name: the xDS name. -EINVAL with the reason when the certificate, key, roots or
 * identity do not fit. */
int weft_secret_make(const char *name, const struct Envoy__Tls__Secret *m, struct weft_secret **ret,
		     struct weft_err *reterr);

/* ---- stock.c, worker side (node.h has take and give) */
int weft_stock_init(struct weft_wstate *ws);
void weft_stock_done(struct weft_wstate *ws);
void weft_stock_drop(struct weft_wstate *ws,
		     struct weft_npod *p); /* its sockets are closed, its waiters told -ECANCELED */
/* Takes the fds, the answer to an ask of this worker. */
void weft_stock_fill(struct weft_wstate *ws, struct weft_npod *p, enum weft_sock_kind k,
		     const int *fds, unsigned n);
void weft_stock_recall(struct weft_wstate *ws, struct weft_npod *p,
		       enum weft_sock_kind k); /* all it keeps goes back */

/* ---- flowlog.c */
void weft_flowlog_setup(struct weft_node *n);	/* families; main thread, before workers start */
int weft_flowlog_init(struct weft_wstate *ws);	/* worker's caches and log buffer */
void weft_flowlog_done(struct weft_wstate *ws); /* flushes */
