/* YAML and JSON to messages and back: every field of every message, marks, limits in bounded time
 * and stack. */
#include "xds/cfg.h"
#include "xds/check.h"
#include "xds/proto/authorization.pb-c.h"
#include "xds/proto/envoy/service/discovery/v3/discovery.pb-c.h"
#include "xds/proto/secret.pb-c.h"
#include "xds/proto/workload.pb-c.h"
#include "xds/wire.h"
#include "xds/yaml_priv.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <cmocka.h>

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *api_version, const char *kind,
					      bool *ret_lenient, struct weft_err *e)
{
	return ctx;
}

static char said[2000];

/* The one document of text as a message of type d, or NULL; said has the messages. */
static ProtobufCMessage *read_one(struct weft_arena *a, const ProtobufCMessageDescriptor *d,
				  const char *text, struct weft_yaml_doc *ret)
{
	struct weft_errs errs = {0};
	struct weft_yaml_doc *docs;
	size_t n;
	char line[700];
	int bad = weft_yaml_decode(a, "f", text, strlen(text), pick, (void *)d, &docs, &n, &errs);

	said[0] = '\0';
	for (int i = 0; i < errs.n; i++) {
		size_t used = strlen(said);

		snprintf(said + used, sizeof(said) - used, "%s\n",
			 weft_err_text(&errs.v[i], line, sizeof(line)));
	}
	assert_int_equal(bad > 0, said[0] != '\0');
	if (bad || n != 1)
		return NULL;
	if (ret)
		*ret = docs[0];
	return docs[0].msg;
}

/* ---- every field of a message set, by reflection */
static uint32_t seed;

static uint32_t next(uint32_t n)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % n;
}

static char *some_string(struct weft_arena *a)
{
	static const char *const v[] = {"",
					"plain",
					"with space",
					"80",
					"true",
					"null",
					"~",
					"yes",
					"1.5",
					"- a",
					"a: b",
					"#c",
					"\"q\" 'r' \\ /",
					"line\nbreak\ttab\r",
					"\x01\x7f",
					"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80",
					"\xc2\x85|\xe2\x80\xa8|\xef\xbb\xbf",
					"{",
					"[",
					"*x",
					"&x",
					"!x",
					"%x",
					"@x",
					"a\\n",
					" lead",
					"trail ",
					"-",
					"?",
					"0x1f",
					"1e3",
					".inf"};

	return weft_arena_strdup(a, v[next(sizeof(v) / sizeof(v[0]))]);
}

/* Envoy's messages are wide: fields that may still be set in this one. */
static int budget;

static ProtobufCMessage *fill(struct weft_arena *a, const ProtobufCMessageDescriptor *d, int depth);

static void fill_value(struct weft_arena *a, const ProtobufCFieldDescriptor *f, void *dst,
		       int depth)
{
	const ProtobufCEnumDescriptor *e = f->descriptor;
	static const uint64_t numbers[] = {0, 1, 80, 65535, INT32_MAX, UINT32_MAX, UINT64_MAX};
	uint64_t v = numbers[next(7)];

	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		*(char **)dst = some_string(a);
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		*(ProtobufCMessage **)dst = fill(a, f->descriptor, depth + 1);
		break;
	case PROTOBUF_C_TYPE_BYTES:
		((ProtobufCBinaryData *)dst)->len = next(9);
		((ProtobufCBinaryData *)dst)->data = weft_arena_memdup(a,
								       "\0\xff"
								       "bytes\n\x80",
								       9);
		break;
	case PROTOBUF_C_TYPE_BOOL:
		*(protobuf_c_boolean *)dst = (protobuf_c_boolean)next(2);
		break;
	case PROTOBUF_C_TYPE_ENUM:
		*(int *)dst = e->values[next(e->n_values)].value;
		break;
	case PROTOBUF_C_TYPE_DOUBLE:
		*(double *)dst = (double[]){0, 1, -1.5, 1e300, 0.1, 123456789012345678.0}[next(6)];
		break;
	case PROTOBUF_C_TYPE_FLOAT:
		*(float *)dst = (float)next(1000) / 7;
		break;
	default:
		memcpy(dst, &v, weft_value_sizeof(f->type));
	}
}

