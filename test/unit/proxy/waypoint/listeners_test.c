/* The life of listeners: opened, replaced under connections, refused, limited, drained, removed. */
#include "listener_fix.h"

static void serves(void **state)
{
	size_t warming;
	int fd;

	assert_int_equal(set("l", 0, "one", NULL, false), 1);
	assert_int_equal(listeners_count(f.m, &warming), 0); /* not before clusters are there */
	assert_int_equal(warming, 1);
	listeners_start(f.m);
	assert_int_equal(listeners_count(f.m, &warming), 1);
	assert_int_equal(warming, 0);
	assert_int_equal(f.live, 1);
	turns(2);
	fd = dial(port_of("l"));
	assert_true(fd >= 0);
	assert_non_null(strstr(get(fd, "one"), "200 OK"));
	assert_int_equal(wlisteners_open(f.ws), 1);
	assert_int_equal(f.connections, 1);
	close(fd);
	turns(4);
	assert_int_equal(wlisteners_open(f.ws), 0);
	assert_int_equal(f.connections, 0);
}

/* The socket stays: no connection is refused; what is open ends in order. */
static void replaced(void **state)
{
	unsigned port;
	int old, queued, fd;

	listeners_start(f.m);
	assert_int_equal(set("l", 0, "one", NULL, true), 1);
	turns(2);
	port = port_of("l");
	old = dial(port);
	assert_non_null(strstr(get(old, "one"), "200 OK"));
	queued = dial(port); /* in the queue of the kernel */
	assert_int_equal(set("l", 0, "two", NULL, true), 1);
	turns(2);
	assert_int_equal(port_of("l"), port);
	fd = dial(port);
	assert_non_null(strstr(get(fd, "two"), "200 OK"));
	assert_non_null(strstr(get(queued, "200 OK"), "200 OK"));
	assert_non_null(strstr(get(old, "one"), "connection: close"));
	assert_string_equal(hear(old, "\n"), "");
	assert_int_equal(set("l", 0, "two", NULL, true), 0); /* the same */
	close(old);
	close(queued);
	close(fd);
}

static void removed(void **state)
{
	unsigned port;
	int fd;

	listeners_start(f.m);
	assert_int_equal(set("l", 0, "one", NULL, true), 1);
	turns(2);
	port = port_of("l");
	fd = dial(port);
	assert_non_null(strstr(get(fd, "one"), "200 OK"));
	assert_int_equal(listeners_remove(f.m, "none"), -ENOENT);
	assert_int_equal(listeners_remove(f.m, "l"), 0);
	assert_int_equal(f.live, 0);
	turns(4);
	assert_int_equal(dial(port), -ECONNREFUSED);
	assert_non_null(strstr(get(fd, "one"), "connection: close")); /* it was served to its end */
	close(fd);
	/* and its address can be had again */
	assert_int_equal(set("m", port, "two", NULL, true), 1);
	turns(2);
	fd = dial(port);
	assert_non_null(strstr(get(fd, "two"), "200 OK"));
	close(fd);
}

static void refused(void **state)
{
	unsigned port;
	int taken;
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(a);

	listeners_start(f.m);
	assert_int_equal(set("l", 0, "one", NULL, false), 1);
	port = port_of("l");
	assert_int_equal(set("l", 0, "one", NULL, false), 0);
	assert_int_equal(f.warns.n, 1); /* twice the same */
	assert_int_equal(set("l", 0, "two", NULL, false), -EINVAL);
	assert_string_equal(f.errs.v[0].msg, "\"l\" stands twice");
	assert_int_equal(set("l", 0, "two", NULL, true), -EINVAL);
	assert_non_null(strstr(f.errs.v[0].msg, "of the bootstrap"));
	assert_int_equal(listeners_remove(f.m, "l"), -EPERM);
	/* an address that another listener of ours has, by its configuration */
	assert_int_equal(set("x", port, "x", NULL, true), 1); /* l wanted any port */
	assert_int_equal(set("y", port, "y", NULL, true), -EINVAL);
	assert_non_null(strstr(f.errs.v[0].msg, "is taken by the listener \"x\""));
	assert_int_equal(set("p", 1, "x", "bind_to_port: false", true), 1);
	assert_int_equal(set("q", 1, "y", "bind_to_port: false", true), 1);
	/* one that another process has */
	taken = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(taken, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(taken, 1), 0);
	assert_int_equal(getsockname(taken, (struct sockaddr *)&a, &n), 0);
	assert_int_equal(set("z", ntohs(a.sin_port), "z", NULL, true), -EINVAL);
	assert_string_equal(f.errs.v[0].path, "address");
	assert_int_equal(port_of("z"), 0);
	close(taken);
}

