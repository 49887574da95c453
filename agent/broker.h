/* Broker: hands sockets made in pods' namespaces to the one active weft-proxy. Messages:
 * xds/proto/broker.proto. Main thread. What the peer may ask is one table (message, allowed state,
 * limit) in broker.c. */
#pragma once
#include "agent/pods.h"

struct event_base;
struct weft_broker;
struct weft_broker_conf {
	const char *path; /* SOCK_SEQPACKET unix socket, mode 0600, owned by proxy_uid */
	uid_t proxy_uid;
	const char *node, *network, *trust_domain;
	const char *cgroup2; /* mount point; hybrid: weft/<instance>/proxy-N is made there */
	const char *instance;
	bool move_cgroup;	/* hybrid: make the group and move the proxy's pid there */
	unsigned adopt_wait_ms; /* after start: how long a live proxy may hand its listeners back
				   before new ones are made; 2000 */
	/* A proxy has handed back all that it held: pods that failed for a taken port can be tried
	 * again. May be NULL. */
	void (*settled)(void *owner);
	void *owner;
};
int weft_broker_new(struct event_base *base, const struct weft_broker_conf *conf,
		    struct weft_pods *pods, struct weft_bpf *bpf, struct weft_broker **ret,
		    struct weft_err *reterr);
void weft_broker_free(struct weft_broker *b);
/* The pods of the first good configuration are enrolled: from now on proxies are sent the whole
 * list. */
void weft_broker_ready(struct weft_broker *b);
/* A proxy connected and has not yet handed back what it holds; or one of an earlier agent lives and
 * has not come yet. */
bool weft_broker_adopting(const struct weft_broker *b);
void weft_broker_pod_added(struct weft_broker *b,
			   struct weft_pod *p); /* called by pods.c's owner; also when it changed */
void weft_broker_pod_removed(struct weft_broker *b, const char *uid);
bool weft_broker_proxy_connected(const struct weft_broker *b);
pid_t weft_broker_proxy_pid(const struct weft_broker *b); /* 0: none */
