/* Our xDS server on the socket given as argument, for foreign clients. Reads commands: put NAME
 * HOST, del NAME, many COUNT BYTES, load FILE (a DiscoveryResponse in YAML or JSON with resources
 * of any type: these and no others are there from then on), add FILE (the same, the others stay),
 * sync (answered by a line). Writes
 * "ready", "loaded", "synced" and a line a NACK. Leaves when input ends. */
#include "proxy/core/arena.h"
#include "xds/names.h"
#include "xds/proto/envoy/service/discovery/v3/discovery.pb-c.h"
#include "xds/proto/workload.pb-c.h"
#include "xds/server.h"
#include "xds/wire.h"
#include "xds/yaml.h"
#include <event2/buffer.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { HOST_MAX = 4096 };

struct loaded { /* what a file brought */
	UT_hash_handle hh;
	const struct weft_xds_type *type;
	const char *name;
	unsigned round;
	char key[];
};
struct serve {
	struct event_base *base;
	struct loaded *loaded;
	unsigned round;
	struct weft_xds_server *server;
	struct evbuffer *in;
};

static void nacked(void *owner, const char *node, const struct weft_xds_type *t, const char *text)
{
	printf("nack %s %s %s\n", node, t->brief, text);
}

static void put(struct serve *s, const char *name, const char *host)
{
	Istio__Workload__Address a = ISTIO__WORKLOAD__ADDRESS__INIT;
	Istio__Workload__Service v = ISTIO__WORKLOAD__SERVICE__INIT;

	a.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE;
	a.service = &v;
	v.name = v.namespace_ = (char *)name;
	v.hostname = (char *)host;
	weft_xds_publish(s->server, &weft_xds_type_address, name, host ? &a.base : NULL, NULL);
}

static void many(struct serve *s, int count, size_t bytes)
{
	char host[HOST_MAX] = "", name[32];

	memset(host, 'h', bytes < HOST_MAX ? bytes : HOST_MAX - 1);
	weft_xds_server_begin(s->server);
	for (int i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "many/%d", i);
		put(s, name, host);
	}
	weft_xds_server_end(s->server);
}

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *api_version, const char *kind,
					      bool *ret_lenient, struct weft_err *reterr)
{
	return &envoy__service__discovery__v3__discovery_response__descriptor;
}

static void remember(struct serve *s, const struct weft_xds_type *t, const char *name)
{
	struct loaded *l;
	char *key;

	if (asprintf(&key, "%s %s", t->brief, name) < 0)
		abort();
	HASH_FIND(hh, s->loaded, key, strlen(key), l);
	if (!l) {
		l = weft_xcalloc(1, sizeof(*l) + strlen(key) + 1);
		strcpy(l->key, key);
		l->type = t;
		l->name = l->key + strlen(t->brief) + 1;
		HASH_ADD_KEYPTR(hh, s->loaded, l->key, strlen(l->key), l);
	}
	l->round = s->round;
	free(key);
}

/* The name of an Envoy resource is its field 1. */
static void publish(struct serve *s, struct weft_arena *a, const Google__Protobuf__Any *any)
{
	const struct weft_xds_type *t = weft_xds_type_find(any->type_url ?: "");
	const ProtobufCFieldDescriptor *f =
		t ? protobuf_c_message_descriptor_get_field(t->desc, 1) : NULL;
	struct weft_err err = {.msg = "not a resource with a name"};
	const ProtobufCMessage *m =
		f && f->type == PROTOBUF_C_TYPE_STRING
			? weft_wire_unpack(a, t->desc, any->value.data, any->value.len, true, &err)
			: NULL;
	const char *name;

	if (!m) {
		printf("error %s: %s\n", any->type_url ?: "", err.msg);
		return;
	}
	name = *(char *const *)((const char *)m + f->offset);
	remember(s, t, name);
	weft_xds_publish(s->server, t, name, m, NULL);
}

