/* What runs on an accepted socket before a filter chain is chosen: TLS and HTTP sniffing, original
 * destination, PROXY protocol. Bytes are read ahead and handed on. */
#include "proxy/waypoint/listener.h"

#include "proxy/codec/proxyproto.h"
#include "proxy/codec/sniff.h"
#include "proxy/net/origdst.h"
#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { READ_STEP = 4096, ALPN_NAMES = 32, AHEAD_MAX = 66 << 10 };

struct lpre {
	const struct lconf *l;
	int fd;
	struct event ev, timer;
	struct evbuffer *in; /* NULL: nothing was read */
	unsigned at;
	bool eof, tls_known, done_called;
	struct lpre_done d;
	const char *alpn[ALPN_NAMES + 1];
	char alpn_text[WEFT_SNIFF_ALPN_MAX + ALPN_NAMES];
	char sni[WEFT_SNIFF_NAME_MAX + 1], ja3[WEFT_SNIFF_JA3 + 1], ja4[WEFT_SNIFF_JA4 + 1];
	void (*done)(void *owner, struct lpre *p, const struct lpre_done *d, bool ok);
	void *owner;
};
enum verdict { V_NEXT, V_MORE, V_BAD };

void lpre_free(struct lpre *p)
{
	if (!p)
		return;
	event_del(&p->ev);
	event_del(&p->timer);
	if (p->in)
		evbuffer_free(p->in);
	free(p);
}

static void finish(struct lpre *p, bool ok)
{
	event_del(&p->ev);
	event_del(&p->timer);
	p->d.fd = p->fd;
	p->d.already = p->in && evbuffer_get_length(p->in) ? p->in : NULL;
	p->done(p->owner, p, &p->d, ok);
}

static bool disabled(const Envoy__Config__Listener__V3__ListenerFilterChainMatchPredicate *m,
		     uint16_t port)
{
	size_t i;

	switch (m->rule_case) {
	case ENVOY__CONFIG__LISTENER__V3__LISTENER_FILTER_CHAIN_MATCH_PREDICATE__RULE_OR_MATCH:
		for (i = 0; i < m->or_match->n_rules; i++)
			if (disabled(m->or_match->rules[i], port))
				return true;
		return false;
	case ENVOY__CONFIG__LISTENER__V3__LISTENER_FILTER_CHAIN_MATCH_PREDICATE__RULE_AND_MATCH:
		for (i = 0; i < m->and_match->n_rules; i++)
			if (!disabled(m->and_match->rules[i], port))
				return false;
		return true;
	case ENVOY__CONFIG__LISTENER__V3__LISTENER_FILTER_CHAIN_MATCH_PREDICATE__RULE_NOT_MATCH:
		return !disabled(m->not_match, port);
	case ENVOY__CONFIG__LISTENER__V3__LISTENER_FILTER_CHAIN_MATCH_PREDICATE__RULE_ANY_MATCH:
		return m->any_match;
	case ENVOY__CONFIG__LISTENER__V3__LISTENER_FILTER_CHAIN_MATCH_PREDICATE__RULE_DESTINATION_PORT_RANGE:
		return port >= m->destination_port_range->start &&
		       port < m->destination_port_range->end;
	default:
		return false;
	}
}

/* All that was read ahead, in one piece. */
static const uint8_t *ahead(struct lpre *p, size_t *ret_n)
{
	*ret_n = p->in ? evbuffer_get_length(p->in) : 0;
	return *ret_n ? evbuffer_pullup(p->in, -1) : (const uint8_t *)"";
}

static enum verdict tls_inspect(struct lpre *p, const struct lfilter *f)
{
	struct weft_sniff_hello hello;
	size_t n, at = 0, k = 0, len, used = 0;
	const uint8_t *b = ahead(p, &n);
	const char *name;

	switch (weft_sniff_tls(b, n, f->hello_max, f->prints, &hello)) {
	case WEFT_SNIFF_MORE:
		return p->eof ? V_NEXT : V_MORE;
	case WEFT_SNIFF_TOO_LARGE:
		return V_BAD;
	case WEFT_SNIFF_TLS:
		break;
	default:
		return V_NEXT;
	}
	p->tls_known = true;
	p->d.transport = "tls";
	memcpy(p->sni, hello.server_name, sizeof(p->sni));
	p->d.sni = p->sni;
	memcpy(p->ja3, hello.ja3, sizeof(p->ja3));
	memcpy(p->ja4, hello.ja4, sizeof(p->ja4));
	p->d.ja3 = p->ja3;
	p->d.ja4 = p->ja4;
	while (k < ALPN_NAMES && (len = weft_sniff_alpn(&hello, &at, &name))) {
		memcpy(p->alpn_text + used, name, len);
		p->alpn[k++] = p->alpn_text + used;
		p->alpn_text[used + len] = 0;
		used += len + 1;
	}
	p->d.alpn = p->alpn;
	return V_NEXT;
}

static enum verdict http_inspect(struct lpre *p)
{
	static const char *const h10[] = {"http/1.0", NULL}, *const h11[] = {"http/1.1", NULL},
				 *const h2[] = {"h2c", NULL};
	size_t n;
	const uint8_t *b = ahead(p, &n);

