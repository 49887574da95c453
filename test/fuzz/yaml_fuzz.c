/* YAML and JSON: the first byte picks what the text is taken for. What is read must be written as
 * text that reads the same. */
#include "xds/cfg.h"
#include "xds/check.h"
#include "xds/proto/authorization.pb-c.h"
#include "xds/proto/envoy/config/bootstrap/v3/bootstrap.pb-c.h"
#include "xds/proto/envoy/service/discovery/v3/discovery.pb-c.h"
#include "xds/proto/secret.pb-c.h"
#include "xds/proto/workload.pb-c.h"
#include "xds/yaml.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *api_version, const char *kind,
					      bool *ret_lenient, struct weft_err *e)
{
	return ctx;
}

static void round_trip(const ProtobufCMessage *m, bool json)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_yaml_doc *docs;
	struct weft_errs errs = {0};
	size_t n_docs;
	char *text = weft_yaml_encode(m, json), *again;
	int bad = weft_yaml_decode(a, "dump", text, strlen(text), pick, (void *)m->descriptor,
				   &docs, &n_docs, &errs);

	assert(bad == 0 && n_docs == 1);
	again = weft_yaml_encode(docs[0].msg, json);
	assert(!strcmp(text, again));
	free(text);
	free(again);
	weft_arena_free(a);
}

static void objects(const char *text, size_t n)
{
	struct weft_file *f = weft_file_parse("in.yaml", text, n);

	assert((f->n_errors == 0) == (f->errs == NULL));
	for (size_t i = 0; i < f->n; i++) {
		assert(f->v[i].meta && f->v[i].name && f->v[i].line > 0);
		if (f->n_errors == 0)
			round_trip(f->v[i].msg, i & 1);
	}
	weft_file_unref(f);
}

/* What the JSON reader takes must be the same to the YAML reader, which a comment brings in. */
static void by_yaml(const struct weft_yaml_doc *doc, const char *text, size_t n)
{
	struct weft_arena *a = weft_arena_new(0);
	char *with = malloc(n + 3), *x, *y;
	struct weft_errs errs = {0};
	struct weft_yaml_doc *docs;
	size_t n_docs;

	assert(with);
	memcpy(with, "#\n", 2);
	memcpy(with + 2, text, n);
	assert(weft_yaml_decode(a, "in.yaml", with, n + 2, pick, (void *)doc->type, &docs, &n_docs,
				&errs) == 0);
	assert(n_docs == 1);
	x = weft_yaml_encode(doc->msg, false);
	y = weft_yaml_encode(docs[0].msg, false);
	assert(!strcmp(x, y));
	free(x);
	free(y);
	free(with);
	weft_arena_free(a);
}

/* Envoy's bootstrap: every finding has a place, and what the text may not say its Anys' bytes may
 * not either. */
static void bootstrap(const char *text, size_t n, bool json)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_errs errs = {0}, again = {0};
	struct weft_yaml_doc *docs;
	size_t n_docs;
	int bad;

	bad = weft_yaml_decode(a, "in.yaml", text, n, pick,
			       (void *)&envoy__config__bootstrap__v3__bootstrap__descriptor, &docs,
			       &n_docs, &errs);
	if (bad == 0 && n_docs == 1 && text[0] == '{')
		by_yaml(&docs[0], text, n);
	for (size_t i = 0; i < n_docs; i++) {
		struct weft_cfg file = {.arena = a, .errs = &errs, .marks = docs[i].marks};
		struct weft_cfg bytes = {.arena = a, .errs = &again};
		int r;

		errs.n = 0;
		r = weft_cfg_check(&file, NULL, docs[i].msg);
		assert((r < 0) == (errs.n > 0));
		/* bytes with enum values that have no name are refused as such */
		assert(weft_cfg_check(&bytes, NULL, docs[i].msg) <= r);
		weft_cfg_place_errs(&docs[i], &errs);
		for (int k = 0; k < errs.n; k++)
			assert(strchr(errs.v[k].where, ':'));
		round_trip(docs[i].msg, json);
	}
	weft_arena_free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const ProtobufCMessageDescriptor *const kinds[] = {
		&istio__workload__address__descriptor,
		&istio__security__authorization__descriptor,
		&envoy__service__discovery__v3__delta_discovery_request__descriptor,
		&envoy__tls__secret__descriptor,
	};
	struct weft_errs errs = {0};
	struct weft_yaml_doc *docs;
	struct weft_arena *a;
	size_t n_docs, k;

	if (!n)
		return 0;
	k = data[0] % 8;
	if (k == 7) {
		bootstrap((const char *)data + 1, n - 1, data[0] & 0x80);
		return 0;
	}
	if (k >= sizeof(kinds) / sizeof(kinds[0])) {
		objects((const char *)data + 1, n - 1);
		return 0;
	}
	a = weft_arena_new(0);
	if (weft_yaml_decode(a, "in.yaml", (const char *)data + 1, n - 1, pick, (void *)kinds[k],
			     &docs, &n_docs, &errs) == 0)
		for (size_t i = 0; i < n_docs; i++)
			round_trip(docs[i].msg, data[0] & 0x80);
	weft_arena_free(a);
	return 0;
}