static void fill_field(struct weft_arena *a, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f,
		       int depth)
{
	char *slot = (char *)m + f->offset, *q = (char *)m + f->quantifier_offset;
	size_t n = f->label == PROTOBUF_C_LABEL_REPEATED ? next(3) : 0,
	       size = weft_value_sizeof(f->type);
	char *v;

	if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
		if (*(uint32_t *)q && next(2))
			return;
		/* the members share memory */
		for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
			const ProtobufCFieldDescriptor *k = &m->descriptor->fields[i];

			if ((k->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) && k->offset == f->offset)
				memset(slot, 0, weft_value_sizeof(k->type));
		}
		*(uint32_t *)q = f->id;
	}
	if (f->label != PROTOBUF_C_LABEL_REPEATED) {
		fill_value(a, f, slot, depth);
		if (!(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
		    f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_MESSAGE)
			*(protobuf_c_boolean *)q = 1;
		return;
	}
	if (yaml_is_map(f))
		n = n ? 1 : 0; /* keys must differ */
	v = weft_arena_alloc(a, (n + 1) * size);
	for (size_t i = 0; i < n; i++)
		fill_value(a, f, v + i * size, depth);
	*(size_t *)q = n;
	*(char **)slot = n ? v : NULL;
}

/* Any type, but what is read as another. */
static void fill_any(struct weft_arena *a, Google__Protobuf__Any *any, int depth)
{
	const ProtobufCMessageDescriptor *d = NULL;

	if (budget <= 0 || depth > 10)
		d = weft_cfg_type("x/google.protobuf.Empty");
	while (!d) {
		d = weft_cfg_types(next(200), NULL);
		if (d && strstr(d->name, "TypedStruct"))
			d = NULL;
	}
	*any = *weft_cfg_any_new(a, fill(a, d, depth + 1));
}

static ProtobufCMessage *fill(struct weft_arena *a, const ProtobufCMessageDescriptor *d, int depth)
{
	ProtobufCMessage *m = weft_arena_alloc(a, d->sizeof_message);
	bool entry = d->n_fields == 2 && !strcmp(d->fields[0].name, "key");
	enum yaml_form form = yaml_form_of(d);

	weft_message_init(d, m);
	if (form == YAML_ANY) {
		fill_any(a, (Google__Protobuf__Any *)m, depth);
		return m;
	}
	if (form == YAML_TIMESTAMP) {
		((Google__Protobuf__Timestamp *)m)->has_seconds = 1;
		((Google__Protobuf__Timestamp *)m)->seconds =
			(int64_t)next(1 << 24) * 1000 - 1234567890;
		((Google__Protobuf__Timestamp *)m)->nanos = (int32_t)next(3) * 120000;
		((Google__Protobuf__Timestamp *)m)->has_nanos =
			((Google__Protobuf__Timestamp *)m)->nanos != 0;
		return m;
	}
	if (form == YAML_DURATION) {
		((Google__Protobuf__Duration *)m)->has_seconds = 1;
		((Google__Protobuf__Duration *)m)->seconds = next(2) ? 5400 : 0;
		((Google__Protobuf__Duration *)m)->has_nanos = 1;
		((Google__Protobuf__Duration *)m)->nanos = 500000001;
		return m;
	}
	for (unsigned i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];

		if (depth > 10 && !entry &&
		    (f->type == PROTOBUF_C_TYPE_MESSAGE || form == YAML_VALUE) && f->id != 1)
			continue;
		if (depth > 10 && f->label == PROTOBUF_C_LABEL_REPEATED)
			continue;
		if (yaml_is_envoy(d) && form == YAML_PLAIN && !entry &&
		    (--budget < 0 || next(8) > 8u - (unsigned)(depth > 6 ? 7 : depth)))
			continue;
		/* a wrapper has its one value; everything else may be left out */
		if (entry || form == YAML_WRAPPER || form == YAML_VALUE || next(5))
			fill_field(a, m, f, depth);
		if (form == YAML_VALUE && f->id == 1) /* null is null */
			((Google__Protobuf__Value *)m)->null_value = 0;
	}
	return m;
}

static void assert_same(const ProtobufCMessage *x, const ProtobufCMessage *y, const char *text)
{
	size_t nx = protobuf_c_message_get_packed_size(x),
	       ny = protobuf_c_message_get_packed_size(y);
	uint8_t *bx = malloc(nx + 1), *by = malloc(ny + 1);

	protobuf_c_message_pack(x, bx);
	protobuf_c_message_pack(y, by);
	if (nx != ny || memcmp(bx, by, nx) != 0)
		print_message("%s\n", text);
	assert_int_equal(nx, ny);
	assert_memory_equal(bx, by, nx);
	free(bx);
	free(by);
}

