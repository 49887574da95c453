/* What clients say: subscriptions, acks and refusals, in both forms of the protocol. */
#include "proxy/core/arena.h"
#include "xds/proto/envoy/service/discovery/v3/discovery.pb-c.h"
#include "xds/server_priv.h"
#include "xds/wire.h"
#include <errno.h>
#include <stdio.h>

typedef Envoy__Service__Discovery__V3__DeltaDiscoveryRequest delta_request;
typedef Envoy__Service__Discovery__V3__DiscoveryRequest sotw_request;

/* False: no answer, or to something older. */
static bool take_answer(struct xstream *st, int type, const char *nonce,
			const Google__Rpc__Status *error)
{
	const struct weft_xds_server_conf *conf = &st->client->server->conf;
	struct xsub *sub = &st->subs[type];
	char text[WEFT_XDS_TEXT_MAX + 1];

	if (!sub->waiting || !nonce || strcmp(nonce, sub->nonce))
		return false;
	sub->waiting = false;
	if (error && conf->nacked) {
		snprintf(text, sizeof(text), "%s", error->message ?: "no reason given");
		for (char *c = text; *c; c++)
			if ((unsigned char)*c < ' ')
				*c = ' '; /* one line */
		conf->nacked(conf->owner, st->node, weft_xds_types[type], text);
	}
	return true;
}

static bool admit(struct xstream *st, const Envoy__Config__Core__V3__Node *node)
{
	struct weft_xds_server *s = st->client->server;
	const struct weft_xds_peer peer = {.pid = st->client->pid,
					   .uid = st->client->uid,
					   .node = node,
					   .authorization = st->authorization};
	char scope[WEFT_XDS_SCOPE_MAX] = "";
	struct weft_err err = {0};
	int r = 0;

	if (!node || !node->id || !node->id[0]) {
		weft_xds_finish(st, GRPC_INVALID_ARGUMENT, "node.id: must be set");
		return false;
	}
	if (s->conf.admit)
		r = s->conf.admit(s->conf.owner, &peer, scope, &err);
	if (r < 0) {
		weft_xds_finish(st, GRPC_PERMISSION_DENIED, "%s",
				err.msg[0] ? err.msg : "not admitted");
		return false;
	}
	snprintf(st->node, sizeof(st->node), "%s", node->id);
	st->scope = weft_xds_scope_get(s, scope);
	st->scope->n_streams++;
	free(st->authorization);
	st->authorization = NULL;
	return true;
}

/* The type's index, or -1: the stream is ended. */
static int admit_type(struct xstream *st, const Envoy__Config__Core__V3__Node *node,
		      const char *url)
{
	int type = url && url[0] ? weft_xds_type_index(url) : st->only;

	if (!st->scope && !admit(st, node))
		return -1;
	if (type < 0 || (st->only >= 0 && type != st->only)) {
		weft_xds_finish(st, GRPC_INVALID_ARGUMENT, "type_url: not served: \"%.128s\"",
				url ?: "");
		return -1;
	}
	return type;
}

static void too_many(struct xstream *st, const char *field)
{
	weft_xds_finish(st, GRPC_RESOURCE_EXHAUSTED, "%s: at most %d names of a type", field,
			WEFT_XDS_NAMES_MAX);
}

static void delta(struct xstream *st, const delta_request *m)
{
	int type = admit_type(st, m->node, m->type_url);
	struct xtable *t;
	struct xsub *sub;

	if (type < 0)
		return;
	t = &st->scope->tables[type];
	sub = &st->subs[type];
	if (sub->subscribed) {
		(void)take_answer(st, type, m->response_nonce, m->error_detail);
	} else {
		weft_xds_sub_open(sub, t);
		if (!m->n_resource_names_subscribe)
			(void)weft_xds_sub_add(sub, t, "*");
		for (size_t i = 0; i < m->n_initial_resource_versions; i++)
			weft_xds_sub_known(sub, m->initial_resource_versions[i]->key ?: "",
					   m->initial_resource_versions[i]->value ?: "");
	}
	for (size_t i = 0; i < m->n_resource_names_subscribe; i++)
		if (weft_xds_sub_add(sub, t, m->resource_names_subscribe[i])) {
			too_many(st, "resource_names_subscribe");
			return;
		}
	for (size_t i = 0; i < m->n_resource_names_unsubscribe; i++)
		weft_xds_sub_del(sub, m->resource_names_unsubscribe[i]);
}

/* Names of a request that answers an older response are old too. */
static void sotw(struct xstream *st, const sotw_request *m)
{
	int type = admit_type(st, m->node, m->type_url);
	const char *nonce = m->response_nonce;
	struct xtable *t;
	struct xsub *sub;

	if (type < 0)
		return;
	t = &st->scope->tables[type];
	sub = &st->subs[type];
	if (!sub->subscribed)
		weft_xds_sub_open(sub, t);
	else if (nonce && nonce[0] && strcmp(nonce, sub->nonce))
		return;
	else
		(void)take_answer(st, type, nonce, m->error_detail);
	if (weft_xds_sub_set(sub, t, m->resource_names, m->n_resource_names,
			     ++st->client->server->stamp))
		too_many(st, "resource_names");
}

void weft_xds_request(struct xstream *st, const uint8_t *p, size_t n)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_err err = {0};
	char text[600];
	const ProtobufCMessage *m = weft_wire_unpack(
		a,
		st->delta ? &envoy__service__discovery__v3__delta_discovery_request__descriptor
			  : &envoy__service__discovery__v3__discovery_request__descriptor,
		p, n, false, &err);

	if (!m)
		weft_xds_finish(st, GRPC_INVALID_ARGUMENT, "%s",
				weft_err_text(&err, text, sizeof(text)));
	else if (st->delta)
		delta(st, (const delta_request *)m);
	else
		sotw(st, (const sotw_request *)m);
	weft_arena_free(a);
}
