/* The prefix map against a list that is searched from end to end, and against the kernel's
 * LPM_TRIE. */
#include "proxy/core/lpm.h"

#include "proxy/core/worker.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { PREFIXES = 3000, LOOKUPS = 30000 };

struct entry {
	struct weft_cidr c;
	int id;
};

/* Few distinct bits, so that prefixes nest and collide. */
static struct weft_ip random_ip(bool v6)
{
	struct weft_ip ip = {.family = v6 ? 6 : 4};
	size_t n = v6 ? 16 : 4;

	for (size_t i = 0; i < n; i++) {
		uint64_t r = weft_rand64();

		ip.b[i] = r % 3 ? (uint8_t)(1 << (r >> 8) % 8) : (uint8_t)(r >> 16);
	}
	if (v6)
		ip.b[0] = 0xfd;
	return ip;
}

static size_t fill(struct weft_lpm *t, struct entry *v, bool v6)
{
	size_t n = 0;

	for (int i = 0; i < PREFIXES; i++) {
		struct weft_ip ip = random_ip(v6);
		unsigned len = (unsigned)(weft_rand64() % (v6 ? 129 : 33));
		bool there = false;
		int err;

		assert_int_equal(weft_cidr_make(&ip, len, &v[n].c), 0);
		for (size_t j = 0; j < n && !there; j++)
			there = v[j].c.len == len && weft_ip_eq(&v[j].c.ip, &v[n].c.ip);
		v[n].id = (int)n;
		err = weft_lpm_set(t, &v[n].c, &v[n]);
		assert_int_equal(err, there ? -EEXIST : 0);
		n += !there;
	}
	return n;
}

static const struct entry *oracle(const struct entry *v, size_t n, const struct weft_ip *ip)
{
	const struct entry *best = NULL;

	for (size_t i = 0; i < n; i++)
		if (weft_cidr_has(&v[i].c, ip) && (!best || v[i].c.len > best->c.len))
			best = &v[i];
	return best;
}

/* Half of the questions are near a prefix that is there. */
static struct weft_ip question(const struct entry *v, size_t n, bool v6)
{
	struct weft_ip ip = random_ip(v6);

	if (weft_rand64() % 2) {
		uint64_t r = weft_rand64();

		ip = v[r % n].c.ip;
		ip.b[(r >> 32) % (v6 ? 16 : 4)] ^= (uint8_t)(1 << (r >> 48) % 8);
		ip.family = v6 ? 6 : 4;
	}
	return ip;
}

static void against_oracle(bool v6)
{
	struct entry *v = calloc(PREFIXES + 1, sizeof(*v));
	struct weft_lpm *t = weft_lpm_new();
	size_t n, hits = 0;

	assert_non_null(v);
	n = fill(t, v, v6);
	for (int i = 0; i < LOOKUPS; i++) {
		struct weft_ip ip = question(v, n, v6);
		const struct entry *want = oracle(v, n, &ip);

		assert_ptr_equal(weft_lpm_get(t, &ip), want);
		hits += want != NULL;
	}
	assert_true(hits > LOOKUPS / 10);
	weft_lpm_free(t);
	free(v);
}

static void test_oracle_v4(void **state)
{
	against_oracle(false);
}

static void test_oracle_v6(void **state)
{
	against_oracle(true);
}

struct kernel_key {
	uint32_t len;
	uint8_t b[16];
};

static void test_kernel(void **state)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_NO_PREALLOC);
	struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
	struct entry *v = calloc(PREFIXES + 1, sizeof(*v));
	struct weft_lpm *t = weft_lpm_new();
	int fd;
	size_t n;

	setrlimit(RLIMIT_MEMLOCK, &all); /* for kernels that still count locked pages */
	fd = bpf_map_create(BPF_MAP_TYPE_LPM_TRIE, "weft_lpm_test", sizeof(struct kernel_key), 4,
			    PREFIXES, &opts);
	if (fd < 0) {
		weft_lpm_free(t);
		free(v);
		print_message("# SKIP bpf() is not permitted: %s\n", strerror(errno));
		skip();
	}
	assert_non_null(v);
	n = fill(t, v, true);
	for (size_t i = 0; i < n; i++) {
		struct kernel_key k = {.len = v[i].c.len};

		memcpy(k.b, v[i].c.ip.b, 16);
		assert_int_equal(bpf_map_update_elem(fd, &k, &v[i].id, BPF_NOEXIST), 0);
	}
	for (int i = 0; i < LOOKUPS; i++) {
		struct weft_ip ip = question(v, n, true);
		struct entry *got = weft_lpm_get(t, &ip);
		struct kernel_key k = {.len = 128};
		int id = -1;

		memcpy(k.b, ip.b, 16);
		if (bpf_map_lookup_elem(fd, &k, &id))
			id = -1;
		assert_int_equal(got ? got->id : -1, id);
	}
	close(fd);
	weft_lpm_free(t);
	free(v);
}

static void test_edges(void **state)
{
	struct weft_lpm *t = weft_lpm_new();
	struct weft_ip a, none = {0};
	struct weft_cidr c;
	int x, y;

	assert_int_equal(weft_ip_parse("10.0.0.1", &a), 0);
	assert_null(weft_lpm_get(t, &a));
	assert_null(weft_lpm_get(t, &none));
	assert_int_equal(weft_cidr_parse("0.0.0.0/0", &c), 0);
	assert_int_equal(weft_lpm_set(t, &c, &x), 0);
	assert_int_equal(weft_lpm_set(t, &c, &y), -EEXIST);
	assert_ptr_equal(weft_lpm_get(t, &a), &x);
	assert_int_equal(weft_cidr_parse("10.0.0.1/32", &c), 0);
	assert_int_equal(weft_lpm_set(t, &c, &y), 0);
	assert_ptr_equal(weft_lpm_get(t, &a), &y);
	a.b[3] = 2;
	assert_ptr_equal(weft_lpm_get(t, &a), &x);
	assert_int_equal(weft_ip_parse("::1", &a), 0);
	assert_null(weft_lpm_get(t, &a)); /* v4's default is not v6's */
	c.ip.family = 0;
	assert_int_equal(weft_lpm_set(t, &c, &x), -EINVAL);
	weft_lpm_free(t);
	weft_lpm_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_edges),
		cmocka_unit_test(test_oracle_v4),
		cmocka_unit_test(test_oracle_v6),
		cmocka_unit_test(test_kernel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