static void round_trip(const ProtobufCMessage *m, bool json)
{
	struct weft_arena *a = weft_arena_new(0);
	char *text = weft_yaml_encode(m, json), *again;
	ProtobufCMessage *back = read_one(a, m->descriptor, text, NULL);

	if (!back)
		print_message("%s\n%s\n", said, text);
	assert_non_null(back);
	assert_same(m, back, text);
	again = weft_yaml_encode(back, json);
	assert_string_equal(text, again);
	free(text);
	free(again);
	weft_arena_free(a);
}

static void test_round_trip(void **state)
{
	static const ProtobufCMessageDescriptor *const kinds[] = {
		&istio__workload__address__descriptor,
		&istio__security__authorization__descriptor,
		&envoy__service__discovery__v3__delta_discovery_request__descriptor,
		&envoy__service__discovery__v3__delta_discovery_response__descriptor,
		&envoy__tls__secret__descriptor,
	};

	for (seed = 1; seed < 2000; seed = seed % 1000000 + 1) {
		struct weft_arena *a = weft_arena_new(0);
		uint32_t start = seed;
		size_t k = start % (5 + WEFT_KIND_COUNT);
		const ProtobufCMessageDescriptor *d =
			k < 5 ? kinds[k] : weft_kind_get((enum weft_kind_id)(k - 5))->desc;

		budget = 400;
		round_trip(fill(a, d, 0), start & 1);
		weft_arena_free(a);
		seed = start;
	}
}

/* Everything an Any may name, as such and inside one. */
static void test_envoy_round_trip(void **state)
{
	const ProtobufCMessageDescriptor *d;
	size_t n_types = 0;

	while (weft_cfg_types(n_types, NULL))
		n_types++;
	assert_true(n_types > 100);
	for (seed = 1; seed < 1000; seed++) {
		struct weft_arena *a = weft_arena_new(0);
		uint32_t start = seed;

		d = weft_cfg_types(start % n_types, NULL);
		budget = 400;
		if (!strstr(d->name, "TypedStruct")) {
			ProtobufCMessage *m = fill(a, d, 0);

			round_trip(start & 1 ? m : &weft_cfg_any_new(a, m)->base, start & 2);
		}
		weft_arena_free(a);
		seed = start;
	}
}

/* What the JSON reader takes is the same to the YAML reader, which a comment brings in; and what it
 * leaves to that one. */
static void test_json_reader(void **state)
{
	static const struct {
		const char *text;
		bool taken;
	} v[] = {
		{"{}", true},
		{" \n {\"a\": [], \"b\": {}} \n", true},
		{"{\"a\":1,\"b\":[true,false,null,-1.5e3,\"x\"],\n  \"c\": {\"d\": \"\"}}", true},
		{"{\"a\": \"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\u20ac\\u0041\"}", true},
		{"{\"\": 0}", true},
		{"{\"1\": 1, \"true\": \"1\", \"null\": \"null\"}", true},
		{"{\"a\": \"\\ud83d\\ude00\"}", false},
		{"{\"a\": \"\xc3\xa9\"}", false},
		{"{\"a\" : 1}", false},
		{"{a: 1}", false},
		{"{\"a\": 1,}", false},
		{"{\"a\": [1, 2,]}", false},
		{"{\"a\": x}", false},
		{"{\"a\": yes}", false},
		{"{\"a\": \"b\nc\"}", false},
		{"{\"a\": 'b'}", false},
		{"{\"a\": 1} # end", false},
		{"{\"a\": 1}\n---\n{}\n", false},
		{"{\"a\": &x 1, \"b\": *x}", false},
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		struct weft_arena *a = weft_arena_new(0);
		struct yaml_events ev = {0};
		ProtobufCMessage *x, *y;
		char with[300];

		if (yaml_json_read(a, v[i].text, strlen(v[i].text), &ev) != v[i].taken)
			fail_msg("%s: %staken", v[i].text, v[i].taken ? "not " : "");
		assert_int_equal(ev.n > 0, v[i].taken);
		free(ev.v);
		snprintf(with, sizeof(with), "#\n%s", v[i].text);
		if (v[i].taken) {
			x = read_one(a, &google__protobuf__struct__descriptor, v[i].text, NULL);
			y = read_one(a, &google__protobuf__struct__descriptor, with, NULL);
			assert_true(x && y);
			assert_same(x, y, v[i].text);
		}
		weft_arena_free(a);
	}
}

