/* The structs of bpf/abi.h as this compiler lays them out, against the BTF of every object: same
 * size, same members at the same offsets, and the maps have keys and values of those sizes. */
#include "bpf/abi.h"
#include "bpf/connect.skel.h"
#include "bpf/flows.skel.h"
#include "bpf/inbound.skel.h"
#include "bpf/origdst.skel.h"

#include <bpf/btf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct member {
	const char *type, *name;
	size_t offset, size;
};
#define M(t, m)                                                                                    \
	{                                                                                          \
		#t, #m, offsetof(struct t, m), sizeof(((struct t *)0)->m)                          \
	}
static const struct member members[] = {
	M(weft_abi_addr, be),
	M(weft_abi_pod, addr),
	M(weft_abi_pod, self4),
	M(weft_abi_pod, self6),
	M(weft_abi_pod, n),
	M(weft_abi_pod, flags),
	M(weft_abi_load, tuples),
	M(weft_abi_load, selfc),
	M(weft_abi_flow, src),
	M(weft_abi_flow, dst),
	M(weft_abi_flow, src_port),
	M(weft_abi_flow, dst_port),
	M(weft_abi_flow, pad),
	M(weft_abi_tuple, netns),
	M(weft_abi_tuple, flow),
	M(weft_abi_dest, addr),
	M(weft_abi_dest, port),
	M(weft_abi_dest, pad),
	M(weft_abi_pending, client),
	M(weft_abi_pending, dest),
	M(weft_abi_self, client),
	M(weft_abi_self, netns),
	M(weft_abi_client, dest),
	M(weft_abi_client, target),
	M(weft_abi_client, self),
	M(weft_abi_listener, addr),
	M(weft_abi_listener, kind),
	M(weft_abi_counters, captured),
	M(weft_abi_counters, denied_full),
	M(weft_abi_counters, inbound_lost),
	M(weft_abi_counters, load_missing),
};
#define S(t)                                                                                       \
	{                                                                                          \
		#t, sizeof(struct t)                                                               \
	}
static const struct {
	const char *name;
	size_t size;
} structs[] = {
	S(weft_abi_addr),   S(weft_abi_pod),	  S(weft_abi_load),	S(weft_abi_flow),
	S(weft_abi_tuple),  S(weft_abi_dest),	  S(weft_abi_pending),	S(weft_abi_self),
	S(weft_abi_client), S(weft_abi_listener), S(weft_abi_counters),
};
static const struct {
	const char *name;
	size_t key, value, entries;
} maps[] = {
	{"weft_abi", 4, 4, 1},
	{"weft_pods", 8, sizeof(struct weft_abi_pod), WEFT_ABI_PODS},
	{"weft_names", 8, WEFT_ABI_UID, WEFT_ABI_PODS},
	{"weft_load", 8, sizeof(struct weft_abi_load), WEFT_ABI_PODS},
	{"weft_total", 4, sizeof(struct weft_abi_load), 1},
	{"weft_exempt", 8, 4, WEFT_ABI_EXEMPT},
	{"weft_client", 4, sizeof(struct weft_abi_client), 0},
	{"weft_accepted", 4, sizeof(struct weft_abi_dest), 0},
	{"weft_tuples", sizeof(struct weft_abi_tuple), sizeof(struct weft_abi_pending),
	 WEFT_ABI_TUPLES},
	{"weft_selfc", sizeof(struct weft_abi_flow), sizeof(struct weft_abi_self), WEFT_ABI_SELFC},
	{"weft_listeners", sizeof(struct weft_abi_listener), 8, WEFT_ABI_LISTENERS},
	{"weft_counters", 4, sizeof(struct weft_abi_counters), 1},
};

struct objects {
	struct weft_bpf_connect *connect;
	struct weft_bpf_origdst *origdst;
	struct weft_bpf_flows *flows;
	struct weft_bpf_inbound *inbound;
	struct bpf_object *v[4];
};

static int open_all(void **state)
{
	static struct objects o;

	o.connect = weft_bpf_connect__open();
	o.origdst = weft_bpf_origdst__open();
	o.flows = weft_bpf_flows__open();
	o.inbound = weft_bpf_inbound__open();
	if (!o.connect || !o.origdst || !o.flows || !o.inbound)
		return -1;
	o.v[0] = o.connect->obj;
	o.v[1] = o.origdst->obj;
	o.v[2] = o.flows->obj;
	o.v[3] = o.inbound->obj;
	*state = &o;
	return 0;
}

