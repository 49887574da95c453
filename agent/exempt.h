/* Which processes' connects are not captured: a cgroup for each proxy, its id in a BPF map. Never a
 * mark alone. Main thread. */
#pragma once
#include "agent/bpf_load.h"
#include <stdbool.h>
#include <sys/types.h>

struct event_base;
struct weft_exempt;
struct weft_exempt_conf {
	const char *cgroup2;  /* mount point */
	const char *instance; /* [a-z0-9-]+ */
	bool move; /* make weft/<instance>/proxy-PID and move the process there; else its own
		      cgroup, which must be its alone */
};
/* Takes over the groups of an earlier agent: live ones are watched, empty ones removed. */
int weft_exempt_new(struct event_base *base, const struct weft_exempt_conf *conf,
		    struct weft_bpf *bpf, struct weft_exempt **ret, struct weft_err *reterr);
void weft_exempt_free(struct weft_exempt *x); /* groups and ids stay for the next agent */
/* Exempts the process until it ends. Takes pidfd. In force when this returns 0. */
int weft_exempt_process(struct weft_exempt *x, pid_t pid, int pidfd, struct weft_err *reterr);
unsigned weft_exempt_live(const struct weft_exempt *x); /* processes exempted now */