/* Places are the same by both readers. */
static void test_json_places(void **state)
{
	static const char text[] = "{\"name\": \"p\",\n  \"rules\": [{\"clauses\": []},\n"
				   " {\"clauses\": [{\"matches\": [{\"source_ips\":\n[ 5 ]}]}]}]}";
	struct weft_arena *a = weft_arena_new(0);
	char with[300];

	assert_null(read_one(a, &istio__security__authorization__descriptor, text, NULL));
	assert_string_equal(said, "f:4:3: rules[1].clauses[0].matches[0].source_ips[0]: must be a "
				  "mapping, is the number 5\n");
	snprintf(with, sizeof(with), "#\n%s", text);
	assert_null(read_one(a, &istio__security__authorization__descriptor, with, NULL));
	assert_non_null(strstr(said, "f:5:3: rules[1].clauses[0]"));
	weft_arena_free(a);
}

static void test_marks(void **state)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_yaml_doc doc;
	Istio__Security__Authorization *m = (Istio__Security__Authorization *)read_one(
		a, &istio__security__authorization__descriptor,
		"# comment\nname: p\nrules:\n- clauses: []\n- clauses:\n  - matches:\n"
		"    - destination_ports: [80,\n        443]\n      sourceIps: [{length: 8}]\n",
		&doc);
	Istio__Security__Match *match;
	struct weft_mark k;

	assert_non_null(m);
	assert_int_equal(doc.line, 2);
	match = m->rules[1]->clauses[0]->matches[0];
	k = weft_marks_get(doc.marks, match, "destination_ports", 1);
	assert_int_equal(k.line, 8);
	assert_int_equal(k.col, 9);
	k = weft_marks_get(doc.marks, match, "destination_ports", -1);
	assert_int_equal(k.line, 7);
	assert_int_equal(k.col, 26);
	k = weft_marks_get(doc.marks, match, "principals", -1); /* not there: the match */
	assert_int_equal(k.line, 7);
	assert_int_equal(k.col, 7);
	k = weft_marks_get(doc.marks, match->source_ips[0], "length", -1);
	assert_int_equal(k.line, 9);
	k = weft_marks_get(doc.marks, &doc, NULL, -1); /* no message of it: the document */
	assert_int_equal(k.line, 2);
	weft_arena_free(a);
}

static void test_oneof_bytes_numbers(void **state)
{
	struct weft_arena *a = weft_arena_new(0);
	const ProtobufCMessageDescriptor *d = &istio__workload__address__descriptor;

	assert_null(read_one(a, d, "workload: {name: a}\nservice: {name: b}\n", NULL));
	assert_string_equal(said, "f:2:1: service: only one may be set, and workload is\n");
	assert_null(read_one(a, d, "workload: {addresses: [AAE=, A, \"*\"]}", NULL));
	assert_string_equal(said, "f:1:30: workload.addresses[1]: must be base64, is \"A\"\n"
				  "f:1:33: workload.addresses[2]: must be base64, is \"*\"\n");
	/* protobuf's JSON form: numbers in quotes, enum names */
	assert_non_null(read_one(
		a, d, "service: {ports: [{servicePort: \"80\", app_protocol: HTTP2}]}", NULL));
	assert_null(read_one(a, d, "workload: {capacity: -1, native_tunnel: 1}", NULL));
	assert_string_equal(
		said, "f:1:22: workload.capacity: must be 0..4294967295, is -1\n"
		      "f:1:41: workload.native_tunnel: must be true or false, is the number 1\n");
	assert_non_null(read_one(
		a, d, "{\"workload\": {\"capacity\": 4294967295, \"status\": null}}", NULL));
	weft_arena_free(a);
}

