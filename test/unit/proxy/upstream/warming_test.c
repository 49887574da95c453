/* What a cluster waits for before it serves: names, health, its window of changes. */
#include "build.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

/* A port of loopback; listening or not. */
static int port_of(int *ret_fd, bool listening)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t n = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	if (listening)
		assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	*ret_fd = fd;
	return ntohs(a.sin_port);
}

#define WAIT_FOR(b, cond)                                                                          \
	for (int n_ = 0; n_ < 500 && !(cond); n_++) {                                              \
		struct timeval tv_ = {0, 10000};                                                   \
		event_base_loopexit((b)->main->base, &tv_);                                        \
		event_base_dispatch((b)->main->base);                                              \
		bed_run(b);                                                                        \
	}                                                                                          \
	assert_true(cond)

static void names_are_resolved_first(void **state)
{
	static const char *const types[] = {"STRICT_DNS", "LOGICAL_DNS"};

	for (int i = 0; i < 2; i++) {
		struct bed *b = bed_new(NULL);
		char yaml[512];

		snprintf(yaml, sizeof(yaml),
			 "name: d\ntype: %s\ndns_lookup_family: V4_ONLY\nload_assignment: "
			 "{cluster_name: d, endpoints: [{lb_endpoints: [{endpoint: {address: "
			 "{socket_address: {address: localhost, port_value: 81}}}}]}]}\n",
			 types[i]);
		assert_int_equal(bed_set(b, true, yaml), 1);
		WAIT_FOR(b, *b->live);
		assert_string_equal(b->live, "+d ");
		assert_string_equal(bed_pick(b, "d"), "127.0.0.1:81");
		bed_free(b);
	}
}

static void checked(const char *extra, char *yaml, size_t cap, int good, int bad)
{
	snprintf(yaml, cap,
		 "name: h\ntype: STATIC\ncommon_lb_config: {update_merge_window: 0s, "
		 "healthy_panic_threshold: {value: 0}}\n%s"
		 "health_checks: [{timeout: 1s, interval: 0.05s, no_traffic_interval: 0.05s, "
		 "unhealthy_threshold: 1, "
		 "healthy_threshold: 1, tcp_health_check: {}}]\n"
		 "load_assignment: {cluster_name: h, endpoints: [{lb_endpoints: ["
		 "{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}, "
		 "{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: "
		 "%d}}}}]}]}\n",
		 extra, good, bad);
}

static void health_is_known_first(void **state)
{
	struct bed *b = bed_new(NULL);
	int fd, dead, good = port_of(&fd, true), bad = port_of(&dead, false);
	char yaml[1024], want[32];

	checked("", yaml, sizeof(yaml), good, bad);
	assert_int_equal(bed_set_only(b, true, yaml), 1);
	assert_string_equal(b->live, "");
	WAIT_FOR(b, *b->live);
	snprintf(want, sizeof(want), "127.0.0.1:%d", good);
	WAIT_FOR(b, !strcmp(bed_pick(b, "h"), want));
	for (int i = 0; i < 20; i++)
		assert_string_equal(bed_pick(b, "h"), want);
	assert_int_equal(bed_stat(b, "h", WEFT_CLUSTER_membership_healthy), 1);
	/* the other one comes up */
	assert_int_equal(listen(dead, 16), 0);
	WAIT_FOR(b, bed_stat(b, "h", WEFT_CLUSTER_membership_healthy) == 2);
	bed_free(b);
	close(fd);
	close(dead);
}

static void nobody_waits_who_need_not(void **state)
{
	struct bed *b = bed_new(NULL);
	int fd, dead, good = port_of(&fd, true), bad = port_of(&dead, false);
	char yaml[1024];

	checked("wait_for_warm_on_init: false\n", yaml, sizeof(yaml), good, bad);
	assert_int_equal(bed_set_only(b, true, yaml), 1);
	assert_string_equal(b->live, "+h ");
	bed_free(b);
	close(fd);
	close(dead);
}

