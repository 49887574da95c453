/* Foreign bytes walked by descriptor: what protobuf-c alone would crash on or misread. */
#include "xds/proto/authorization.pb-c.h"
#include "xds/proto/envoy/service/discovery/v3/discovery.pb-c.h"
#include "xds/proto/workload.pb-c.h"
#include "xds/wire.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define WORKLOAD (&istio__workload__workload__descriptor)
#define ADDRESS	 (&istio__workload__address__descriptor)
#define REQUEST	 (&envoy__service__discovery__v3__delta_discovery_request__descriptor)

static char said[600];

static int check(const ProtobufCMessageDescriptor *d, const void *p, size_t n, bool strict)
{
	struct weft_err err = {0};
	/* of the very size, so that a read beyond it is seen */
	uint8_t *copy = malloc(n ? n : 1);
	int r;

	memcpy(copy, p, n);
	r = weft_wire_check(d, copy, n, strict, &err);
	free(copy);
	weft_err_text(&err, said, sizeof(said));
	return r;
}
#define CHECK(d, text, strict) check(d, text, sizeof(text) - 1, strict)

static void test_good(void **state)
{
	/* name "web", namespace "demo", an address of 4 bytes, status UNHEALTHY */
	static const char bytes[] = "\x0a\x03web\x12\x04"
				    "demo\x1a\x04\x0a\x00\x00\x01\x88\x01\x01";
	struct weft_arena *a = weft_arena_new(0);
	Istio__Workload__Workload *w;

	assert_int_equal(CHECK(WORKLOAD, bytes, true), 0);
	w = (Istio__Workload__Workload *)weft_wire_unpack(a, WORKLOAD, (const uint8_t *)bytes,
							  sizeof(bytes) - 1, true, NULL);
	assert_non_null(w);
	assert_string_equal(w->name, "web");
	assert_int_equal(w->n_addresses, 1);
	assert_int_equal(w->status, ISTIO__WORKLOAD__WORKLOAD__STATUS__UNHEALTHY);
	weft_arena_free(a);
	assert_int_equal(CHECK(WORKLOAD, "", true), 0);
}

static void test_nul_and_utf8(void **state)
{
	assert_int_equal(CHECK(WORKLOAD,
			       "\x0a\x07"
			       "abc\0def",
			       false),
			 -EILSEQ);
	assert_string_equal(said, "name: string holds a NUL byte at offset 3");
	assert_int_equal(CHECK(WORKLOAD, "\x0a\x02\xc3\x28", false), -EILSEQ);
	assert_string_equal(said, "name: string is not UTF-8: byte 0xc3 at offset 0");
	/* overlong, surrogate, above U+10FFFF, cut off */
	assert_int_equal(CHECK(WORKLOAD, "\x0a\x02\xc0\x80", false), -EILSEQ);
	assert_int_equal(CHECK(WORKLOAD, "\x0a\x03\xe0\x80\x80", false), -EILSEQ);
	assert_int_equal(CHECK(WORKLOAD, "\x0a\x03\xed\xa0\x80", false), -EILSEQ);
	assert_int_equal(CHECK(WORKLOAD, "\x0a\x04\xf4\x90\x80\x80", false), -EILSEQ);
	assert_int_equal(CHECK(WORKLOAD, "\x0a\x02\xe2\x82", false), -EILSEQ);
	assert_int_equal(CHECK(WORKLOAD,
			       "\x0a\x0a"
			       "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"
			       "x",
			       false),
			 0);
	/* bytes may hold anything */
	assert_int_equal(CHECK(WORKLOAD, "\x1a\x02\x00\xff", false), 0);
}

static void test_lengths(void **state)
{
	assert_int_equal(CHECK(WORKLOAD,
			       "\x0a\x05"
			       "abc",
			       false),
			 -EINVAL);
	assert_string_equal(said, "name: length 5, but only 3 bytes follow");
	assert_int_equal(CHECK(WORKLOAD, "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", false),
			 -EINVAL);
	assert_string_equal(said, "name: a varint is longer than 5 bytes");
	assert_int_equal(CHECK(WORKLOAD, "\x0a\xff\xff\xff\xff\x0f", false), -E2BIG);
	assert_string_equal(said, "name: length must be at most 67108864, is 4294967295");
	/* a tag written longer than it need be */
	assert_int_equal(CHECK(WORKLOAD, "\x8a\x80\x80\x80\x00\x01x", false), 0);
	assert_int_equal(CHECK(WORKLOAD, "\x8a\x80\x80\x80\x80\x00\x01x", false), -EINVAL);
	assert_string_equal(said, "a varint is longer than 5 bytes");
	assert_int_equal(
		CHECK(WORKLOAD, "\x88\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", false),
		-EINVAL);
	assert_string_equal(said, "status: a varint is longer than 10 bytes");
	assert_int_equal(CHECK(WORKLOAD, "\x88\x01\x80", false), -EINVAL);
	assert_string_equal(said, "status: the bytes end inside a varint");
	assert_int_equal(CHECK(WORKLOAD, "\x88", false), -EINVAL);
	assert_string_equal(said, "the bytes end inside a varint");
}

