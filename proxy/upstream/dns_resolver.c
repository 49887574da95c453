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
	struct chan *ch;
	ares_socket_t fd;
	struct event ev;
};
struct chan { /* with the system's settings of when it was made */
	LIST_ENTRY(chan) link;
	struct weft_resolver *r;
	ares_channel ares;
	LIST_HEAD(, sock) socks;
	struct event timer;
	size_t asking; /* queries under way, and answers being told */
	bool stale;    /* somebody did not answer, and conf.renew */
	uint64_t made_ns;
};
struct weft_resolver {
	LIST_ENTRY(weft_resolver) link;
	unsigned refs;
	struct event_base *base;
	struct weft_resolver_conf conf;
	struct chan *chan;	 /* is asked from now on */
	LIST_HEAD(, chan) chans; /* that one, and older ones with queries under way */
};
struct weft_lookup {
	struct weft_resolver *r;
	struct chan *ch; /* asked */
	char *name;
	enum weft_dns_family family;
	bool second, cancelled;
	void (*answer)(void *owner, const struct weft_lookup_answer *a);
	void *owner;
	struct weft_lookup **ret; /* where it is kept while it starts; NULL later */
};

static __thread LIST_HEAD(, weft_resolver) resolvers;

/* ---- a channel's sockets and time */

static void socks_end(struct chan *ch)
{
	while (!LIST_EMPTY(&ch->socks)) {
		struct sock *s = LIST_FIRST(&ch->socks);

		event_del(&s->ev);
		LIST_REMOVE(s, link);
		free(s);
	}
}

static void chan_free(struct chan *ch)
{
	event_del(&ch->timer);
	ares_destroy(ch->ares); /* ends lookups that were cancelled and still wait */
	socks_end(ch);
	LIST_REMOVE(ch, link);
	free(ch);
}

/* Not from an answer: c-ares is amid the channel. */
static void chan_look(struct chan *ch)
{
	if (ch != ch->r->chan && !ch->asking)
		chan_free(ch);
}

static void set_timer(struct chan *ch)
{
	struct timeval tv, *t = ares_timeout(ch->ares, NULL, &tv);

	if (t)
		evtimer_add(&ch->timer, t);
	else
		evtimer_del(&ch->timer);
}

static void process(struct chan *ch, ares_socket_t rd, ares_socket_t wr)
{
	struct weft_resolver *r = ch->r;

	r->refs++; /* an answer may let go of the last cluster that uses it */
	ares_process_fd(ch->ares, rd, wr);
	set_timer(ch);
	chan_look(ch);
	weft_resolver_put(r);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	process(arg, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
}

static void on_sock(evutil_socket_t fd, short what, void *arg)
{
	struct sock *s = arg;

	process(s->ch, what & EV_READ ? fd : ARES_SOCKET_BAD,
		what & EV_WRITE ? fd : ARES_SOCKET_BAD);
}

static void sock_state(void *arg, ares_socket_t fd, int readable, int writable)
{
	struct chan *ch = arg;
	struct sock *s;

	LIST_FOREACH (s, &ch->socks, link)
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
		s->ch = ch;
		s->fd = fd;
		LIST_INSERT_HEAD(&ch->socks, s, link);
	}
	event_assign(&s->ev, ch->r->base, fd,
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

static int ares_open(struct chan *ch)
{
	const struct weft_resolver_conf *conf = &ch->r->conf;
	struct ares_options o = {.sock_state_cb = sock_state, .sock_state_cb_data = ch};
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
	mask |= conf->rotate ? ARES_OPT_ROTATE : ARES_OPT_NOROTATE;
	s = ares_init_options(&ch->ares, &o, mask);
	if (s == ARES_SUCCESS && conf->n_servers &&
	    (!conf->fallback || system_has_none(ch->ares))) {
		s = set_servers(ch->ares, conf);
		if (s != ARES_SUCCESS)
			ares_destroy(ch->ares);
	}
	return s;
}

/* The one that is asked from now on; what older ones were asked they still answer. ARES_SUCCESS, or
 * nothing is changed. */
static int chan_new(struct weft_resolver *r)
{
	struct chan *ch = weft_xcalloc(1, sizeof(*ch));
	int s;

	ch->r = r;
	ch->made_ns = weft_now_ns();
	LIST_INIT(&ch->socks);
	s = ares_open(ch);
	if (s != ARES_SUCCESS) {
		free(ch);
		return s;
	}
	evtimer_assign(&ch->timer, r->base, on_timer, ch);
	LIST_INSERT_HEAD(&r->chans, ch, link);
	r->chan = ch;
	return s;
}

/* Another channel, with the system's settings of now. */
static void renew(struct weft_resolver *r)
{
	uint32_t age = r->conf.max_age_ms;
	struct chan *old = r->chan;

	if (!old->stale && !(age && weft_now_ns() - old->made_ns >= age * (uint64_t)1000000))
		return;
	if (chan_new(r) == ARES_SUCCESS) /* else the old one is better than none */
		chan_look(old);
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
	LIST_INIT(&r->chans);
	s = chan_new(r);
	if (s != ARES_SUCCESS) {
		weft_fail(reterr, NULL, EIO, "DNS resolver: %s", ares_strerror(s));
		free(r);
		return NULL;
	}
	LIST_INSERT_HEAD(&resolvers, r, link);
	return r;
}

void weft_resolver_put(struct weft_resolver *r)
{
	if (!r || --r->refs)
		return;
	LIST_REMOVE(r, link);
	while (!LIST_EMPTY(&r->chans))
		chan_free(LIST_FIRST(&r->chans));
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

static void answered(struct weft_lookup *l, int status, const struct ares_addrinfo *res)
{
	struct weft_ip v[WEFT_DNS_ADDRESSES_MAX];
	struct weft_lookup_answer a = {.v = v};

	if (l->cancelled || status == ARES_EDESTRUCTION) {
		lookup_free(l);
		return;
	}
	a.n = collect(l->r, res, v, &a.ttl_s);
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

static void on_answer(void *arg, int status, int timeouts, struct ares_addrinfo *res)
{
	struct weft_lookup *l = arg;
	struct chan *ch = l->ch;

	ch->stale |= status == ARES_ETIMEOUT && ch->r->conf.renew;
	answered(l, status, res);
	if (res)
		ares_freeaddrinfo(res);
	ch->asking--; /* last: it stays while c-ares is amid it */
}

static void ask(struct weft_lookup *l)
{
	struct ares_addrinfo_hints h = {.ai_socktype = SOCK_STREAM, .ai_flags = ARES_AI_NOSORT};
	struct chan *ch = l->r->chan;

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
	l->ch = ch;
	ch->asking++;
	ares_getaddrinfo(ch->ares, l->name, NULL, &h, on_answer, l);
	set_timer(ch);
	chan_look(ch);
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
	weft_resolver_put(r);
}

/* c-ares cannot take one query back: its answer is thrown away. */
void weft_lookup_cancel(struct weft_lookup *l)
{
	if (l)
		l->cancelled = true;
}