	if (p->tls_known) /* inside of TLS nothing can be seen */
		return V_NEXT;
	switch (weft_sniff_http(b, n)) {
	case WEFT_SNIFF_MORE:
		return p->eof ? V_NEXT : V_MORE;
	case WEFT_SNIFF_HTTP10:
		p->d.alpn = h10;
		return V_NEXT;
	case WEFT_SNIFF_HTTP11:
		p->d.alpn = h11;
		return V_NEXT;
	case WEFT_SNIFF_HTTP2:
		p->d.alpn = h2;
		return V_NEXT;
	default:
		return V_NEXT;
	}
}

static enum verdict proxy_header(struct lpre *p, const struct lfilter *f)
{
	struct weft_proxyproto pp;
	size_t n;
	const uint8_t *b = ahead(p, &n);
	ssize_t r = n ? weft_proxyproto_parse(b, n, &pp) : 0;

	if (r == 0)
		return p->eof ? (f->pp_optional ? V_NEXT : V_BAD) : V_MORE;
	if (r == -ENOENT)
		return f->pp_optional ? V_NEXT : V_BAD;
	if (r < 0)
		return V_BAD;
	if ((pp.version == 1 && f->pp_v1_off) || (pp.version == 2 && f->pp_v2_off))
		return f->pp_optional ? V_NEXT : V_BAD;
	if (!pp.local && !pp.unknown) {
		p->d.remote = pp.src;
		p->d.restored |= !weft_sockaddr_eq(&pp.dst, &p->d.local);
		p->d.local = pp.dst;
	}
	evbuffer_drain(p->in, (size_t)r);
	return V_NEXT;
}

static enum verdict run_one(struct lpre *p, const struct lfilter *f)
{
	struct weft_sockaddr dst;

	if (f->disabled && disabled(f->disabled, p->d.local.port))
		return V_NEXT;
	switch (f->kind) {
	case LF_TLS_INSPECTOR:
		return tls_inspect(p, f);
	case LF_HTTP_INSPECTOR:
		return http_inspect(p);
	case LF_PROXY_PROTOCOL:
		return proxy_header(p, f);
	case LF_ORIGINAL_DST:
		if (!weft_origdst(p->fd, &dst) && !weft_sockaddr_eq(&dst, &p->d.local)) {
			p->d.local = dst;
			p->d.restored = true;
		}
		return V_NEXT;
	}
	return V_NEXT;
}

/* Runs filters until one wants bytes. false: it was finished. */
static bool run(struct lpre *p)
{
	while (p->at < p->l->n_filter) {
		switch (run_one(p, &p->l->filter[p->at])) {
		case V_NEXT:
			p->at++;
			break;
		case V_MORE:
			return true;
		case V_BAD:
			weft_scope_add(p->l->scope, WEFT_LISTENER_downstream_listener_filter_error,
				       1);
			finish(p, false);
			return false;
		}
	}
	finish(p, true);
	return false;
}

static void on_read(evutil_socket_t fd, short what, void *arg)
{
	struct lpre *p = arg;
	struct evbuffer_iovec v[1];
	ssize_t n;

	if (!p->in)
		p->in = evbuffer_new();
	if (evbuffer_get_length(p->in) > AHEAD_MAX) {
		weft_scope_add(p->l->scope, WEFT_LISTENER_downstream_listener_filter_error, 1);
		finish(p, false);
		return;
	}
	if (evbuffer_reserve_space(p->in, READ_STEP, v, 1) < 1)
		return;
	n = recv(fd, v[0].iov_base, v[0].iov_len > READ_STEP ? READ_STEP : v[0].iov_len, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		p->eof = true;
		event_del(&p->ev);
		if (n < 0 || !evbuffer_get_length(p->in)) {
			weft_scope_add(p->l->scope,
				       WEFT_LISTENER_downstream_listener_filter_remote_close, 1);
			finish(p, false);
			return;
		}
	} else {
		v[0].iov_len = (size_t)n;
		evbuffer_commit_space(p->in, v, 1);
	}
	(void)run(p);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct lpre *p = arg;

	weft_scope_add(p->l->scope, WEFT_LISTENER_downstream_pre_cx_timeout, 1);
	finish(p, p->l->continue_on_timeout);
}

struct lpre *
lpre_start(struct event_base *base, const struct lconf *l, int fd, const struct weft_sockaddr *peer,
	   void (*done)(void *owner, struct lpre *p, const struct lpre_done *d, bool ok),
	   void *owner)
{
	struct lpre *p = weft_xcalloc(1, sizeof(*p));
	struct timeval tv = {l->filters_ms / 1000, l->filters_ms % 1000 * 1000};

	p->l = l;
	p->fd = fd;
	p->done = done;
	p->owner = owner;
	p->d.transport = "raw_buffer";
	p->d.sni = "";
	p->d.remote = p->d.direct_remote = *peer;
	(void)weft_sock_local(fd, &p->d.local);
	p->d.direct_local = p->d.local;
	event_assign(&p->ev, base, fd, EV_READ | EV_PERSIST, on_read, p);
	event_assign(&p->timer, base, -1, 0, on_timer, p);
	if (!run(p))
		return NULL;
	event_add(&p->ev, NULL);
	if (l->filters_ms)
		event_add(&p->timer, &tv);
	return p;
}
