/* Consistent hashing: rings and tables against slow ones, what a host's key is, bounded loads; and
 * original destinations. */
#include "lb_fix.h"

#include <xxhash.h>

/* The ring, slowly: every key's hash, and the nearest one that is not below. */
static const char *slow_ring(char hosts[][32], size_t n, unsigned each, uint64_t hash)
{
	uint64_t best = UINT64_MAX, least = UINT64_MAX;
	size_t at = 0, first = 0;

	for (size_t i = 0; i < n; i++)
		for (unsigned k = 0; k < each; k++) {
			char key[64];
			uint64_t h;

			snprintf(key, sizeof(key), "%s_%u", hosts[i], k);
			h = XXH64(key, strlen(key), 0);
			if (h < least) {
				least = h;
				first = i;
			}
			if (h >= hash && h <= best) {
				best = h;
				at = i;
			}
		}
	return best == UINT64_MAX ? hosts[first] : hosts[at];
}

static void ring_hash_is_a_ring(void **state)
{
	struct place p[] = {{.zone = "a", .n = 8}};
	struct bed *b = bed_with("lb_policy: RING_HASH\n", p, 1, "");
	char hosts[8][32], got[128];

	for (int i = 0; i < 8; i++)
		snprintf(hosts[i], sizeof(hosts[i]), "10.0.0.%d:80", i);
	for (int i = 0; i < 500; i++) {
		uint64_t h = weft_rand64();

		hash_pick(b, h, got);
		assert_string_equal(got, slow_ring(hosts, 8, 128, h));
	}
	bed_free(b);
}

/* Taking one host away moves its own requests and few others. */
static void hashes_stay(const char *policy, unsigned most_moved)
{
	struct place all[] = {{.zone = "a", .n = 10}}, less[] = {{.zone = "a", .n = 10, .bad = 1}};
	struct bed *a = bed_with(policy, all, 1, ""), *b = bed_with(policy, less, 1, "");
	char x[128], y[128];
	unsigned moved = 0, of_gone = 0;

	for (uint64_t i = 0; i < 2000; i++) {
		hash_pick(a, weft_lb_mix(i), x);
		hash_pick(b, weft_lb_mix(i), y);
		assert_string_not_equal(y, "10.0.0.0:80");
		of_gone += !strcmp(x, "10.0.0.0:80");
		moved += strcmp(x, "10.0.0.0:80") != 0 && strcmp(x, y) != 0;
	}
	assert_in_range(of_gone, 100, 320);
	assert_in_range(moved, 0, most_moved);
	bed_free(a);
	bed_free(b);
}

static void ring_hash_stays(void **state)
{
	hashes_stay("lb_policy: RING_HASH\n", 250);
	hashes_stay("lb_policy: RING_HASH\nring_hash_lb_config: {hash_function: MURMUR_HASH_2}\n",
		    250);
}

static void maglev_stays(void **state)
{
	hashes_stay("lb_policy: MAGLEV\n", 60);
}

static void maglev_is_even(void **state)
{
	struct place p[] = {{.zone = "a", .n = 1, .host_weight = 3},
			    {.zone = "b", .n = 1, .host_weight = 1}};
	struct bed *b =
		bed_with("lb_policy: MAGLEV\nmaglev_lb_config: {table_size: 65537}\n", p, 2, "");
	struct counted c = picks(b, 20000);

	near(c.zone[0], 0.75, 20000);
	bed_free(b);
}

/* Hosts by name and by a key of their own, in one order and the other. */
static struct bed *bed_keyed(const char *policy, bool backwards, bool keys)
{
	struct bed *b = bed_new(NULL);
	char yaml[2048], eps[4096];
	size_t at = (size_t)snprintf(eps, sizeof(eps),
				     "cluster_name: c\nendpoints:\n- lb_endpoints:\n");

	snprintf(yaml, sizeof(yaml),
		 "name: c\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\n%s", policy);
	assert_int_equal(bed_set(b, true, yaml), 1);
	for (int i = 0; i < 5; i++) {
		int k = backwards ? 4 - i : i;

		at += (size_t)snprintf(eps + at, sizeof(eps) - at,
				       "  - {endpoint: {hostname: h%d, address: {socket_address: "
				       "{address: 10.0.0.%d, port_value: 80}}}",
				       9 - k, k);
		if (keys)
			at += (size_t)snprintf(eps + at, sizeof(eps) - at,
					       ", metadata: {filter_metadata: {envoy.lb: "
					       "{hash_key: h%d}}}",
					       9 - k);
		at += (size_t)snprintf(eps + at, sizeof(eps) - at, "}\n");
	}
	assert_int_equal(bed_endpoints(b, "c", eps, "1"), 0);
	return b;
}