static void test_tags(void **state)
{
	assert_int_equal(CHECK(WORKLOAD, "\x00\x01", false), -EINVAL);
	assert_string_equal(said, "field number must be 1..536870911, is 0");
	assert_int_equal(CHECK(WORKLOAD, "\x80\x80\x80\x80\x10\x01", false), -EINVAL);
	assert_string_equal(said, "field number must be 1..536870911, is 536870912");
	assert_int_equal(CHECK(WORKLOAD, "\x0b\x0c", false), -EINVAL);
	assert_string_equal(said, "field 1 is a group; groups are refused");
	assert_int_equal(CHECK(WORKLOAD, "\x0f", false), -EINVAL);
	assert_string_equal(said, "field 1 has wire type 7");
	assert_int_equal(CHECK(WORKLOAD, "\x08\x01", false), -EINVAL);
	assert_string_equal(said, "name: wire type must be 2, is 0");
}

static void test_unknown(void **state)
{
	static const char bytes[] = "\xa2\x06\x02hi\xa8\x06\x05\xb1\x06"
				    "12345678\xbd\x06"
				    "1234";
	struct weft_arena *a = weft_arena_new(0);

	assert_int_equal(CHECK(WORKLOAD, bytes, false), 0);
	assert_int_equal(CHECK(WORKLOAD, bytes, true), -EINVAL);
	assert_string_equal(said, "#100: unknown field");
	assert_non_null(weft_wire_unpack(a, WORKLOAD, (const uint8_t *)bytes, sizeof(bytes) - 1,
					 false, NULL));
	/* an enum value nobody knows */
	assert_int_equal(CHECK(WORKLOAD, "\x88\x01\x07", false), 0);
	assert_int_equal(CHECK(WORKLOAD, "\x88\x01\x07", true), -EINVAL);
	assert_string_equal(said, "status: 7 is not a value of Status");
	weft_arena_free(a);
}

static void test_twice(void **state)
{
	assert_int_equal(CHECK(WORKLOAD,
			       "\x0a\x01"
			       "a\x0a\x01"
			       "b",
			       false),
			 -EINVAL);
	assert_string_equal(said, "name: given twice");
	/* repeated fields of course */
	assert_int_equal(CHECK(WORKLOAD,
			       "\x1a\x01"
			       "a\x1a\x01"
			       "b",
			       false),
			 0);
	/* both members of Address.type */
	assert_int_equal(CHECK(ADDRESS, "\x0a\x00\x12\x00", false), -EINVAL);
	assert_string_equal(said, "service: workload of the same oneof is set too");
}

static void test_packed(void **state)
{
	const ProtobufCMessageDescriptor *d = &istio__security__match__descriptor;
	struct weft_arena *a = weft_arena_new(0);
	Istio__Security__Match *m;

	/* destination_ports = 9: packed 80, 443; then one unpacked */
	m = (Istio__Security__Match *)weft_wire_unpack(
		a, d, (const uint8_t *)"\x4a\x03\x50\xbb\x03\x48\x16", 7, true, NULL);
	assert_non_null(m);
	assert_int_equal(m->n_destination_ports, 3);
	assert_int_equal(m->destination_ports[1], 443);
	assert_int_equal(m->destination_ports[2], 22);
	assert_int_equal(CHECK(d, "\x4a\x02\x50\xbb", false), -EINVAL);
	assert_string_equal(said, "destination_ports[0]: the bytes end inside a varint");
	weft_arena_free(a);
}

static void test_path(void **state)
{
	/* Authorization.rules[1].clauses[0].matches[0].principals[0].exact with a NUL */
	static const char bytes[] = "\x2a\x00\x2a\x0b\x0a\x09\x0a\x07\x1a\x05\x0a\x03"
				    "a\0b";
	static const char right[] = "\x2a\x00\x2a\x0b\x0a\x09\x12\x07\x1a\x05\x0a\x03"
				    "a\0b";

	assert_int_equal(CHECK(&istio__security__authorization__descriptor, bytes, true), -EINVAL);
	assert_string_equal(said, "rules[1].clauses[0].#1: unknown field");
	assert_int_equal(CHECK(&istio__security__authorization__descriptor, right, true), -EILSEQ);
	assert_string_equal(said, "rules[1].clauses[0].matches[0].principals[0].exact: "
				  "string holds a NUL byte at offset 1");
}

