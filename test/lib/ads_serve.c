/* Our ADS server on the socket given as argument, for foreign clients. Reads commands: put NAME
 * HOST, del NAME, many COUNT BYTES, sync (answered by a line). Writes "ready", "synced" and a line
 * a NACK. Leaves when input ends. */
#include "proxy/core/arena.h"
#include "xds/proto/workload.pb-c.h"
#include "xds/server.h"
#include <event2/buffer.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { HOST_MAX = 4096 };

struct serve {
	struct event_base *base;
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

static void command(struct serve *s, char *line)
{
	char *verb = strtok(line, " "), *name = strtok(NULL, " "), *host = strtok(NULL, " ");

	if (verb && !strcmp(verb, "put") && host)
		put(s, name, host);
	else if (verb && !strcmp(verb, "del") && name)
		put(s, name, NULL);
	else if (verb && !strcmp(verb, "many") && host)
		many(s, atoi(name), strtoul(host, NULL, 10));
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
	struct event *ev;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (argc != 2 || strlen(argv[1]) >= sizeof(a.sun_path)) {
		fprintf(stderr, "usage: ads_serve SOCKET\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	strcpy(a.sun_path, argv[1]);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 16)) {
		perror(argv[1]);
		return 1;
	}
	s.server = weft_xds_server_new(s.base, &conf);
	if (weft_xds_server_listen(s.server, fd, NULL))
		return 1;
	ev = event_new(s.base, 0, EV_READ | EV_PERSIST, on_input, &s);
	event_add(ev, NULL);
	puts("ready");
	event_base_dispatch(s.base);
	event_free(ev);
	weft_xds_server_free(s.server);
	evbuffer_free(s.in);
	event_base_free(s.base);
	unlink(argv[1]);
	return 0;
}