static void load(struct serve *s, const char *path, bool only)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_errs *errs = weft_xcalloc(1, sizeof(*errs));
	const Envoy__Service__Discovery__V3__DiscoveryResponse *m;
	struct weft_yaml_doc *docs = NULL;
	struct loaded *l, *tmp;
	size_t n = 0, n_docs = 0;
	char line[600], *text = weft_xcalloc(1, WEFT_YAML_BYTES_MAX + 1);
	FILE *f = fopen(path, "r");

	if (f) {
		n = fread(text, 1, WEFT_YAML_BYTES_MAX, f);
		fclose(f);
	}
	if (weft_yaml_decode(a, path, text, n, pick, NULL, &docs, &n_docs, errs) || n_docs != 1) {
		printf("error %s\n", weft_err_text(&errs->v[0], line, sizeof(line)));
		goto out;
	}
	m = (const void *)docs[0].msg;
	s->round += only;
	weft_xds_server_begin(s->server);
	for (size_t i = 0; i < m->n_resources; i++)
		publish(s, a, m->resources[i]);
	HASH_ITER (hh, s->loaded, l, tmp)
		if (l->round != s->round) {
			weft_xds_publish(s->server, l->type, l->name, NULL, NULL);
			HASH_DEL(s->loaded, l);
			free(l);
		}
	weft_xds_server_end(s->server);
	puts("loaded");
out:
	free(text);
	free(errs);
	weft_arena_free(a);
}

static void command(struct serve *s, char *line)
{
	char *verb = strtok(line, " "), *name = strtok(NULL, " "), *host = strtok(NULL, " ");

	if (verb && !strcmp(verb, "put") && host)
		put(s, name, host);
	else if (verb && !strcmp(verb, "del") && name)
		put(s, name, NULL);
	else if (verb && !strcmp(verb, "many") && host)
		many(s, atoi(name), strtoul(host, NULL, 10));
	else if (verb && !strcmp(verb, "load") && name)
		load(s, name, true);
	else if (verb && !strcmp(verb, "add") && name)
		load(s, name, false);
	else if (verb && !strcmp(verb, "sync"))
		puts("synced");
	else
		fprintf(stderr, "ads_serve: %s: no such command\n", verb ?: "");
}

static void on_input(evutil_socket_t fd, short what, void *arg)
{
	struct serve *s = arg;
	char *line;

	if (evbuffer_read(s->in, fd, 4096) <= 0) {
		event_base_loopbreak(s->base);
		return;
	}
	while ((line = evbuffer_readln(s->in, NULL, EVBUFFER_EOL_LF))) {
		command(s, line);
		free(line);
	}
}

int main(int argc, char **argv)
{
	struct weft_xds_server_conf conf = {.nacked = nacked};
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct serve s = {.base = event_base_new(), .in = evbuffer_new()};
	struct loaded *l, *tmp;
	struct event *ev;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (argc < 2 || argc > 3 || strlen(argv[1]) >= sizeof(a.sun_path)) {
		fprintf(stderr, "usage: ads_serve SOCKET [FILE]\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	strcpy(a.sun_path, argv[1]);
	s.server = weft_xds_server_new(s.base, &conf);
	if (argc == 3)
		load(&s, argv[2], true);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 16)) {
		perror(argv[1]);
		return 1;
	}
	if (weft_xds_server_listen(s.server, fd, NULL))
		return 1;
	ev = event_new(s.base, 0, EV_READ | EV_PERSIST, on_input, &s);
	event_add(ev, NULL);
	puts("ready");
	event_base_dispatch(s.base);
	event_free(ev);
	weft_xds_server_free(s.server);
	HASH_ITER (hh, s.loaded, l, tmp) {
		HASH_DEL(s.loaded, l);
		free(l);
	}
	evbuffer_free(s.in);
	event_base_free(s.base);
	unlink(argv[1]);
	return 0;
}
