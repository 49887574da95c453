/* weft-agent's parts, and what its files share. Main thread. */
#pragma once
#include "agent/bpf_load.h"
#include "agent/broker.h"
#include "agent/ca.h"
#include "agent/certs.h"
#include "agent/options.h"
#include "agent/pods.h"
#include "agent/source_file.h"
#include "agent/store.h"
#include "xds/server.h"
#include <stdbool.h>
#include <stdint.h>

struct event;
struct event_base;
struct weft_http_admin;

struct weft_agent {
	const struct weft_agent_options *opt;
	struct event_base *base;
	struct weft_bpf *bpf;
	struct weft_pods *pods;
	struct weft_store *store;
	struct weft_xds_server *xds;
	struct weft_source_file *source;
	struct weft_ca *ca;
	struct weft_certs *certs;
	struct weft_broker *broker;
	struct weft_http_admin *admin;
	struct event *retry, *adopt, *adopt_end, *sigs[3];
	struct weft_errs errs; /* of the last translation */
	int n_errs;
	unsigned long config_errors, nacks; /* since start */
	char last_nack[512];
	uint64_t start_ns;
	bool started;  /* every part is there */
	bool synced;   /* the pods of the first configuration were tried */
	bool unenroll; /* release everything and end */
	bool signalled;
};

/* agent.c */
/* A stream socket run-dir/NAME, mode 0600. */
int weft_agent_listen(const struct weft_agent *a, const char *name, uid_t owner,
		      struct weft_err *reterr);
int weft_agent_start(struct weft_agent *a, struct weft_err *reterr);
void weft_agent_stop(struct weft_agent *a);
/* sync.c: makes what is enrolled equal what is wanted; also called by timer. */
void weft_agent_sync(struct weft_agent *a);
void weft_agent_release(struct weft_agent *a); /* every pod */
void weft_agent_sync_init(struct weft_agent *a);
void weft_agent_sync_done(struct weft_agent *a);
/* admin.c */
int weft_agent_admin_open(struct weft_agent *a, struct weft_err *reterr);
/* podfile.c: pod-NS-NAME.yaml in the configuration folder. body: JSON. HTTP status; *ret_text
 * malloc'ed. */
int weft_podfile_add(struct weft_agent *a, const char *body, size_t n, char **ret_text);
int weft_podfile_remove(struct weft_agent *a, const char *pod, char **ret_text);
