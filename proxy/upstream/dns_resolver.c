/* c-ares channels on a libevent loop, and lookups of one name. */
#include "proxy/core/worker.h"
#include "proxy/upstream/dns.h"

#include <ares.h>
#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>

struct sock {
	LIST_ENTRY(sock) link;
	struct weft_resolver *r;
	ares_socket_t fd;
	struct event ev;
};
struct weft_resolver {
	LIST_ENTRY(weft_resolver) link;
	unsigned refs;
	struct event_base *base;
	struct weft_resolver_conf conf;
	ares_channel channel;
	LIST_HEAD(, sock) socks;
	struct event timer;
	size_t asking; /* queries under way */
	bool stale;    /* somebody did not answer, and conf.renew */
	uint64_t made_ns;
};
struct weft_lookup {
	struct weft_resolver *r;
	char *name;
	enum weft_dns_family family;
	bool second, cancelled;
	void (*answer)(void *owner, const struct weft_lookup_answer *a);
	void *owner;
	struct weft_lookup **ret; /* where it is kept while it starts; NULL later */
};

static __thread LIST_HEAD(, weft_resolver) resolvers;

/* ---- the channel's sockets and time */

static void set_timer(struct weft_resolver *r)
{
	struct timeval tv, *t = ares_timeout(r->channel, NULL, &tv);

	if (t)
		evtimer_add(&r->timer, t);
	else
		evtimer_del(&r->timer);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct weft_resolver *r = arg;

	r->refs++; /* an answer may let go of the last cluster that uses it */
	ares_process_fd(r->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	set_timer(r);
	weft_resolver_put(r);
}

static void on_sock(evutil_socket_t fd, short what, void *arg)
{
	struct sock *s = arg;
	struct weft_resolver *r = s->r;

	r->refs++;
	ares_process_fd(r->channel, what & EV_READ ? fd : ARES_SOCKET_BAD,
			what & EV_WRITE ? fd : ARES_SOCKET_BAD);
	set_timer(r);
	weft_resolver_put(r);
}

static void sock_state(void *arg, ares_socket_t fd, int readable, int writable)
{
	struct weft_resolver *r = arg;
	struct sock *s;

	LIST_FOREACH (s, &r->socks, link)
		if (s->fd == fd)
			break;
	if (s)
		event_del(&s->ev);
	if (!readable && !writable) {
		if (s) {
			LIST_REMOVE(s, link);
			free(s);
		}
		return;
	}
	if (!s) {
		s = weft_xcalloc(1, sizeof(*s));
		s->r = r;
		s->fd = fd;
		LIST_INSERT_HEAD(&r->socks, s, link);
	}
	event_assign(&s->ev, r->base, fd,
		     (short)(EV_PERSIST | (readable ? EV_READ : 0) | (writable ? EV_WRITE : 0)),
		     on_sock, s);
	event_add(&s->ev, NULL);
}

/* ---- resolvers */

/* The system has none: c-ares then asks the own host. */
static bool system_has_none(ares_channel ch)
{
	struct ares_addr_port_node *v = NULL;
	bool none;

	if (ares_get_servers_ports(ch, &v) != ARES_SUCCESS)
		return true;
	none = !v ||
	       (!v->next && v->family == AF_INET && v->addr.addr4.s_addr == htonl(INADDR_LOOPBACK));
	ares_free_data(v);
	return none;
}

static int set_servers(ares_channel ch, const struct weft_resolver_conf *conf)
{
	char text[WEFT_DNS_SERVERS_MAX * (WEFT_SOCKADDR_TEXT + 1)], *at = text;

	for (uint32_t i = 0; i < conf->n_servers; i++) {
		if (i)
			*at++ = ',';
		weft_sockaddr_text(&conf->servers[i], at, WEFT_SOCKADDR_TEXT);
		at += strlen(at);
	}
	return ares_set_servers_ports_csv(ch, text);
}

static int channel_open(struct weft_resolver *r)
{
	const struct weft_resolver_conf *conf = &r->conf;
	struct ares_options o = {.sock_state_cb = sock_state, .sock_state_cb_data = r};
	int mask = ARES_OPT_SOCK_STATE_CB, s;

	if (conf->use_tcp)
		o.flags |= ARES_FLAG_USEVC;
	if (conf->no_search)
		mask |= ARES_OPT_DOMAINS; /* none; ares_getaddrinfo knows no ARES_FLAG_NOSEARCH */
	if (conf->edns0_bytes) {
		o.flags |= ARES_FLAG_EDNS;
		o.ednspsz = (int)conf->edns0_bytes;
		mask |= ARES_OPT_EDNSPSZ;
	}
	if (o.flags)
		mask |= ARES_OPT_FLAGS;
	if (conf->timeout_s) {
		o.timeout = (int)conf->timeout_s * 1000;
		mask |= ARES_OPT_TIMEOUTMS;
	}
	if (conf->tries) {
		o.tries = (int)conf->tries;
		mask |= ARES_OPT_TRIES;
	}
	r->stale = false;
	r->made_ns = weft_now_ns();
	mask |= conf->rotate ? ARES_OPT_ROTATE : ARES_OPT_NOROTATE;
	s = ares_init_options(&r->channel, &o, mask);
	if (s == ARES_SUCCESS && conf->n_servers &&
	    (!conf->fallback || system_has_none(r->channel))) {
		s = set_servers(r->channel, conf);
		if (s != ARES_SUCCESS)
			ares_destroy(r->channel);
	}
	return s;
}

static void socks_end(struct weft_resolver *r)
{
	while (!LIST_EMPTY(&r->socks)) {
		struct sock *s = LIST_FIRST(&r->socks);

		event_del(&s->ev);
		LIST_REMOVE(s, link);
		free(s);
	}
}

/* Another channel, with the system's settings of now. Only between queries: those under way
 * would end without an answer. */
static void renew(struct weft_resolver *r)
{
	uint32_t age = r->conf.max_age_ms;
	ares_channel old = r->channel;

	if (r->asking ||
	    !(r->stale || (age && weft_now_ns() - r->made_ns >= age * (uint64_t)1000000)))
		return;
	if (channel_open(r) != ARES_SUCCESS) {
		r->channel = old; /* better than none */
		return;
	}
	ares_destroy(old);
	socks_end(r); /* none of the new one: it has asked nothing yet */
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void library_init(void)
{
	ares_library_init(ARES_LIB_INIT_ALL);
}

struct weft_resolver *weft_resolver_get(struct event_base *base,
					const struct weft_resolver_conf *conf,
					struct weft_err *reterr)
{
	struct weft_resolver *r;
	int s;

	pthread_once(&once, library_init);
	LIST_FOREACH (r, &resolvers, link)
		if (r->base == base && !memcmp(&r->conf, conf, sizeof(*conf))) {
			r->refs++;
			return r;
		}
	r = weft_xcalloc(1, sizeof(*r));
	r->refs = 1;
	r->base = base;
	memcpy(&r->conf, conf, sizeof(*conf));
	LIST_INIT(&r->socks);
	s = channel_open(r);
	if (s != ARES_SUCCESS) {
		weft_fail(reterr, NULL, EIO, "DNS resolver: %s", ares_strerror(s));
		free(r);
		return NULL;
	}
	evtimer_assign(&r->timer, base, on_timer, r);
	LIST_INSERT_HEAD(&resolvers, r, link);
	return r;
}

void weft_resolver_put(struct weft_resolver *r)
{
	if (!r || --r->refs)
		return;
	LIST_REMOVE(r, link);
	event_del(&r->timer);
	ares_destroy(r->channel); /* ends lookups that were cancelled and still wait */
	socks_end(r);
	free(r);
}

/* ---- lookups */

static int cmp(const void *a, const void *b)
{
	return weft_ip_cmp(a, b);
}

enum { HAS_V4 = 1, HAS_V6 = 2, LINES_MAX = 10000 };

/* An address of ours, of a local route: "|-- 10.0.0.1" and then "/32 host LOCAL". */
static bool has_v4(FILE *f)
{
	char line[160], at[64] = "";
	struct weft_ip ip;

	for (unsigned i = 0; i < LINES_MAX && fgets(line, sizeof(line), f); i++) {
		char *dashes = strstr(line, "|-- ");

		if (dashes)
			sscanf(dashes, "|-- %63s", at);
		else if (strstr(line, "host LOCAL") && !weft_ip_parse(at, &ip) &&
			 !weft_ip_is_loopback(&ip))
			return true;
	}
	return !feof(f);
}

/* "ADDRESS index prefix scope flags NAME" */
static bool has_v6(FILE *f)
{
	char line[160], name[64];

	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %*s %*s %*s %*s %63s", name) == 1 && strcmp(name, "lo") != 0)
			return true;
	return false;
}

/* Families that some interface but loopback has an address of; both where that cannot be told. By
 * files: a sealed process has no netlink sockets. */
static unsigned families_here(void)
{
	FILE *v4 = fopen("/proc/self/net/fib_trie", "re"),
	     *v6 = fopen("/proc/self/net/if_inet6", "re");
	unsigned has = (!v4 || has_v4(v4) ? HAS_V4 : 0) | (v6 && has_v6(v6) ? HAS_V6 : 0);

	if (v4)
		fclose(v4);
	if (v6)
		fclose(v6);
	return has;
}

static size_t collect(const struct weft_resolver *r, const struct ares_addrinfo *res,
		      struct weft_ip *v, uint32_t *ret_ttl)
{
	unsigned has = r->conf.routable && res ? families_here() : HAS_V4 | HAS_V6;
	size_t n = 0, kept = 0;

	*ret_ttl = 0;
	for (const struct ares_addrinfo_node *a = res ? res->nodes : NULL;
	     a && n < WEFT_DNS_ADDRESSES_MAX; a = a->ai_next) {
		struct sockaddr_storage ss = {0};
		struct weft_sockaddr at;

		if (a->ai_addrlen > sizeof(ss))
			continue;
		memcpy(&ss, a->ai_addr, a->ai_addrlen);
		if (weft_sockaddr_from_kernel(&ss, &at) < 0 ||
		    !(has & (at.ip.family == 4 ? HAS_V4 : HAS_V6)))
			continue;
		v[n++] = at.ip;
		if (a->ai_ttl > 0 && (!*ret_ttl || (uint32_t)a->ai_ttl < *ret_ttl))
			*ret_ttl = (uint32_t)a->ai_ttl;
	}
	qsort(v, n, sizeof(*v), cmp);
	for (size_t i = 0; i < n; i++)
		if (!kept || !weft_ip_eq(&v[kept - 1], &v[i]))
			v[kept++] = v[i];
	return kept;
}

static void ask(struct weft_lookup *l);

static void lookup_free(struct weft_lookup *l)
{
	if (l->ret)
		*l->ret = NULL;
	free(l->name);
	free(l);
}

static void on_answer(void *arg, int status, int timeouts, struct ares_addrinfo *res)
{
	struct weft_lookup *l = arg;
	struct weft_ip v[WEFT_DNS_ADDRESSES_MAX];
	struct weft_lookup_answer a = {.v = v};

	l->r->asking--;
	l->r->stale |= status == ARES_ETIMEOUT && l->r->conf.renew;
	a.n = collect(l->r, res, v, &a.ttl_s);
	if (res)
		ares_freeaddrinfo(res);
	if (l->cancelled || status == ARES_EDESTRUCTION) {
		lookup_free(l);
		return;
	}
	if (status != ARES_SUCCESS && status != ARES_ENODATA && status != ARES_ENOTFOUND)
		a.err = status == ARES_ETIMEOUT ? -ETIMEDOUT : -EIO;
	if (!a.n && !l->second &&
	    (l->family == WEFT_DNS_AUTO || l->family == WEFT_DNS_V4_PREFERRED)) {
		l->second = true;
		ask(l);
		return;
	}
	l->answer(l->owner, &a);
	lookup_free(l);
}

static void ask(struct weft_lookup *l)
{
	struct ares_addrinfo_hints h = {.ai_socktype = SOCK_STREAM, .ai_flags = ARES_AI_NOSORT};

	switch (l->family) {
	case WEFT_DNS_AUTO:
		h.ai_family = l->second ? AF_INET : AF_INET6;
		break;
	case WEFT_DNS_V4_PREFERRED:
		h.ai_family = l->second ? AF_INET6 : AF_INET;
		break;
	case WEFT_DNS_V4:
		h.ai_family = AF_INET;
		break;
	case WEFT_DNS_V6:
		h.ai_family = AF_INET6;
		break;
	case WEFT_DNS_ALL:
		h.ai_family = AF_UNSPEC;
		break;
	}
	l->r->asking++;
	ares_getaddrinfo(l->r->channel, l->name, NULL, &h, on_answer, l);
}

void weft_lookup_start(struct weft_resolver *r, const char *name, enum weft_dns_family family,
		       void (*answer)(void *owner, const struct weft_lookup_answer *a), void *owner,
		       struct weft_lookup **ret)
{
	struct weft_lookup *l = weft_xcalloc(1, sizeof(*l));

	l->r = r;
	l->name = weft_xstrdup(name);
	l->family = family;
	l->answer = answer;
	l->owner = owner;
	*ret = l;
	l->ret = ret;
	r->refs++;
	renew(r);
	ask(l);
	if (*ret)
		(*ret)->ret = NULL;
	set_timer(r);
	weft_resolver_put(r);
}

/* c-ares cannot take one query back: its answer is thrown away. */
void weft_lookup_cancel(struct weft_lookup *l)
{
	if (l)
		l->cancelled = true;
}
