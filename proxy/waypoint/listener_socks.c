/* Bound sockets of listeners: opened, used again by the next configuration, closed when nobody has
 * them. */
#include "proxy/waypoint/listeners_priv.h"

#include "proxy/net/origdst.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool same_socket(const struct weft_listen_conf *a, const struct weft_listen_conf *b)
{
	size_t i;

	if (!!a->unix_path != !!b->unix_path ||
	    (a->unix_path && strcmp(a->unix_path, b->unix_path)))
		return false;
	if (a->n_opts != b->n_opts || a->reuse_port != b->reuse_port ||
	    a->transparent != b->transparent || a->freebind != b->freebind ||
	    a->v4_compat != b->v4_compat || a->mptcp != b->mptcp || a->backlog != b->backlog ||
	    a->fastopen != b->fastopen || a->unix_mode != b->unix_mode)
		return false;
	for (i = 0; i < a->n_opts; i++)
		if (a->opts[i].level != b->opts[i].level || a->opts[i].name != b->opts[i].name ||
		    a->opts[i].value != b->opts[i].value || a->opts[i].when != b->opts[i].when ||
		    a->opts[i].bytes_n != b->opts[i].bytes_n ||
		    (a->opts[i].bytes_n &&
		     memcmp(a->opts[i].bytes, b->opts[i].bytes, a->opts[i].bytes_n)))
			return false;
	return a->unix_path || weft_sockaddr_eq(&a->addr, &b->addr);
}

/* A path in the file system that another socket has by now is not ours to take away. */
static bool path_is_ours(const struct lsock *s)
{
	const struct lsock *o;

	if (!s->conf.unix_path || *s->conf.unix_path == '@' || !s->n || s->closed)
		return false;
	TAILQ_FOREACH (o, &s->m->socks, link)
		if (o != s && o->n && !o->closed && o->conf.unix_path &&
		    !strcmp(o->conf.unix_path, s->conf.unix_path))
			return false;
	return true;
}

void lsock_close(struct lsock *s)
{
	size_t i;

	if (!s || s->closed)
		return;
	for (i = 0; i < s->n; i++) {
		close(s->fd[i]);
		s->fd[i] = -1;
	}
	if (path_is_ours(s))
		unlink(s->conf.unix_path);
	s->closed = true;
}

void lsock_unref(struct lsock *s)
{
	struct weft_sockopt *o;
	size_t i;

	if (!s || --s->refs)
		return;
	lsock_close(s);
	TAILQ_REMOVE(&s->m->socks, s, link);
	o = (struct weft_sockopt *)s->conf.opts;
	for (i = 0; i < s->conf.n_opts; i++)
		free((void *)o[i].bytes);
	free(o);
	free((void *)s->conf.unix_path);
	free(s->fd);
	free(s);
}

static void conf_copy(struct weft_listen_conf *to, const struct weft_listen_conf *from)
{
	struct weft_sockopt *o = weft_xcalloc(from->n_opts + 1, sizeof(*o));
	size_t i;

	*to = *from;
	to->unix_path = from->unix_path ? weft_xstrdup(from->unix_path) : NULL;
	for (i = 0; i < from->n_opts; i++) {
		o[i] = from->opts[i];
		if (o[i].bytes_n) {
			void *p = weft_xcalloc(1, o[i].bytes_n);

			memcpy(p, from->opts[i].bytes, o[i].bytes_n);
			o[i].bytes = p;
		}
	}
	to->opts = o;
}

static struct lsock *sock_open(struct listeners *m, const struct weft_listen_conf *conf,
			       struct weft_err *reterr)
{
	struct lsock *s = weft_xcalloc(1, sizeof(*s));
	struct weft_listen_conf one = *conf;
	size_t n = conf->reuse_port ? m->conf.n_workers : 1, i;

	s->refs = s->users = 1;
	s->m = m;
	TAILQ_INSERT_TAIL(&m->socks, s, link);
	conf_copy(&s->conf, conf);
	s->fd = weft_xcalloc(n, sizeof(*s->fd));
	for (i = 0; i < n; i++) {
		if (weft_listen(&one, &s->fd[i], reterr) < 0) {
			lsock_unref(s);
			return NULL;
		}
		s->n++;
		if (!i && !conf->unix_path) {
			(void)weft_sock_local(s->fd[0], &s->bound);
			one.addr.port = s->bound.port; /* port 0: all workers the same */
		}
	}
	return s;
}

/* Those of the entry itself, and those that a removed one left and workers still have. */
static struct lsock *sock_find(struct listeners *m, const struct entry *of,
			       const struct weft_listen_conf *conf)
{
	struct lsock *s;
	unsigned i;

	for (i = 0; of && i < LISTENER_ADDRS_MAX; i++)
		if (of->sock[i] && !of->sock[i]->closed && same_socket(&of->sock[i]->conf, conf))
			return of->sock[i];
	TAILQ_FOREACH (s, &m->socks, link)
		if (!s->users && !s->closed && (conf->unix_path || conf->addr.port) &&
		    same_socket(&s->conf, conf))
			return s;
	return NULL;
}

void lsock_leave(struct lsock *s)
{
	if (s)
		s->users--;
	lsock_unref(s);
}

int lsocks_take(struct listeners *m, const struct entry *e, const struct lconf *l,
		struct lsock **ret, struct weft_err *reterr)
{
	unsigned i;

	memset(ret, 0, LISTENER_ADDRS_MAX * sizeof(*ret));
	if (m->conf.dry || !l->bind)
		return 0;
	for (i = 0; i < l->n_addr; i++) {
		ret[i] = sock_find(m, e, &l->addr[i]);
		if (ret[i]) {
			ret[i]->refs++;
			ret[i]->users++;
			continue;
		}
		ret[i] = sock_open(m, &l->addr[i], reterr);
		if (!ret[i]) {
			while (i--)
				lsock_leave(ret[i]);
			return -EADDRINUSE;
		}
	}
	return 0;
}