/* A host that left the assignment serves on until it fails its check. */
static void removed_hosts_stay_while_healthy(void **state)
{
	struct bed *b = bed_new(NULL);
	int fd, port = port_of(&fd, true);
	char yaml[512], eps[512];

	bed_set(b, true,
		"name: e\ntype: EDS\neds_cluster_config: {eds_config: {ads: "
		"{}}}\ncommon_lb_config: "
		"{update_merge_window: 0s}\nhealth_checks: [{timeout: 1s, interval: 0.05s, "
		"no_traffic_interval: 0.05s, unhealthy_threshold: 1, healthy_threshold: 1, "
		"tcp_health_check: {}}]\n");
	snprintf(eps, sizeof(eps),
		 "cluster_name: e\nendpoints: [{lb_endpoints: [{endpoint: {address: "
		 "{socket_address: "
		 "{address: 127.0.0.1, port_value: %d}}}}]}]\n",
		 port);
	snprintf(yaml, sizeof(yaml), "127.0.0.1:%d", port);
	bed_endpoints(b, "e", eps, "1");
	WAIT_FOR(b, *b->live);
	assert_string_equal(bed_pick(b, "e"), yaml);
	bed_endpoints(b, "e", "cluster_name: e\n", "2");
	assert_string_equal(bed_pick(b, "e"), yaml);
	assert_int_equal(bed_stat(b, "e", WEFT_CLUSTER_membership_total), 1);
	close(fd);
	WAIT_FOR(b, bed_stat(b, "e", WEFT_CLUSTER_membership_total) == 0);
	assert_string_equal(bed_pick(b, "e"), "");
	bed_free(b);
}

static unsigned weight_of(struct bed *b)
{
	return weft_balancer_hosts(weft_wcluster_find(b->w, "e")->balancer)->v[0].weight;
}

/* Changes that bring and take nobody wait for the end of the window; others go at once. */
static void changes_are_joined(void **state)
{
	struct bed *b = bed_new(NULL);
	static const char form[] =
		"cluster_name: e\nendpoints: [{lb_endpoints: [{load_balancing_weight: %d, "
		"endpoint: "
		"{address: {socket_address: {address: 10.0.0.%d, port_value: 80}}}}]}]\n";
	char eps[512];

	bed_set(b, true,
		"name: e\ntype: EDS\neds_cluster_config: {eds_config: {ads: "
		"{}}}\ncommon_lb_config: "
		"{update_merge_window: 0.3s}\n");
	for (int i = 1; i < 4; i++) {
		snprintf(eps, sizeof(eps), form, i, 1);
		bed_endpoints(b, "e", eps, "1");
	}
	assert_int_equal(weight_of(b), 1);
	WAIT_FOR(b, weight_of(b) == 3);
	snprintf(eps, sizeof(eps), form, 4, 1);
	bed_endpoints(b, "e", eps, "2");
	assert_int_equal(weight_of(b), 3);
	snprintf(eps, sizeof(eps), form, 5, 2);
	bed_endpoints(b, "e", eps, "3");
	assert_int_equal(weight_of(b), 5);
	bed_free(b);
}

static void endpoints_go_stale(void **state)
{
	struct bed *b = bed_new(NULL);

	bed_set(b, true, "name: e\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\n");
	bed_endpoints(b, "e",
		      "cluster_name: e\npolicy: {endpoint_stale_after: 0.05s}\nendpoints: "
		      "[{lb_endpoints: "
		      "[{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: "
		      "80}}}}]}]\n",
		      "1");
	assert_string_equal(bed_pick(b, "e"), "10.0.0.1:80");
	WAIT_FOR(b, bed_stat(b, "e", WEFT_CLUSTER_assignment_stale) == 1);
	assert_string_equal(bed_pick(b, "e"), "");
	bed_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_resolved_first),
		cmocka_unit_test(health_is_known_first),
		cmocka_unit_test(nobody_waits_who_need_not),
		cmocka_unit_test(removed_hosts_stay_while_healthy),
		cmocka_unit_test(changes_are_joined),
		cmocka_unit_test(endpoints_go_stale),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
