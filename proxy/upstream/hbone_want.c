/* Whether an endpoint is reached by an HBONE tunnel, and where that one goes. */
#include "proxy/upstream/pool_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { HBONE_PORT = 15008 };

static const Google__Protobuf__Struct *hbone_metadata(const Envoy__Config__Core__V3__Metadata *md)
{
	for (size_t i = 0; md && i < md->n_filter_metadata; i++)
		if (!strcmp(md->filter_metadata[i]->key, "weft.hbone"))
			return md->filter_metadata[i]->value;
	return NULL;
}

bool weft_tunnel_want(const struct weft_take *how, const struct weft_host *h,
		      struct tunnel_want *ret)
{
	const Google__Protobuf__Struct *s = hbone_metadata(how->metadata);

	*ret = (struct tunnel_want){0};
	for (size_t i = 0; s && i < s->n_fields; i++) {
		const char *k = s->fields[i]->key;
		const Google__Protobuf__Value *v = s->fields[i]->value;
		bool text = v && v->kind_case == GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE;

		if (!strcmp(k, "tunnel") && text)
			ret->peer = v->string_value;
		else if (!strcmp(k, "tunnel") && v &&
			 v->kind_case == GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE)
			ret->peer_port = v->number_value;
		else if (!strcmp(k, "authority") && text)
			ret->authority = v->string_value;
		else if (!strcmp(k, "identity") && text)
			ret->identity = v->string_value;
	}
	if (s && !ret->authority)
		ret->authority = h->text;
	if (how->tunnel)
		ret->authority = how->tunnel;
	if (how->identity)
		ret->identity = how->identity;
	return ret->authority;
}

static int port_of(const char *s, uint16_t *ret)
{
	char *end;
	unsigned long v = strtoul(s, &end, 10);

	if (*s < '0' || *s > '9' || *end || v < 1 || v > 65535)
		return -EINVAL;
	*ret = (uint16_t)v;
	return 0;
}

int weft_hbone_addr(const struct hbone_ask *ask, struct weft_sockaddr *ret)
{
	*ret = ask->host->addr;
	ret->port = HBONE_PORT;
	if (ask->to.peer && port_of(ask->to.peer, &ret->port) < 0)
		return weft_sockaddr_parse(ask->to.peer, ret);
	if (!ask->to.peer && ask->to.peer_port) {
		if (ask->to.peer_port < 1 || ask->to.peer_port > 65535)
			return -EINVAL;
		ret->port = (uint16_t)ask->to.peer_port;
	}
	return ret->ip.family ? 0 : -EINVAL;
}