static void test_duration(void **state)
{
	static const struct {
		const char *text;
		int r;
		int64_t s;
		int32_t ns;
		const char *back;
	} v[] = {{"5s", 0, 5, 0, "5s"},
		 {"1.5s", 0, 1, 500000000, "1.5s"},
		 {"1h30m", 0, 5400, 0, "5400s"},
		 {"100ms", 0, 0, 100000000, "0.1s"},
		 {"-1.5s", 0, -1, -500000000, "-1.5s"},
		 {".5m", 0, 30, 0, "30s"},
		 {"3ns", 0, 0, 3, "0.000000003s"},
		 {"0s", 0, 0, 0, "0s"},
		 {"", -22, 0, 0, NULL},
		 {"5", -22, 0, 0, NULL},
		 {"s", -22, 0, 0, NULL},
		 {"5x", -22, 0, 0, NULL},
		 {"5s ", -22, 0, 0, NULL},
		 {"1.s", 0, 1, 0, "1s"},
		 {".s", -22, 0, 0, NULL},
		 {"99999999999999s", -34, 0, 0, NULL},
		 {"999999999999h", -34, 0, 0, NULL}};

	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		int64_t s = 0;
		int32_t ns = 0;
		char text[48];

		assert_int_equal(yaml_duration_parse(v[i].text, &s, &ns), v[i].r);
		if (v[i].r)
			continue;
		assert_int_equal(s, v[i].s);
		assert_int_equal(ns, v[i].ns);
		yaml_duration_text(s, ns, text, sizeof(text));
		assert_string_equal(text, v[i].back);
	}
}

static void test_base64(void **state)
{
	uint8_t in[64], out[128];
	char text[128];
	size_t n;

	for (size_t len = 0; len < sizeof(in); len++) {
		for (size_t i = 0; i < len; i++)
			in[i] = (uint8_t)(i * 37 + len);
		yaml_base64_encode(in, len, text);
		assert_int_equal(yaml_base64_decode(text, strlen(text), out, &n), 0);
		assert_int_equal(n, len);
		assert_memory_equal(in, out, len);
	}
	assert_int_equal(yaml_base64_decode("-_8", 3, out, &n), 0); /* URL form, no padding */
	assert_int_equal(n, 2);
	assert_int_equal(yaml_base64_decode("AB==", 4, out, &n),
			 -22); /* bits that no encoder sets */
	assert_int_equal(yaml_base64_decode("A===", 4, out, &n), -22);
	assert_int_equal(yaml_base64_decode("AA=", 3, out, &n), -22);
	assert_int_equal(yaml_base64_decode("A A=", 4, out, &n), -22);
}

/* ---- limits */
static double cpu(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)u.ru_utime.tv_sec + (double)u.ru_utime.tv_usec / 1e6 +
	       (double)u.ru_stime.tv_sec + (double)u.ru_stime.tv_usec / 1e6;
}

static void one_error(const char *text, size_t n, const char *want)
{
	double start = cpu();
	struct weft_file *f = weft_file_parse("deep.yaml", text, n);
	char line[700];

	assert_int_equal(f->n_errors, 1);
	weft_err_text(&f->errs->v[0], line, sizeof(line));
	if (!strstr(line, want))
		print_message("%s\n", line);
	assert_non_null(strstr(line, want));
	assert_true(cpu() - start < 5);
	weft_file_unref(f);
}

static char *repeat(const char *before, const char *s, size_t times)
{
	size_t n = strlen(s), b = strlen(before);
	char *text = malloc(b + n * times + 1);

	assert_non_null(text);
	memcpy(text, before, b);
	for (size_t i = 0; i < times; i++)
		memcpy(text + b + i * n, s, n);
	text[b + n * times] = '\0';
	return text;
}

static void test_depth(void **state)
{
	static const char *const forms[] = {"[", "{a: ", "{\"a\":", "- ", "? ", "[{a: "};
	static const char head[] =
		"apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n  labels:\n    ";

	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		char *text = repeat(head, forms[i], 60000);

		one_error(text, strlen(text), "nested deeper than 64 levels");
		free(text);
		text = repeat("", forms[i], 60000);
		one_error(text, strlen(text), "nested deeper than 64 levels");
		free(text);
	}
}

static void test_indented_depth(void **state)
{
	char *text = malloc(3000 * 1500 * 2 + 100);
	size_t n = 0;

	for (int i = 0; i < 3000; i++) {
		memset(text + n, ' ', (size_t)i);
		n += (size_t)i;
		memcpy(text + n, "a:\n", 3);
		n += 3;
	}
	one_error(text, n, "nested deeper than 64 levels");
	free(text);
}