/* How many of 300 keys have the same host. */
static unsigned same_hosts(struct bed *a, struct bed *b)
{
	char x[128], y[128];
	unsigned same = 0;

	for (uint64_t i = 0; i < 300; i++) {
		hash_pick(a, weft_lb_mix(i), x);
		hash_pick(b, weft_lb_mix(i), y);
		same += !strcmp(x, y);
	}
	bed_free(a);
	bed_free(b);
	return same;
}

static void hash_keys_are_of_the_host(void **state)
{
	static const char *const policies[] = {"lb_policy: MAGLEV\n", "lb_policy: RING_HASH\n"};
	static const char names[] = "common_lb_config: {consistent_hashing_lb_config: "
				    "{use_hostname_for_hashing: true}}\n";
	char with[256];

	for (int i = 0; i < 2; i++) {
		snprintf(with, sizeof(with), "%s%s", policies[i], names);
		/* the order of hosts says nothing */
		assert_int_equal(same_hosts(bed_keyed(policies[i], false, false),
					    bed_keyed(policies[i], true, false)),
				 300);
		/* the name is another key than the address; hash_key goes before both */
		assert_in_range(same_hosts(bed_keyed(policies[i], false, false),
					   bed_keyed(with, false, false)),
				0, 150);
		assert_int_equal(same_hosts(bed_keyed(with, false, false),
					    bed_keyed(policies[i], true, true)),
				 300);
	}
}

static void tables_tell_their_size(void **state)
{
	struct place p[] = {{.zone = "a", .n = 4}};
	struct bed *b = bed_with("lb_policy: RING_HASH\nring_hash_lb_config: {minimum_ring_size: "
				 "9, maximum_ring_size: 100}\n",
				 p, 1, "");

	/* three a host: the least number of whole ones that is not below nine */
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_ring_hash_lb_size), 12);
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_ring_hash_lb_min_hashes_per_host), 3);
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_ring_hash_lb_max_hashes_per_host), 3);
	bed_free(b);
	b = bed_with("lb_policy: MAGLEV\nmaglev_lb_config: {table_size: 13}\n", p, 1, "");
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_maglev_lb_min_entries_per_host), 3);
	assert_int_equal(bed_stat(b, "c", WEFT_CLUSTER_maglev_lb_max_entries_per_host), 4);
	bed_free(b);
}

static void bounded_load_moves_on(void **state)
{
	struct place p[] = {{.zone = "a", .n = 4}};
	struct bed *b =
		bed_with("lb_policy: MAGLEV\ncommon_lb_config: {consistent_hashing_lb_config: "
			 "{hash_balance_factor: 120}}\n",
			 p, 1, "");
	char first[128], then[128], again[128];

	hash_pick(b, 42, first);
	host_of(b, first)->rq_active = 10;
	hash_pick(b, 42, then);
	assert_string_not_equal(first, then);
	hash_pick(b, 42, again);
	assert_string_equal(then, again);
	host_of(b, first)->rq_active = 0;
	hash_pick(b, 42, again);
	assert_string_equal(first, again);
	bed_free(b);
}

static void original_destinations_by_header(void **state)
{
	static const char conf[] = "name: od\ntype: ORIGINAL_DST\nlb_policy: CLUSTER_PROVIDED\n"
				   "original_dst_lb_config: {use_http_header: true%s}\n";
	struct bed *b = bed_new(NULL);
	char yaml[512];

	snprintf(yaml, sizeof(yaml), conf, "");
	assert_int_equal(bed_set(b, true, yaml), 1);
	assert_string_equal(weft_clusters_find(b->m, "od")->original_dst_header,
			    "x-envoy-original-dst-host");
	snprintf(yaml, sizeof(yaml), conf, ", http_header_name: X-To");
	assert_int_equal(bed_set(b, true, yaml), 1);
	assert_string_equal(weft_clusters_find(b->m, "od")->original_dst_header, "x-to");
	bed_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ring_hash_is_a_ring),
		cmocka_unit_test(ring_hash_stays),
		cmocka_unit_test(maglev_stays),
		cmocka_unit_test(maglev_is_even),
		cmocka_unit_test(hash_keys_are_of_the_host),
		cmocka_unit_test(tables_tell_their_size),
		cmocka_unit_test(bounded_load_moves_on),
		cmocka_unit_test(original_destinations_by_header),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
