/* A RouteConfiguration out of YAML, and requests that look for their route in it. */
#pragma once
#include "proxy/http/route_priv.h"
#include "proxy/http/route_stats.h"
#include "xds/yaml.h"
#include <event2/buffer.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct weft_arena *arena;
static struct weft_errs errs, warns;
static struct weft_routes *routes;
static struct weft_headers req;
static struct weft_info info;
static struct weft_io_info down;
static struct weft_route_in in;

static int fresh(void **state)
{
	if (arena)
		weft_arena_free(arena);
	arena = weft_arena_new(0);
	memset(&errs, 0, sizeof(errs));
	memset(&warns, 0, sizeof(warns));
	memset(&info, 0, sizeof(info));
	memset(&down, 0, sizeof(down));
	info.down = &down;
	info.arena = arena;
	weft_headers_init(&req, arena);
	in = (struct weft_route_in){&req, &info, 0, false};
	return 0;
}

static int gone(void **state)
{
	weft_arena_free(arena);
	arena = NULL;
	return 0;
}

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *v, const char *k,
					      bool *lenient, struct weft_err *e)
{
	return ctx;
}

static int load(const char *yaml)
{
	struct weft_cfg c = {.arena = arena, .errs = &errs, .warns = &warns, .file = true};
	struct weft_yaml_doc *docs = NULL;
	size_t n = 0;

	if (weft_yaml_decode(arena, "t.yaml", yaml, strlen(yaml), pick,
			     (void *)&envoy__config__route__v3__route_configuration__descriptor,
			     &docs, &n, &errs) ||
	    weft_cfg_check(&c, NULL, docs[0].msg))
		return -EINVAL;
	return weft_routes_new(&c, NULL, (const void *)docs[0].msg, &routes);
}

/* One virtual host for all with these routes. */
static void table(const char *list)
{
	char *text = NULL;
	FILE *f;
	size_t n;

	f = open_memstream(&text, &n);
	fprintf(f, "{name: t, virtual_hosts: [{name: v, domains: ['*'], routes: [%s]}]}", list);
	fclose(f);
	if (load(text))
		fail_msg("%s: %s", errs.v[0].path, errs.v[0].msg);
	free(text);
}

static void request(const char *host, const char *path, ...)
{
	const char *name;
	va_list ap;

	weft_headers_init(&req, arena);
	weft_headers_add_id(&req, WEFT_H_METHOD, "GET", 3);
	weft_headers_add_id(&req, WEFT_H_SCHEME, "http", 4);
	if (host)
		weft_headers_add_id(&req, WEFT_H_AUTHORITY, host, strlen(host));
	if (path)
		weft_headers_add_id(&req, WEFT_H_PATH, path, strlen(path));
	va_start(ap, path);
	while ((name = va_arg(ap, const char *)) != NULL) {
		const char *v = va_arg(ap, const char *);

		if (name[0] == ':')
			weft_headers_set(&req, name, strlen(name), v, strlen(v));
		else
			weft_headers_add(&req, name, strlen(name), v, strlen(v));
	}
	va_end(ap);
}

static const struct weft_route *find(void)
{
	bool tls;

	return weft_routes_find(routes, &in, &tls);
}

static const char *name_found(void)
{
	const struct weft_route *r = find();

	return r ? r->name : "none";
}

#define GOES(path, ...) (request("h", path, ##__VA_ARGS__, (const char *)NULL), name_found())
#define TO		"route: {cluster: c}"
#define R(name, match)	"{name: " name ", match: {" match "}, " TO "},"