static void test_many(void **state)
{
	char *text = repeat("apiVersion: v1\nkind: Pod\nx: [", "a,", 2100000);
	double start = cpu();
	struct weft_file *f;

	one_error(text, strlen(text), "a document may have 2000000 values");
	free(text);
	/* a million keys, all alike: found in bounded time, twenty told */
	text = repeat("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: x\n  labels:\n",
		      "    k: v\n", 500000);
	f = weft_file_parse("f", text, strlen(text));
	assert_int_equal(f->n_errors, 499999);
	assert_int_equal(f->errs->n, WEFT_ERRS_MAX);
	weft_file_unref(f);
	free(text);
	text = malloc(WEFT_YAML_BYTES_MAX + 2);
	memset(text, ' ', WEFT_YAML_BYTES_MAX + 1);
	f = weft_file_parse("f", text, WEFT_YAML_BYTES_MAX + 1);
	assert_int_equal(f->n_errors, 1);
	weft_file_unref(f);
	free(text);
	assert_true(cpu() - start < 60);
}

/* Each level doubles: stopped by the number of aliases, long before memory. */
static void test_laughs(void **state)
{
	struct weft_arena *a = weft_arena_new(0);
	char text[4096] = "node:\n  metadata:\n    a0: &a0 [x, x, x, x, x, x, x, x]\n";

	for (int i = 1; i < 30; i++) {
		size_t n = strlen(text);

		snprintf(text + n, sizeof(text) - n, "    a%d: &a%d [*a%d, *a%d, *a%d]\n", i, i,
			 i - 1, i - 1, i - 1);
	}
	assert_null(read_one(a, &envoy__service__discovery__v3__delta_discovery_request__descriptor,
			     text, NULL));
	assert_non_null(strstr(said, "a document may use aliases 100 times"));
	assert_null(strchr(strchr(said, '\n') + 1, '\n')); /* told once */
	assert_true(weft_arena_bytes(a) < 10 << 20);
	weft_arena_free(a);
}

static void test_documents(void **state)
{
	/* what is wrong is left out, the others are read; a syntax error ends the reading */
	static const char text[] =
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n"
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: [b]}\n---\n"
		"\xef\xbb\xbf# a comment\n---\n"
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: c}\n...\n---\n"
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: d\n";
	static const char node[] = "\xef\xbb\xbf"
				   "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n";
	struct weft_file *f = weft_file_parse("f", text, sizeof(text) - 1);

	assert_int_equal(f->n, 2);
	assert_string_equal(f->v[0].name, "a");
	assert_int_equal(f->v[0].line, 1);
	assert_string_equal(f->v[1].name, "c");
	assert_int_equal(f->n_errors, 2);
	weft_file_unref(f);
	f = weft_file_parse("f", node, sizeof(node) - 1);
	assert_int_equal(f->n_errors, 0);
	assert_int_equal(f->n, 1);
	weft_file_unref(f);
	f = weft_file_parse("f", "", 0);
	assert_int_equal(f->n_errors, 0);
	assert_int_equal(f->n, 0);
	weft_file_unref(f);
}

static void test_json(void **state)
{
	static const char text[] =
		"{\n\t\"apiVersion\": \"v1\",\t\"kind\": \"Node\",\n"
		"\"metadata\": {\"name\": \"n\", \"annotations\": {"
		"\"a\": \"\\ud83d\\uDE00\\u00e9\\/\", \"b\": \"\\\\ud83d\\\\ude00\"}}}";
	static const char lone[] = "{\"apiVersion\": \"v1\", \"kind\": \"\\ud83d x\"}";
	struct weft_file *f = weft_file_parse("f", text, sizeof(text) - 1);
	char *directives;

	assert_int_equal(f->n_errors, 0);
	assert_string_equal(weft_meta_annotation(f->v[0].meta, "a"), "\xf0\x9f\x98\x80\xc3\xa9/");
	assert_string_equal(weft_meta_annotation(f->v[0].meta, "b"), "\\ud83d\\ude00");
	weft_file_unref(f);
	one_error(lone, sizeof(lone) - 1, "found invalid Unicode character escape code");
	directives = repeat("", "%TAG !a! tag:b\n", 300000);
	one_error(directives, strlen(directives), "a file may have 100 directives");
	free(directives);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_envoy_round_trip),
		cmocka_unit_test(test_json_reader), cmocka_unit_test(test_json_places),
		cmocka_unit_test(test_marks),	    cmocka_unit_test(test_oneof_bytes_numbers),
		cmocka_unit_test(test_duration),    cmocka_unit_test(test_base64),
		cmocka_unit_test(test_depth),	    cmocka_unit_test(test_indented_depth),
		cmocka_unit_test(test_many),	    cmocka_unit_test(test_laughs),
		cmocka_unit_test(test_documents),   cmocka_unit_test(test_json),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
