/* The first bytes of a connection, through listener filters as a listener drives them. First byte:
 * which filters and in what order; second: their options; third: into how many bytes the rest is
 * cut; fourth: how it ends. Whatever came must be decided once, and what is not of a PROXY header
 * is handed on to the byte. */
#include "proxy/waypoint/listener.h"

#include <assert.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { FILTERS = 3, HEAD = 4, DATA_MAX = 80 << 10, ROUNDS = 4096 };

struct run {
	struct lpre *over; /* ours to free, once it was decided */
	unsigned done;
	bool ok;
	size_t n;
	uint8_t bytes[DATA_MAX];
};

static void done(void *owner, struct lpre *p, const struct lpre_done *d, bool ok)
{
	struct run *r = owner;
	size_t i;

	r->done++;
	r->over = p;
	r->ok = ok;
	assert(!strcmp(d->transport, "tls") || !strcmp(d->transport, "raw_buffer"));
	assert(strlen(d->sni) < 256);
	for (i = 0; d->alpn && d->alpn[i]; i++)
		assert(*d->alpn[i]);
	if (d->already) {
		r->n = evbuffer_get_length(d->already);
		assert(r->n > 0 && r->n <= DATA_MAX);
		evbuffer_copyout(d->already, r->bytes, r->n);
	}
	if (!ok) /* as pre_done: the socket is ours now */
		r->n = 0;
}

/* Two bits each: none, tls, http, proxy. */
static unsigned filters(struct lfilter *v, unsigned plan, unsigned opt)
{
	static const enum lfilter_kind kinds[] = {LF_TLS_INSPECTOR, LF_HTTP_INSPECTOR,
						  LF_PROXY_PROTOCOL};
	unsigned n = 0, i;

	for (i = 0; i < FILTERS; i++, plan >>= 2)
		if (plan & 3)
			v[n++] = (struct lfilter){.kind = kinds[(plan & 3) - 1],
						  .hello_max = opt & 1 ? 512 : 16 << 10,
						  .pp_optional = opt & 2,
						  .pp_v1_off = opt & 4,
						  .pp_v2_off = opt & 8};
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static struct event_base *base;
	static struct run r;
	struct lfilter v[FILTERS];
	struct lconf l = {.filter = v, .continue_on_timeout = n > 1 && data[1] & 16};
	struct weft_sockaddr peer = {.ip.family = 4, .port = 1};
	size_t at = HEAD, cut, rounds = 0;
	struct lpre *p;
	int s[2];

	if (n < HEAD || n > DATA_MAX)
		return 0;
	if (!base)
		base = event_base_new();
	l.scope = weft_scope_get(&weft_listener_scope, "fuzz");
	l.n_filter = filters(v, data[0], data[1]);
	memset(&r, 0, offsetof(struct run, bytes));
	cut = data[2] ? data[2] : n;
	assert(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s));
	p = lpre_start(base, &l, s[0], &peer, done, &r);
	assert((p == NULL) == (r.done == 1));
	while (p && !r.done && rounds++ < ROUNDS) {
		size_t k = at < n ? (n - at < cut ? n - at : cut) : 0;
		ssize_t w = k ? write(s[1], data + at, k) : 0;

		if (w > 0)
			at += (size_t)w;
		if (at == n && !(data[3] & 1))
			shutdown(s[1], SHUT_WR);
		event_base_loop(base, EVLOOP_NONBLOCK);
		if (at == n && data[3] & 1)
			break;
	}
	assert(r.done <= 1);
	/* what was read ahead is the end of what was written: only a PROXY header was eaten */
	assert(r.n <= at - HEAD && !memcmp(r.bytes, data + at - r.n, r.n));
	lpre_free(r.over ? r.over : p);
	close(s[0]);
	close(s[1]);
	return 0;
}