/* Struct → Value → Struct …, n levels. */
static uint8_t *nested(int levels, size_t *ret_n)
{
	size_t cap = 40 * (size_t)levels + 16, start = cap;
	uint8_t *buf = malloc(cap);

	assert_non_null(buf);
	for (int i = 0; i < levels; i++) {
		size_t len = cap - start;
		/* ListValue.values = 1 { Value.list_value = 6 { … } } */
		uint8_t tag = i % 2 ? 0x0a : 0x32;
		uint8_t var[10];
		int k = 0;

		do {
			var[k++] = (uint8_t)((len & 0x7f) | (len > 0x7f ? 0x80 : 0));
			len >>= 7;
		} while (len);
		start -= (size_t)k + 1;
		buf[start] = tag;
		memcpy(buf + start + 1, var, (size_t)k);
	}
	*ret_n = cap - start;
	memmove(buf, buf + start, *ret_n);
	return buf;
}

static void test_depth(void **state)
{
	const ProtobufCMessageDescriptor *d = &google__protobuf__list_value__descriptor;
	struct weft_arena *a = weft_arena_new(0);
	struct weft_err err = {0};
	size_t n;
	uint8_t *p = nested(60000, &n);

	assert_int_equal(weft_wire_check(d, p, n, false, &err), -E2BIG);
	assert_non_null(strstr(err.msg, "nested deeper than 64 messages"));
	assert_null(weft_wire_unpack(a, d, p, n, false, &err));
	free(p);
	p = nested(62, &n);
	assert_non_null(weft_wire_unpack(a, d, p, n, false, &err));
	free(p);
	weft_arena_free(a);
}

/* Two bytes on the wire, a hundred in memory. */
static void test_memory(void **state)
{
	size_t n = 20 << 20;
	uint8_t *p = malloc(n);
	struct weft_err err = {0};

	for (size_t i = 0; i < n; i += 2) {
		p[i] = 0x2a; /* Authorization.rules = 5, empty */
		p[i + 1] = 0;
	}
	assert_int_equal(
		weft_wire_check(&istio__security__authorization__descriptor, p, n, false, &err),
		-E2BIG);
	assert_non_null(strstr(err.msg, "unpacks to more than 512 MiB"));
	free(p);
}

static void test_map(void **state)
{
	struct weft_arena *a = weft_arena_new(0);
	Envoy__Service__Discovery__V3__DeltaDiscoveryRequest *r;
	Istio__Workload__Workload *w;

	/* initial_resource_versions = 5: an entry without value, one without key */
	r = (Envoy__Service__Discovery__V3__DeltaDiscoveryRequest *)weft_wire_unpack(
		a, REQUEST, (const uint8_t *)"\x2a\x03\x0a\x01k\x2a\x03\x12\x01v", 10, true, NULL);
	assert_non_null(r);
	assert_int_equal(r->n_initial_resource_versions, 2);
	assert_string_equal(r->initial_resource_versions[0]->key, "k");
	assert_string_equal(r->initial_resource_versions[0]->value, "");
	assert_string_equal(r->initial_resource_versions[1]->key, "");
	/* Workload.services = 22: a message as value, left out */
	w = (Istio__Workload__Workload *)weft_wire_unpack(
		a, WORKLOAD, (const uint8_t *)"\xb2\x01\x03\x0a\x01k", 6, true, NULL);
	assert_non_null(w);
	assert_non_null(w->services[0]->value);
	assert_int_equal(w->services[0]->value->n_ports, 0);
	weft_arena_free(a);
}

/* No cut, and no single changed byte, of a good message may do more than fail. */
static void test_damage(void **state)
{
	static const char good[] =
		"\x0a\x2b\x0a\x03web\x12\x04"
		"demo\x1a\x04\x0a\x00\x00\x01\xb2\x01\x0e\x0a"
		"\x05"
		"a/b.c\x12\x05\x0a\x03\x08\x50\x10\x9a\x01\x05\x08\x01\x10\x02\x18";
	uint8_t bytes[sizeof(good)];
	struct weft_arena *a = weft_arena_new(0);

	for (size_t n = 0; n < sizeof(good); n++)
		check(ADDRESS, good, n, false);
	for (size_t i = 0; i < sizeof(good) - 1; i++) {
		for (int v = 0; v < 256; v++) {
			memcpy(bytes, good, sizeof(good));
			bytes[i] = (uint8_t)v;
			if (check(ADDRESS, bytes, sizeof(good) - 1, false) == 0)
				assert_non_null(weft_wire_unpack(a, ADDRESS, bytes,
								 sizeof(good) - 1, false, NULL));
		}
	}
	weft_arena_free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),	cmocka_unit_test(test_nul_and_utf8),
		cmocka_unit_test(test_lengths), cmocka_unit_test(test_tags),
		cmocka_unit_test(test_unknown), cmocka_unit_test(test_twice),
		cmocka_unit_test(test_packed),	cmocka_unit_test(test_path),
		cmocka_unit_test(test_depth),	cmocka_unit_test(test_memory),
		cmocka_unit_test(test_map),	cmocka_unit_test(test_damage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
