/* Certificates and TLS configuration for pool_fix.h's cluster and server. */
#pragma once
#include "pool_fix.h"

#include "../net/certs.h"
#include "xds/tls_conf.h"
#include "xds/yaml.h"

#define WEB "spiffe://td/ns/a/sa/web"
#define WAY "spiffe://td/ns/a/sa/way"

struct tls {
	struct test_cert ca, web, way, foreign_ca;
	struct weft_tls_server *server;
	struct weft_io_tls io;
};

static const ProtobufCMessage *of_yaml(struct weft_arena *a, const char *text,
				       const ProtobufCMessageDescriptor *d,
				       struct weft_marks const **ret_marks);

static const ProtobufCMessageDescriptor *tls_pick(void *ctx, const char *api, const char *kind,
						  bool *ret_lenient, struct weft_err *reterr)
{
	return ctx;
}

static const ProtobufCMessage *of_yaml(struct weft_arena *a, const char *text,
				       const ProtobufCMessageDescriptor *d,
				       struct weft_marks const **ret_marks)
{
	struct weft_errs errs = {0};
	struct weft_yaml_doc *docs;
	size_t n;

	weft_yaml_decode(a, "t", text, strlen(text), tls_pick, (void *)d, &docs, &n, &errs);
	if (errs.n)
		print_error("%s: %s: %s\n", errs.v[0].where, errs.v[0].path, errs.v[0].msg);
	assert_int_equal(errs.n, 0);
	if (ret_marks)
		*ret_marks = docs[0].marks;
	return docs[0].msg;
}

/* A PEM as JSON text. */
static const char *quoted(struct weft_arena *a, const char *pem)
{
	char *out = weft_arena_alloc(a, 2 * strlen(pem) + 3), *p = out;

	*p++ = '"';
	for (; *pem; pem++) {
		if (*pem == '\n')
			*p++ = '\\';
		*p++ = *pem == '\n' ? 'n' : *pem;
	}
	*p++ = '"';
	*p = 0;
	return out;
}

static const char *cert_yaml(struct weft_arena *a, const struct test_cert *c)
{
	return weft_arena_printf(a,
				 "{certificate_chain: {inline_string: %s}, private_key: "
				 "{inline_string: %s}}",
				 quoted(a, c->pem), quoted(a, c->key_pem));
}

static const char *ca_yaml(struct weft_arena *a, const struct test_cert *c)
{
	return weft_arena_printf(a, "{trusted_ca: {inline_string: %s}}", quoted(a, c->pem));
}

/* alpn: "[h2]" */
static void tls_serve(struct tls *t, struct fix *f, const char *alpn)
{
	struct weft_errs errs = {0};
	struct weft_cfg c = {.arena = f->arena, .errs = &errs, .file = true};
	const char *text = weft_arena_printf(
		f->arena,
		"{require_client_certificate: true, common_tls_context: {alpn_protocols: %s, "
		"tls_certificates: [%s], validation_context: %s}}",
		alpn, cert_yaml(f->arena, &t->web), ca_yaml(f->arena, &t->ca));

	if (weft_tls_server_new(
		    &c, NULL,
		    (const void *)of_yaml(
			    f->arena, text,
			    &envoy__extensions__transport_sockets__tls__v3__downstream_tls_context__descriptor,
			    NULL),
		    NULL, &t->server) < 0) {
		print_error("%s: %s\n", errs.v[0].path, errs.v[0].msg);
		fail();
	}
	t->io.ctx = t->server->ctx;
	f->server.tls = &t->io;
}

static void tls_open(struct tls *t)
{
	const struct test_san web = {WEB, 0}, way = {WAY, 0};

	memset(t, 0, sizeof(*t));
	t->ca = test_cert_new(NULL, NULL, 0, NULL, -3600, 3600);
	t->foreign_ca = test_cert_new(NULL, NULL, 0, NULL, -3600, 3600);
	t->web = test_cert_new(&t->ca, &web, 1, NULL, -3600, 3600);
	t->way = test_cert_new(&t->ca, &way, 1, NULL, -3600, 3600);
}

static void tls_close(struct tls *t)
{
	weft_tls_server_unref(t->server);
	test_cert_free(&t->ca);
	test_cert_free(&t->foreign_ca);
	test_cert_free(&t->web);
	test_cert_free(&t->way);
}

/* The cluster's message anew; -EINVAL is the caller's to look at. */
static int cluster_conf(struct fix *f, const char *text, struct weft_errs *errs)
{
	struct weft_cfg c = {.arena = f->arena, .errs = errs, .file = true};

	f->cl.msg = (const void *)of_yaml(
		f->arena, text, &envoy__config__cluster__v3__cluster__descriptor, &c.marks);
	weft_transport_free(f->cl.transport);
	f->cl.transport = NULL;
	return weft_transport_new(&c, NULL, &f->cl, &f->cl.transport);
}

static void cluster_must(struct fix *f, const char *text)
{
	struct weft_errs errs = {0};

	if (cluster_conf(f, text, &errs) < 0) {
		print_error("%s: %s\n", errs.v[0].path, errs.v[0].msg);
		fail();
	}
}

#define UPSTREAM_TLS                                                                               \
	"\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."                \
	"UpstreamTlsContext"

static const char *tls_socket(struct fix *f, const struct test_cert *own,
			      const struct test_cert *ca, const char *more)
{
	return weft_arena_printf(f->arena,
				 "{name: tls, typed_config: {" UPSTREAM_TLS
				 ", %s common_tls_context: {tls_certificates: [%s], "
				 "validation_context: %s}}}",
				 more, cert_yaml(f->arena, own), ca_yaml(f->arena, ca));
}