static void broken_update_changes_nothing(void **state)
{
	int fd;

	listeners_start(f.m);
	assert_int_equal(set("l", 0, "one", NULL, true), 1);
	turns(2);
	assert_int_equal(set("l", 0, "two", "listener_filters: [{name: x}]", true), -EINVAL);
	assert_string_equal(f.errs.v[0].path, "listener_filters[0]");
	turns(2);
	fd = dial(port_of("l"));
	assert_non_null(strstr(get(fd, "one"), "200 OK"));
	close(fd);
}

/* The runtime key of the process; a listener may be let off. */
static void limited(void **state)
{
	int a, b, c;

	fix_end(NULL);
	fix_start(1);
	listeners_start(f.m);
	assert_int_equal(set("l", 0, "one", "stat_prefix: lim", true), 1);
	assert_int_equal(set("free", 0, "two", "ignore_global_conn_limit: true", true), 1);
	turns(2);
	a = dial(port_of("l"));
	assert_non_null(strstr(get(a, "one"), "200 OK"));
	b = dial(port_of("l"));
	assert_string_equal(hear(b, "\n"), ""); /* closed, no byte */
	assert_int_equal(weft_scope_value(weft_scope_get(&weft_listener_scope, "lim"),
					  WEFT_LISTENER_downstream_global_cx_overflow),
			 1);
	c = dial(port_of("free"));
	assert_non_null(strstr(get(c, "two"), "200 OK"));
	assert_int_equal(f.connections, 1); /* it is not counted either */
	close(a);
	close(b);
	turns(4);
	b = dial(port_of("l"));
	assert_non_null(strstr(get(b, "one"), "200 OK"));
	close(b);
	close(c);
}

static void drains(void **state)
{
	unsigned port, in;
	int fd, i;

	listeners_start(f.m);
	assert_int_equal(set("l", 0, "one", NULL, true), 1);
	assert_int_equal(set("in", 0, "two", "traffic_direction: INBOUND", true), 1);
	turns(2);
	port = port_of("l");
	in = port_of("in");
	fd = dial(port);
	i = dial(in);
	assert_non_null(strstr(get(fd, "one"), "200 OK"));
	assert_non_null(strstr(get(i, "two"), "200 OK"));
	listeners_stop_accepting(f.m, true, false); /* told to end, still accepting */
	turns(2);
	assert_non_null(strstr(get(i, "two"), "connection: close"));
	assert_null(strstr(get(fd, "one"), "connection: close"));
	close(i);
	i = dial(in);
	assert_non_null(strstr(get(i, "two"), "connection: close"));
	listeners_stop_accepting(f.m, false, true);
	turns(2);
	assert_non_null(strstr(get(fd, "one"), "connection: close"));
	close(fd);
	close(i);
}

/* What overload pauses: a configuration that comes meanwhile says whether it is met. */
static void paused_and_changed(void **state)
{
	static const char bypass[] = "bypass_overload_manager: true";
	int fd;

	listeners_start(f.m);
	assert_int_equal(set("l", 0, "one", NULL, true), 1);
	turns(2);
	listeners_pause(f.m, true);
	turns(2);
	fd = dial(port_of("l"));
	assert_int_equal(set("l", 0, "two", bypass, true), 1);
	assert_non_null(strstr(get(fd, "two"), "200 OK"));
	close(fd);
	assert_int_equal(set("l", 0, "three", NULL, true), 1);
	turns(2);
	fd = dial(port_of("l"));
	turns(4);
	assert_int_equal(f.connections, 0); /* it waits again */
	listeners_pause(f.m, false);
	assert_non_null(strstr(get(fd, "three"), "200 OK"));
	close(fd);
}

