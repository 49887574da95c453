/* Stands in for the byte path in tests of the main thread's parts: records what it was told. Loops
 * are turned by hand. */
#pragma once
#include "proxy/core/arena.h"
#include "proxy/node/node_priv.h"
#include "proxy/node/reserve.h"
#include <dirent.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static struct {
	struct {
		struct weft_npod *p;
		int kind, fd, worker;
	} accepts[64];
	int n_accepts;
	char removed[16][64];
	int n_removed, n_model, n_policies, n_drain, n_force;
	char secrets[16][128];
	int n_secrets;
	unsigned live;
} fake;

int weft_pool_init(struct weft_wstate *ws)
{
	return 0;
}
void weft_pool_done(struct weft_wstate *ws)
{
}
int weft_outbound_init(struct weft_wstate *ws)
{
	return 0;
}
void weft_outbound_done(struct weft_wstate *ws)
{
}
int weft_inbound_init(struct weft_wstate *ws)
{
	return 0;
}
void weft_inbound_done(struct weft_wstate *ws)
{
}
void weft_accept_add(struct weft_wstate *ws, struct weft_npod *p, int kind, int fd)
{
	fake.accepts[fake.n_accepts].p = weft_npod_ref(p);
	fake.accepts[fake.n_accepts].kind = kind;
	fake.accepts[fake.n_accepts].worker = ws->w->id;
	fake.accepts[fake.n_accepts++].fd = fd;
}
void weft_pod_removed(struct weft_wstate *ws, struct weft_npod *p)
{
	if (fake.n_removed < 16)
		strncpy(fake.removed[fake.n_removed++], p->uid, 63);
}
void weft_model_changed(struct weft_wstate *ws, bool policies)
{
	__atomic_fetch_add(&fake.n_model, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&fake.n_policies, policies, __ATOMIC_RELAXED);
}
void weft_secret_changed(struct weft_wstate *ws, const char *identity)
{
	int n = __atomic_fetch_add(&fake.n_secrets, 1, __ATOMIC_RELAXED);

	if (n < 16)
		strncpy(fake.secrets[n], identity, 127);
}
void weft_drain_begin(struct weft_wstate *ws)
{
	fake.n_drain++;
}
unsigned weft_live_conns(struct weft_wstate *ws)
{
	return fake.live;
}
void weft_drain_force(struct weft_wstate *ws)
{
	fake.n_force++;
	fake.live = 0;
}

static inline void fake_clear(void)
{
	for (int i = 0; i < fake.n_accepts; i++) {
		close(fake.accepts[i].fd);
		weft_npod_unref(fake.accepts[i].p);
	}
	memset(&fake, 0, sizeof(fake));
}

static inline struct weft_node *fake_node(unsigned workers)
{
	struct weft_node *n = weft_xcalloc(1, sizeof(*n));
	struct weft_err err = {0};

	n->conf = (struct weft_node_conf){.workers = workers, .connect_ms = 60, .drain_ms = 200};
	assert_int_equal(weft_node_init(n, &err), 0);
	return n;
}

static inline void fake_node_free(struct weft_node *n)
{
	weft_node_done(n);
	free(n);
}

/* Turns all loops until nothing more is ready. */
static inline void pump(struct weft_node *n)
{
	for (int round = 0; round < 6; round++) {
		event_base_loop(n->main->base, EVLOOP_NONBLOCK);
		for (unsigned i = 0; i < n->n_ws; i++)
			event_base_loop(n->ws[i].w->base, EVLOOP_NONBLOCK);
	}
}

/* Turns them until *flag or for a second at most. */
static inline bool pump_until(struct weft_node *n, const volatile int *flag)
{
	for (int i = 0; i < 1000 && !*flag; i++) {
		pump(n);
		usleep(1000);
	}
	return *flag != 0;
}

static inline unsigned open_fd_count(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static inline struct weft_npod_conf fake_pod_conf(const char *uid)
{
	struct weft_npod_conf c = {.uid = uid,
				   .name = uid,
				   .ns = "shop",
				   .sa = "web",
				   .trust_domain = "cluster.local",
				   .workload_uid = "Kubernetes//Pod/shop/web",
				   .network = "",
				   .n_addrs = 1};

	weft_ip_parse("10.0.0.1", &c.addrs[0]);
	return c;
}
