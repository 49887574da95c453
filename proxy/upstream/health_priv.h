/* Inside of health*.c: the machine of one host's checks, and what each kind of check does. */
#pragma once
#include "proxy/policy/match.h"
#include "proxy/session/session.h"
#include "proxy/upstream/cluster_priv.h"
#include "proxy/upstream/health.h"
#include "proxy/upstream/transport.h"

#include <event2/event.h>
#include <event2/event_struct.h>

struct check;
enum hc_kind { HC_HTTP, HC_TCP, HC_GRPC };
struct hc_range {
	int64_t from, to; /* [from, to) */
};
struct hc_bytes {
	const uint8_t *p;
	size_t n;
};
struct hc_header {
	const char *name, *value;
	size_t name_n, value_n;
	int action; /* HeaderAppendAction */
};
struct weft_hc_conf {
	enum hc_kind kind;
	unsigned timeout_ms, interval_ms, initial_jitter_ms, jitter_ms, jitter_pct;
	unsigned unhealthy_threshold, healthy_threshold;
	unsigned no_traffic_ms, no_traffic_healthy_ms;
	unsigned unhealthy_ms, unhealthy_edge_ms, healthy_edge_ms;
	bool reuse;
	const char *const *alpn; /* NULL: what the kind offers */
	const Google__Protobuf__Struct *criteria;
	/* http, grpc */
	bool h2;
	const char *method, *host, *path, *service;
	const struct hc_header *add;
	size_t n_add;
	char *const *remove;
	size_t n_remove;
	const struct hc_range *expected, *retriable;
	size_t n_expected, n_retriable;
	const struct weft_strmatch *service_name; /* NULL */
	/* tcp */
	struct hc_bytes send;
	const struct hc_bytes *receive;
	size_t n_receive;
	int proxy; /* the connection begins with PROXY protocol: 1, 2; 0: none */
	/* events */
	const char **files;
	size_t n_files;
	bool log_failures, log_successes; /* each of them, not changes alone */
};

enum hc_failure {
	HC_ACTIVE /* it answered, and badly */,
	HC_RETRIABLE /* so badly that may pass */,
	HC_PASSIVE /* told by the answer to a request */,
	HC_NETWORK,
	HC_TIMEOUT /* of the network as well */
};
enum hc_event { /* in the order of HealthCheckEvent's fields */
		HC_EVENT_EJECT,
		HC_EVENT_ADD,
		HC_EVENT_FAILURE,
		HC_EVENT_DEGRADED,
		HC_EVENT_RESTORED,
		HC_EVENT_SUCCESS
};
struct check { /* of one host */
	TAILQ_ENTRY(check) link;
	struct weft_health *h;
	struct weft_host *host;				   /* referenced */
	const Envoy__Config__Core__V3__Metadata *metadata; /* as long as the health's set */
	const struct weft_locality *locality;		   /* likewise; NULL */
	struct event interval, timeout;
	struct weft_io *io;
	struct weft_session *session;
	struct weft_exchange *x;
	struct weft_arena *arena;    /* of the exchange */
	unsigned healthy, unhealthy; /* in a row */
	int status;
	size_t matched; /* of receive */
	struct evbuffer *body;
	bool first, active, dead, seen;
	bool counted, counted_degraded; /* in the gauges */
	bool degraded, immediate_fail, service_ok, grpc_ok;
	int grpc_status; /* -1: none yet */
};
struct weft_health {
	struct event_base *base;
	struct weft_cluster *cl; /* referenced */
	const struct weft_hc_conf *conf;
	void (*changed)(void *owner, struct weft_host *h);
	void (*first)(void *owner);
	void (*passed)(void *owner, struct weft_host *h); /* NULL */
	void *owner;
	struct weft_hosts *hosts; /* referenced; NULL */
	TAILQ_HEAD(check_list, check) checks;
	struct check_list dead;
	struct event soon;
	size_t unchecked; /* of the first set */
	bool first_due, first_told, stopped;
	unsigned busy;
	void **files; /* of struct weft_event_files */
	size_t n_files;
};

/* health.c: what a check came to. May free the check's connection, calls the manager. */
void weft_check_succeeded(struct check *c, bool degraded);
void weft_check_failed(struct check *c, enum hc_failure why);
/* Dials; ops' owner is the check. */
int weft_check_dial(struct check *c, const char *const *alpn, const struct weft_io_ops *ops);
void weft_check_close(struct check *c); /* connection, session and exchange */

/* health_http.c, health_tcp.c */
void weft_check_http(struct check *c);
void weft_check_tcp(struct check *c);

/* health_log.c */
int weft_hc_files(struct weft_cfg *c, const struct weft_path *at,
		  const Envoy__Config__Core__V3__HealthCheck *m, struct weft_hc_conf *ret);
void weft_hc_files_open(struct weft_health *h);
void weft_hc_files_close(struct weft_health *h);
/* why: of failures and ejections. */
void weft_check_tell(const struct check *c, enum hc_event ev, enum hc_failure why);
