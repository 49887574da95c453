/* Names: what a request asks the TLS session to be for, and whether a certificate is of it. */
#include "proxy/session/headers.h"
#include "proxy/upstream/transport.h"

#include <string.h>
#include <strings.h>

/* Host part of an authority, without port and brackets. 0: longer than any name. */
static size_t host_part(const char *s, char dst[WEFT_NAME_BYTES])
{
	const char *end = *s == '[' ? strchr(s, ']') : strrchr(s, ':');
	size_t n;

	if (*s == '[') {
		s++;
		n = end ? (size_t)(end - s) : 0;
	} else {
		n = end ? (size_t)(end - s) : strlen(s);
	}
	if (n >= WEFT_NAME_BYTES)
		return 0;
	memcpy(dst, s, n);
	dst[n] = 0;
	return n;
}

void weft_transport_names(const struct weft_cluster *c, const struct weft_headers *h,
			  char buf[WEFT_NAME_BYTES], struct weft_take *how)
{
	const struct weft_cluster_priv *p = c->priv;
	const char *from = "";
	struct weft_ip ip;

	if (!p || (!p->auto_sni && !p->auto_san))
		return;
	if (p->auto_sni_header && *p->auto_sni_header) {
		const struct weft_header *f = weft_headers_find(h, p->auto_sni_header, 0);

		from = f ? f->value : "";
	}
	if (!*from)
		from = weft_headers_value(h, WEFT_H_AUTHORITY);
	if (!host_part(from, buf))
		return;
	if (p->auto_sni && weft_ip_parse(buf, &ip) < 0)
		how->sni = buf;
	if (p->auto_san)
		how->san = buf;
}

/* RFC 6125 §6.4.3: "*." stands for one label, the leftmost, whole. */
static bool name_is(const char *pattern, const char *name)
{
	const char *rest;

	if (!strcasecmp(pattern, name))
		return true;
	if (strncmp(pattern, "*.", 2) != 0 || !strchr(pattern + 2, '.'))
		return false;
	rest = strchr(name, '.');
	return rest && rest != name && !strcasecmp(pattern + 1, rest);
}

bool weft_transport_san_ok(const struct weft_tls_info *tls, const char *san)
{
	struct weft_ip want, has;

	if (weft_ip_parse(san, &want) == 0) {
		for (size_t i = 0; tls->peer_ip && tls->peer_ip[i]; i++)
			if (weft_ip_parse(tls->peer_ip[i], &has) == 0 && weft_ip_eq(&want, &has))
				return true;
		return false;
	}
	for (size_t i = 0; tls->peer_dns && tls->peer_dns[i]; i++)
		if (name_is(tls->peer_dns[i], san))
			return true;
	return false;
}