static int close_all(void **state)
{
	struct objects *o = *state;

	weft_bpf_connect__destroy(o->connect);
	weft_bpf_origdst__destroy(o->origdst);
	weft_bpf_flows__destroy(o->flows);
	weft_bpf_inbound__destroy(o->inbound);
	return 0;
}

static const struct btf_type *struct_of(const struct btf *btf, const char *name)
{
	int id = btf__find_by_name_kind(btf, name, BTF_KIND_STRUCT);

	return id < 0 ? NULL : btf__type_by_id(btf, (uint32_t)id);
}

static const struct btf_member *member_of(const struct btf *btf, const struct btf_type *t,
					  const char *name)
{
	const struct btf_member *m = btf_members(t);

	for (int i = 0; i < btf_vlen(t); i++)
		if (!strcmp(btf__name_by_offset(btf, m[i].name_off), name))
			return &m[i];
	return NULL;
}

/* An object's BTF has only the structs it uses; each must be in some object, and be the same in all
 * that have it. */
static void test_sizes(void **state)
{
	struct objects *o = *state;

	for (size_t s = 0; s < sizeof(structs) / sizeof(*structs); s++) {
		int seen = 0;

		for (int i = 0; i < 4; i++) {
			const struct btf_type *t =
				struct_of(bpf_object__btf(o->v[i]), structs[s].name);

			if (!t)
				continue;
			seen++;
			if (t->size != structs[s].size)
				print_error("struct %s\n", structs[s].name);
			assert_int_equal(t->size, structs[s].size);
		}
		if (!seen)
			print_error("struct %s is in no object\n", structs[s].name);
		assert_true(seen > 0);
	}
}

static void test_offsets(void **state)
{
	struct objects *o = *state;

	for (size_t k = 0; k < sizeof(members) / sizeof(*members); k++)
		for (int i = 0; i < 4; i++) {
			const struct btf *btf = bpf_object__btf(o->v[i]);
			const struct btf_type *t = struct_of(btf, members[k].type);
			const struct btf_member *m = t ? member_of(btf, t, members[k].name) : NULL;

			if (!t)
				continue;
			if (!m || m->offset != members[k].offset * 8)
				print_error("%s.%s\n", members[k].type, members[k].name);
			assert_non_null(m);
			assert_int_equal(m->offset, members[k].offset * 8);
			assert_int_equal(btf__resolve_size(btf, m->type), members[k].size);
		}
}

/* Nothing lies between members: what a program writes has no byte it did not mean. */
static void test_no_holes(void **state)
{
	struct objects *o = *state;

	for (size_t s = 0; s < sizeof(structs) / sizeof(*structs); s++)
		for (int i = 0; i < 4; i++) {
			const struct btf *btf = bpf_object__btf(o->v[i]);
			const struct btf_type *t = struct_of(btf, structs[s].name);
			int64_t sum = 0;

			for (int k = 0; t && k < btf_vlen(t); k++)
				sum += btf__resolve_size(btf, btf_members(t)[k].type);
			if (t)
				assert_int_equal(sum, structs[s].size);
		}
}

static void test_maps(void **state)
{
	struct objects *o = *state;

	for (size_t k = 0; k < sizeof(maps) / sizeof(*maps); k++)
		for (int i = 0; i < 4; i++) {
			struct bpf_map *m = bpf_object__find_map_by_name(o->v[i], maps[k].name);

			assert_non_null(m);
			assert_int_equal(bpf_map__key_size(m), maps[k].key);
			assert_int_equal(bpf_map__value_size(m), maps[k].value);
			assert_int_equal(bpf_map__max_entries(m), maps[k].entries);
			assert_true(strlen(maps[k].name) <
				    16); /* the kernel cuts there, and two could become one */
		}
}

static void test_program_names(void **state)
{
	struct objects *o = *state;
	int n = 0;

	for (int i = 0; i < 4; i++) {
		struct bpf_program *p;

		bpf_object__for_each_program(p, o->v[i])
		{
			assert_true(strlen(bpf_program__name(p)) < 16);
			assert_memory_equal(bpf_program__name(p), "weft_", 5);
			n++;
		}
	}
	assert_int_equal(n, 9);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),	      cmocka_unit_test(test_offsets),
		cmocka_unit_test(test_no_holes),      cmocka_unit_test(test_maps),
		cmocka_unit_test(test_program_names),
	};

	return cmocka_run_group_tests(tests, open_all, close_all);
}