/* Inbound ones that were stopped do not open again by a change. */
static void stopped_stays_so(void **state)
{
	static const char inbound[] = "traffic_direction: INBOUND";
	unsigned in, out;
	int fd;

	listeners_start(f.m);
	assert_int_equal(set("in", 0, "one", inbound, true), 1);
	assert_int_equal(set("out", 0, "one", NULL, true), 1);
	turns(2);
	in = port_of("in");
	out = port_of("out");
	listeners_stop_accepting(f.m, true, true);
	turns(4);
	assert_int_equal(dial(in), -ECONNREFUSED);
	assert_int_equal(set("in", 0, "two", inbound, true), 0);
	assert_int_equal(set("new", 0, "two", inbound, true), 0);
	assert_int_equal(set("out", 0, "two", NULL, true), 1);
	turns(4);
	assert_int_equal(dial(in), -ECONNREFUSED);
	assert_int_equal(port_of("new"), 0);
	fd = dial(out);
	assert_non_null(strstr(get(fd, "two"), "200 OK"));
	close(fd);
}

static void waits_for_routes(void **state)
{
	static const char yaml[] =
		"name: l\naddress: {socket_address: {address: 127.0.0.1, port_value: 0}}\n"
		"filter_chains: [{filters: [{name: hcm, typed_config: {\"@type\": " HCM
		", stat_prefix: t, rds: {route_config_name: r, config_source: {ads: {}}}, "
		"http_filters: [{name: r, typed_config: {\"@type\": " ROUTER "}}]}}]}]\n";
	static const char table[] = "name: r\nvirtual_hosts: [{name: v, domains: [\"*\"], routes: "
				    "[{match: {prefix: /}, direct_response: {status: 418}}]}]\n";
	struct weft_arena *a = weft_arena_new(0), *b = weft_arena_new(0);
	struct weft_cfg c = {.arena = a, .errs = &f.errs};
	size_t warming;
	int fd;

	listeners_start(f.m);
	assert_int_equal(
		listeners_set(f.m, &c, NULL,
			      (const void *)of_text(
				      a, yaml, &envoy__config__listener__v3__listener__descriptor),
			      a, "1", true),
		1);
	assert_int_equal(listeners_count(f.m, &warming), 0);
	assert_int_equal(warming, 1);
	assert_non_null(f.wanted);
	c.arena = b;
	assert_int_equal(
		weft_route_table_set(
			f.wanted, &c, NULL,
			(const void *)of_text(
				b, table,
				&envoy__config__route__v3__route_configuration__descriptor),
			"1"),
		0);
	turns(4);
	assert_int_equal(listeners_count(f.m, &warming), 1);
	fd = dial(port_of("l"));
	assert_non_null(strstr(get(fd, "418"), "418"));
	close(fd);
	weft_arena_free(b);
}

/* use_original_dst: who takes a connection that was to go to an address. */
static void by_destination(void **state)
{
	struct weft_sockaddr to;

	listeners_start(f.m);
	assert_int_equal(set("a", 9001, "a", "bind_to_port: false", true), 1);
	assert_int_equal(set("b", 9002, "b",
			     "bind_to_port: false\nadditional_addresses: [{address: "
			     "{socket_address: {address: 0.0.0.0, port_value: 9003}}}]",
			     true),
			 1);
	turns(2);
	assert_int_equal(weft_sockaddr_parse("127.0.0.1:9001", &to), 0);
	assert_non_null(wlistener_by_dest(f.ws, &to, NULL));
	assert_null(wlistener_by_dest(f.ws, &to, wlistener_by_dest(f.ws, &to, NULL)));
	assert_int_equal(weft_sockaddr_parse("10.0.0.1:9001", &to), 0);
	assert_null(wlistener_by_dest(f.ws, &to, NULL)); /* another address */
	assert_int_equal(weft_sockaddr_parse("10.0.0.1:9003", &to), 0);
	assert_non_null(wlistener_by_dest(f.ws, &to, NULL)); /* any address */
	assert_int_equal(weft_sockaddr_parse("10.0.0.1:9004", &to), 0);
	assert_null(wlistener_by_dest(f.ws, &to, NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(serves, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(replaced, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(removed, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(refused, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(broken_update_changes_nothing, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(limited, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(drains, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(paused_and_changed, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(stopped_stays_so, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(waits_for_routes, fix_setup, fix_end),
		cmocka_unit_test_setup_teardown(by_destination, fix_setup, fix_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
