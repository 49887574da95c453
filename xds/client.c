/* One stream over a unix socket, everything of some types: weft_xds_stream with little around it.
 */
#include "xds/client.h"
#include "proxy/core/arena.h"
#include "xds/stream.h"
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const char ads_path[] =
	"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

struct weft_xds_client {
	struct weft_xds_stream *stream;
	struct weft_xds_client_conf conf; /* strings are ours */
	Envoy__Config__Core__V3__Node node;
	Google__Protobuf__Struct meta;
	Google__Protobuf__Struct__FieldsEntry field, *fields;
	Google__Protobuf__Value value;
};

static int dial(void *owner, struct event_base *base, const struct weft_xds_link_conf *conf,
		struct weft_xds_link **ret, struct weft_err *reterr)
{
	struct weft_xds_client *c = owner;
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd, err;

	if (strlen(c->conf.path) >= sizeof(a.sun_path))
		return weft_fail(reterr, NULL, ENAMETOOLONG, "connect: %s", strerror(ENAMETOOLONG));
	strcpy(a.sun_path, c->conf.path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return weft_fail(reterr, NULL, errno, "socket: %s", strerror(errno));
	if (connect(fd, (struct sockaddr *)&a, sizeof(a))) { /* unix: at once or not at all */
		err = errno;
		close(fd);
		return weft_fail(reterr, NULL, err, "connect: %s", strerror(err));
	}
	*ret = weft_xds_link_new(base, fd, conf);
	return 0;
}

static void lost(void *owner, const char *why)
{
	struct weft_xds_client *c = owner;

	if (c->conf.lost)
		c->conf.lost(c->conf.owner, why);
}

static void fill_node(struct weft_xds_client *c)
{
	c->value = (Google__Protobuf__Value)GOOGLE__PROTOBUF__VALUE__INIT;
	c->value.kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE;
	c->value.string_value = (char *)c->conf.node_name;
	c->field =
		(Google__Protobuf__Struct__FieldsEntry)GOOGLE__PROTOBUF__STRUCT__FIELDS_ENTRY__INIT;
	c->field.key = (char *)"NODE_NAME";
	c->field.value = &c->value;
	c->fields = &c->field;
	c->meta = (Google__Protobuf__Struct)GOOGLE__PROTOBUF__STRUCT__INIT;
	c->meta.fields = &c->fields;
	c->meta.n_fields = 1;
	c->node = (Envoy__Config__Core__V3__Node)ENVOY__CONFIG__CORE__V3__NODE__INIT;
	c->node.id = (char *)c->conf.node_id;
	c->node.metadata = &c->meta;
}

struct weft_xds_client *weft_xds_client_new(struct event_base *base,
					    const struct weft_xds_client_conf *conf)
{
	struct weft_xds_client *c = weft_xcalloc(1, sizeof(*c));
	const struct weft_xds_stream_conf stream = {
		.method = weft_xstrdup(ads_path),
		.authority = weft_xstrdup("localhost"),
		.delta = true,
		.node = &c->node,
		.message_max = WEFT_XDS_MESSAGE_MAX,
		.backoff_min_ms = WEFT_XDS_BACKOFF_MIN_MS,
		.backoff_max_ms = WEFT_XDS_BACKOFF_MAX_MS,
		.times = conf->times,
		.connect = dial,
		.lost = lost,
		.owner = c,
	};

	c->conf = *conf;
	c->conf.path = weft_xstrdup(conf->path);
	c->conf.node_id = weft_xstrdup(conf->node_id);
	c->conf.node_name = weft_xstrdup(conf->node_name);
	fill_node(c);
	c->stream = weft_xds_stream_new(base, &stream);
	return c;
}

int weft_xds_subscribe(struct weft_xds_client *c, const struct weft_xds_type *t,
		       const struct weft_xds_sink *sink, void *owner)
{
	if (weft_xds_stream_find(c->stream, t->url))
		return -EEXIST;
	weft_xds_stream_wild(weft_xds_stream_type(c->stream, t, sink, owner), true);
	return 0;
}

void weft_xds_client_start(struct weft_xds_client *c)
{
	weft_xds_stream_start(c->stream);
}

void weft_xds_client_free(struct weft_xds_client *c)
{
	if (!c)
		return;
	weft_xds_stream_free(c->stream);
	free((char *)c->conf.path);
	free((char *)c->conf.node_id);
	free((char *)c->conf.node_name);
	free(c);
}

bool weft_xds_ready(const struct weft_xds_client *c)
{
	struct xtype *t;

	TAILQ_FOREACH (t, &c->stream->types, link)
		if (!t->ready)
			return false;
	return true;
}

bool weft_xds_connected(const struct weft_xds_client *c)
{
	return c->stream->connected;
}
