/* Command operators of addresses and TLS. */
#include "proxy/l4/format_priv.h"

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
static void join(struct fval *v, const char *const *l)
{
	size_t n = 0;

	for (; l && *l && n + strlen(*l) + 2 < FVAL_TEXT; l++)
		n += (size_t)snprintf(v->text + n, FVAL_TEXT - n, "%s%s", n ? "," : "", *l);
	if (n)
		fval_str(v, v->text);
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
		join(v, t->peer_uri);
		break;
	case T_PEER_DNS:
		join(v, t->peer_dns);
		break;
	case T_PEER_IP:
		join(v, t->peer_ip);
		break;
	case T_PEER_EMAIL:
		join(v, t->peer_email);
		break;
	case T_LOCAL_URI:
		join(v, t->local_uri);
		break;
	case T_LOCAL_DNS:
		join(v, t->local_dns);
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
