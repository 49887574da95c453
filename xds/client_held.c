/* What the client holds by name and version, and how it tells a server so. */
#include "proxy/core/arena.h"
#include "xds/client_priv.h"
#include <event2/buffer.h>

enum { ENTRY_OVERHEAD = 16 };

void weft_xds_held_free(struct xtype *t)
{
	struct xheld *h, *tmp;

	HASH_ITER (hh, t->held, h, tmp) {
		HASH_DEL(t->held, h);
		free(h->version);
		free(h);
	}
}

void weft_xds_client_send(struct weft_xds_client *c, const ProtobufCMessage *m)
{
	size_t n = protobuf_c_message_get_packed_size(m);
	uint8_t *p = weft_xcalloc(1, n ? n : 1);

	protobuf_c_message_pack(m, p);
	weft_grpc_out(c->out, p, n);
	free(p);
	weft_h2_resume(c->s);
	weft_xds_link_push(c->link);
}

typedef Envoy__Discovery__DeltaDiscoveryRequest__InitialResourceVersionsEntry entry;

/* Names that are left out, because they were refused or are too many, are looked at when the first
 * state is complete. */
static size_t list_versions(struct xtype *t, entry **ret)
{
	entry *v = weft_xcalloc(HASH_COUNT(t->held) + 1, sizeof(*v));
	struct xheld *h, *tmp;
	size_t n = 0, bytes = 0;

	HASH_ITER (hh, t->held, h, tmp) {
		size_t need = strlen(h->name) + strlen(h->version) + ENTRY_OVERHEAD;

		h->unsure = h->refused || bytes + need > WEFT_XDS_VERSIONS_BYTES;
		if (h->unsure)
			continue;
		envoy__discovery__delta_discovery_request__initial_resource_versions_entry__init(
			&v[n]);
		v[n].key = h->name;
		v[n++].value = h->version;
		bytes += need;
	}
	*ret = v;
	return n;
}

void weft_xds_client_open_type(struct weft_xds_client *c, struct xtype *t)
{
	Envoy__Discovery__DeltaDiscoveryRequest m = ENVOY__DISCOVERY__DELTA_DISCOVERY_REQUEST__INIT;
	Envoy__Discovery__Node node = ENVOY__DISCOVERY__NODE__INIT;
	Google__Protobuf__Struct meta = GOOGLE__PROTOBUF__STRUCT__INIT;
	Google__Protobuf__Struct__FieldsEntry field = GOOGLE__PROTOBUF__STRUCT__FIELDS_ENTRY__INIT;
	Google__Protobuf__Struct__FieldsEntry *fields = &field;
	Google__Protobuf__Value value = GOOGLE__PROTOBUF__VALUE__INIT;
	entry *v, **pv;
	size_t n = list_versions(t, &v);

	value.kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE;
	value.string_value = (char *)c->conf.node_name;
	field.key = (char *)"NODE_NAME";
	field.value = &value;
	meta.fields = &fields;
	meta.n_fields = 1;
	node.id = (char *)c->conf.node_id;
	node.metadata = &meta;
	pv = weft_xcalloc(n + 1, sizeof(*pv));
	for (size_t i = 0; i < n; i++)
		pv[i] = &v[i];
	m.node = &node;
	m.type_url = (char *)t->type->url;
	m.initial_resource_versions = pv;
	m.n_initial_resource_versions = n;
	t->syncing = true;
	weft_xds_client_send(c, &m.base);
	free(pv);
	free(v);
}
