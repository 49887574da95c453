/* Command operators of addresses and TLS. */
#include "proxy/l4/format_priv.h"

#include "proxy/net/tls_more.h"
#include "proxy/upstream/host.h"
#include <stdio.h>
#include <string.h>

/* ---- addresses */
void fop_address(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const struct weft_info *i = in->info;
	struct weft_sockaddr a = {0};
	const char *path = NULL;

	if (!i)
		return;
	switch (op->arg & A_WHAT) {
	case A_UP_HOST:
		if (i->host)
			a = i->host->addr, path = i->host->unix_path;
		break;
	case A_UP_LOCAL:
		a = i->up_local;
		break;
	case A_UP_REMOTE:
		a = i->up_remote;
		break;
	case A_LOCAL:
		if (i->down)
			a = i->down->local, path = i->down->unix_path;
		break;
	case A_REMOTE:
		a = i->remote;
		break;
	case A_DIRECT_LOCAL:
		if (i->down)
			a = i->down->origin && i->down->origin->direct_local.ip.family
				    ? i->down->origin->direct_local
				    : i->down->local,
			path = i->down->unix_path;
		break;
	default:
		if (i->down)
			a = i->down->direct_remote.ip.family ? i->down->direct_remote
							     : i->down->remote;
	}
	if (!a.ip.family) {
		fval_str(v, path);
		return;
	}
	if (op->arg & A_PORT) {
		fval_num(v, a.port);
		return;
	}
	if (op->arg & A_NO_PORT)
		weft_ip_text(&a.ip, v->text, FVAL_TEXT);
	else
		weft_sockaddr_text(&a, v->text, FVAL_TEXT);
	fval_str(v, v->text);
}

/* ---- TLS */
static void join(struct fval *v, const char *const *l, struct weft_arena *a)
{
	size_t n = 0, need = 0, cap = FVAL_TEXT;
	char *to = v->text;

	for (size_t i = 0; l && l[i]; i++)
		need += strlen(l[i]) + 1;
	if (need > cap && a) {
		to = weft_arena_alloc(a, need);
		cap = need;
	}
	for (; l && *l && n + strlen(*l) + 2 <= cap + !n; l++)
		n += (size_t)snprintf(to + n, cap - n, "%s%s", n ? "," : "", *l);
	if (n)
		fval_str(v, to);
}

static void more(const struct weft_tls_more *m, unsigned what, struct weft_arena *a, struct fval *v)
{
	switch (what) {
	case T_SESSION:
		fval_str(v, m->session_id);
		break;
	case T_PEER_CERT:
		fval_str(v, m->peer_pem);
		break;
	case T_PEER_SHA1:
		fval_str(v, m->peer_sha1);
		break;
	case T_CHAIN_SHA1:
		join(v, m->chain_sha1, a);
		break;
	case T_CHAIN_SHA256:
		join(v, m->chain_sha256, a);
		break;
	case T_CHAIN_SERIAL:
		join(v, m->chain_serial, a);
		break;
	case T_PEER_OTHER:
		join(v, m->peer_other, a);
		break;
	case T_LOCAL_EMAIL:
		join(v, m->local_email, a);
		break;
	case T_LOCAL_IP:
		join(v, m->local_ip, a);
		break;
	default:
		join(v, m->local_other, a);
	}
}

void fop_tls(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const struct weft_info *i = in->info;
	const struct weft_tls_info *t = !i		 ? NULL
					: op->arg & T_UP ? i->up_tls
					: i->down	 ? i->down->tls
							 : NULL;

	if (!t)
		return;
	if ((op->arg & ~(unsigned)T_UP) >= T_MORE || (op->arg & ~(unsigned)T_UP) == T_SESSION) {
		if (t->more)
			more(t->more, op->arg & ~(unsigned)T_UP, i->arena, v);
		return;
	}
	switch (op->arg & ~(unsigned)T_UP) {
	case T_VERSION:
		fval_str(v, t->version);
		break;
	case T_CIPHER:
		fval_str(v, t->cipher);
		break;
	case T_PEER_SUBJECT:
		fval_str(v, t->peer_subject);
		break;
	case T_PEER_ISSUER:
		fval_str(v, t->peer_issuer);
		break;
	case T_PEER_SERIAL:
		fval_str(v, t->peer_serial);
		break;
	case T_PEER_SHA256:
		fval_str(v, t->peer_sha256);
		break;
	case T_PEER_URI:
		join(v, t->peer_uri, i->arena);
		break;
	case T_PEER_DNS:
		join(v, t->peer_dns, i->arena);
		break;
	case T_PEER_IP:
		join(v, t->peer_ip, i->arena);
		break;
	case T_PEER_EMAIL:
		join(v, t->peer_email, i->arena);
		break;
	case T_LOCAL_URI:
		join(v, t->local_uri, i->arena);
		break;
	case T_LOCAL_DNS:
		join(v, t->local_dns, i->arena);
		break;
	case T_LOCAL_SUBJECT:
		fval_str(v, t->local_subject);
		break;
	case T_START:
		if (t->peer_presented)
			fval_time(v, op->s ? op->s : format_time_default, false,
				  (uint64_t)t->peer_not_before * 1000000000);
		break;
	default:
		if (t->peer_presented)
			fval_time(v, op->s ? op->s : format_time_default, false,
				  (uint64_t)t->peer_not_after * 1000000000);
	}
}
