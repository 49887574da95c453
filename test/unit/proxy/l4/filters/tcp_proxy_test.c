/* tcp_proxy on a chain of its own: a client on a socketpair, hosts that the test itself is. */
#include "../../upstream/build.h"
#include "proxy/l4/als.h"
#include "proxy/l4/chain.h"

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HOSTS = 2, PATIENCE = 4000 /* turns of 1 ms */ };

struct fix {
	struct bed *b;
	int host[HOSTS]; /* listening */
	unsigned port[HOSTS], dead;
	const struct weft_chain_conf *conf;
	int client;
	bool over;
	uint64_t flags;
	unsigned attempts;
	char details[64];
};

static int listening(unsigned *ret_port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
	socklen_t n = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	assert_int_equal(listen(fd, 512), 0);
	*ret_port = ntohs(a.sin_port);
	return fd;
}

static void cluster(struct fix *f, const char *name, unsigned first, unsigned second)
{
	char yaml[1024], more[256] = "";

	if (second)
		snprintf(more, sizeof(more),
			 ", {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: "
			 "%u}}}}",
			 second);
	snprintf(yaml, sizeof(yaml),
		 "name: %s\ntype: STATIC\nconnect_timeout: 1s\nload_assignment: {cluster_name: %s, "
		 "endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: "
		 "127.0.0.1, port_value: %u}}}}%s]}]}\n",
		 name, name, first, more);
	assert_int_equal(bed_set(f->b, false, yaml), 1);
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	signal(SIGPIPE, SIG_IGN);
	f->b = bed_new(NULL);
	f->client = -1;
	for (int i = 0; i < HOSTS; i++)
		f->host[i] = listening(&f->port[i]);
	close(listening(&f->dead));
	cluster(f, "a", f->port[0], 0);
	cluster(f, "b", f->port[1], 0);
	cluster(f, "mixed", f->dead, f->port[0]);
	cluster(f, "gone", f->dead, 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	if (f->client >= 0)
		close(f->client);
	for (int i = 0; i < HOSTS; i++)
		close(f->host[i]);
	bed_free(f->b);
	free(f);
	return 0;
}

static void turn(struct fix *f)
{
	bed_run(f->b);
	usleep(1000);
}

#define UNTIL(f, what)                                                                             \
	do {                                                                                       \
		int left = PATIENCE;                                                               \
		while (!(what) && left--)                                                          \
			turn(f);                                                                   \
		assert_true(what);                                                                 \
	} while (0)

static Envoy__Config__Listener__V3__Filter *filter(struct fix *f, const char *type,
						   const char *fields)
{
	char yaml[1024];

	snprintf(yaml, sizeof(yaml),
		 "name: %s\ntyped_config:\n  '@type': type.googleapis.com/"
		 "envoy.extensions.filters.network.%s\n  stat_prefix: t\n%s",
		 type, type, fields);
	return (void *)(uintptr_t)yaml_message(
		f->b->a, &envoy__config__listener__v3__filter__descriptor, yaml);
}

/* With another filter before it; type NULL: none. */
static void configure_after(struct fix *f, const char *type, const char *its, const char *fields)
{
	Envoy__Config__Listener__V3__Filter *v[2];
	struct weft_cfg c = bed_cfg(f->b);
	struct weft_path at = {NULL, "filters", -1};
	size_t n = 0;

	if (type)
		v[n++] = filter(f, type, its);
	v[n++] = filter(f, "tcp_proxy.v3.TcpProxy", fields);
	if (weft_chain_prepare(&c, &at, v, n, &f->conf))
		fail_msg("%s: %s", f->b->errs.v[0].path, f->b->errs.v[0].msg);
}

static void configure(struct fix *f, const char *fields)
{
	configure_after(f, NULL, NULL, fields);
}

static void chain_closed(void *owner, struct weft_chain *ch)
{
	struct fix *f = owner;
	const struct weft_info *i = weft_chain_info(ch);

	f->over = true;
	f->flags = i->flags;
	f->attempts = i->attempts;
	snprintf(f->details, sizeof(f->details), "%s",
		 i->termination_details ? i->termination_details : "");
}

static void client(struct fix *f)
{
	struct weft_chain_start s = {.worker = f->b->w,
				     .conf = f->conf,
				     .listener_name = "l",
				     .filter_chain_name = "fc",
				     .closed = chain_closed,
				     .owner = f};
	int fd[2];

	if (f->client >= 0)
		close(f->client);
	f->over = false;
	f->flags = 0;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
	f->client = fd[1];
	s.io = weft_io_new(f->b->w->base, fd[0], NULL, NULL, NULL, NULL);
	weft_chain_new(&s);
	turn(f);
}

static int accepted(struct fix *f, int host)
{
	int fd = -1;

	for (int left = PATIENCE; fd < 0 && left--; turn(f))
		fd = accept4(f->host[host], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void expect(struct fix *f, int fd, const char *text)
{
	char got[256];
	size_t n = 0, want = strlen(text);

	for (int left = PATIENCE; n < want && left--; turn(f)) {
		ssize_t k = recv(fd, got + n, want - n, 0);

		n += k > 0 ? (size_t)k : 0;
	}
	assert_int_equal(n, want);
	assert_memory_equal(got, text, want);
}

static bool ended(int fd)
{
	char c;

	return recv(fd, &c, 1, 0) == 0;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Both ends go in order. */
static void leave(struct fix *f, int up)
{
	close(up);
	shutdown(f->client, SHUT_WR);
	UNTIL(f, f->over);
}

/* ---- what happens */
static void relay(void **state)
{
	struct fix *f = *state;
	int up;

	configure(f, "  cluster: a\n");
	client(f);
	up = accepted(f, 0);
	say(f->client, "to the host");
	expect(f, up, "to the host");
	say(up, "to the client");
	expect(f, f->client, "to the client");
	assert_int_equal(bed_stat(f->b, "a", WEFT_CLUSTER_upstream_cx_active), 1);
	shutdown(f->client, SHUT_WR); /* one direction ends, the other goes on */
	UNTIL(f, ended(up));
	assert_false(f->over);
	say(up, "last");
	expect(f, f->client, "last");
	close(up);
	UNTIL(f, f->over);
	assert_int_equal(f->flags, 0);
	assert_int_equal(f->attempts, 1);
	assert_true(ended(f->client));
	bed_run(f->b);
	assert_int_equal(bed_stat(f->b, "a", WEFT_CLUSTER_upstream_cx_active), 0);
	assert_int_equal(bed_stat(f->b, "a", WEFT_CLUSTER_upstream_cx_tx_bytes_total), 11);
	assert_int_equal(bed_stat(f->b, "a", WEFT_CLUSTER_upstream_cx_rx_bytes_total), 17);
}

static void weights(void **state)
{
	struct fix *f = *state;
	unsigned n[HOSTS] = {0};

	configure(f, "  weighted_clusters: {clusters: [{name: a, weight: 1}, {name: b, weight: "
		     "3}]}\n");
	for (int i = 0; i < 200; i++) {
		int fd = -1, h = 0;

		client(f);
		for (int left = PATIENCE; fd < 0 && left--; h ^= fd < 0) {
			fd = accept4(f->host[h], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
			bed_run(f->b);
		}
		assert_true(fd >= 0);
		n[h]++;
		leave(f, fd);
	}
	assert_in_range(n[0], 20, 80);
	assert_int_equal(n[0] + n[1], 200);
}

static void attempts(void **state)
{
	struct fix *f = *state;

	configure(f, "  cluster: mixed\n  max_connect_attempts: 2\n");
	for (int i = 0; i < 4; i++) { /* whichever host comes first */
		int up;

		client(f);
		up = accepted(f, 0);
		say(up, "x");
		expect(f, f->client, "x");
		leave(f, up);
		assert_in_range(f->attempts, 1, 2);
		assert_int_equal(f->flags, 0);
	}
	assert_true(bed_stat(f->b, "mixed", WEFT_CLUSTER_upstream_cx_connect_fail) >= 1);
	configure(f, "  cluster: gone\n  max_connect_attempts: 3\n");
	client(f);
	UNTIL(f, f->over);
	assert_true(f->flags & 1ull << WEFT_FLAG_UF);
	assert_int_equal(f->attempts, 3);
	assert_true(ended(f->client));
	assert_int_equal(bed_stat(f->b, "gone", WEFT_CLUSTER_upstream_cx_connect_attempts_exceeded),
			 1);
	configure(f, "  cluster: nowhere\n");
	client(f);
	UNTIL(f, f->over);
	assert_true(f->flags & 1ull << WEFT_FLAG_NC);
}

static void times(void **state)
{
	struct fix *f = *state;
	int up;

	configure(f, "  cluster: a\n  idle_timeout: 0.2s\n");
	client(f);
	up = accepted(f, 0);
	for (int i = 0; i < 4; i++) {
		for (int k = 0; k < 60; k++)
			turn(f);
		say(up, "y");
		expect(f, f->client, "y");
	}
	assert_false(f->over);
	UNTIL(f, f->over);
	assert_string_equal(f->details, ""); /* as Envoy: that is no termination detail */
	close(up);
	configure(f,
		  "  cluster: a\n  max_downstream_connection_duration: 0.1s\n  idle_timeout: 0s\n");
	client(f);
	up = accepted(f, 0);
	UNTIL(f, f->over);
	assert_true(f->flags & 1ull << WEFT_FLAG_DT);
	close(up);
}

static void resets(void **state)
{
	const struct linger now = {1, 0};
	struct fix *f = *state;
	int up;

	configure(f, "  cluster: a\n");
	client(f);
	up = accepted(f, 0);
	setsockopt(up, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(up);
	UNTIL(f, f->over);
	assert_true(f->flags & 1ull << WEFT_FLAG_UC);
	client(f); /* and one that leaves while it still connects */
	close(f->client);
	f->client = -1;
	up = accepted(f, 0);
	UNTIL(f, ended(up));
	close(up);
	UNTIL(f, f->over);
	bed_run(f->b);
	assert_int_equal(bed_stat(f->b, "a", WEFT_CLUSTER_upstream_cx_active), 0);
}

/* How many lines are in the log, of those that begin so. */
static unsigned lines(const char *path, const char *begin)
{
	char line[128];
	unsigned n = 0;
	FILE *log;

	weft_access_logs_flush();
	log = fopen(path, "r");
	while (log && fgets(line, sizeof(line), log))
		n += !strncmp(line, begin, strlen(begin));
	if (log)
		fclose(log);
	return n;
}

static void logs_while_it_goes_on(void **state)
{
	static const char *const how[] = {
		"",
		"  access_log_flush_interval: 0.02s\n",
		"  access_log_options: {access_log_flush_interval: 0.02s}\n",
	};
	struct fix *f = *state;
	char dir[] = "weft-tcp-XXXXXX", path[64], conf[600];
	unsigned i;
	int up, k;

	assert_non_null(mkdtemp(dir));
	for (i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/log%u", dir, i);
		snprintf(conf, sizeof(conf),
			 "  cluster: a\n%s  access_log: [{name: l, typed_config: {'@type': "
			 "type.googleapis.com/envoy.extensions.access_loggers.file.v3."
			 "FileAccessLog, path: %s, log_format: {text_format_source: "
			 "{inline_string: \"%%ACCESS_LOG_TYPE%%\\n\"}}}}]\n",
			 how[i], path);
		configure(f, conf);
		client(f);
		up = accepted(f, 0);
		if (i)
			UNTIL(f, lines(path, "TcpPeriodic") >= 2);
		else
			for (k = 0; k < 100; k++)
				turn(f);
		assert_int_equal(lines(path, "TcpConnectionEnd"), 0);
		if (!i)
			assert_int_equal(lines(path, "TcpPeriodic"), 0);
		leave(f, up);
		UNTIL(f, lines(path, "TcpConnectionEnd") == 1);
		unlink(path);
	}
	rmdir(dir);
}

/* Of sixteen that may live for up to twice as long, one does for longer than the least. */
static void jitter(void **state)
{
	struct fix *f = *state;
	uint64_t began, longest = 0, took;
	unsigned i;
	int up;

	configure(f, "  cluster: a\n  max_downstream_connection_duration: 0.02s\n"
		     "  max_downstream_connection_duration_jitter_percentage: {value: 100}\n");
	for (i = 0; i < 16; i++) {
		client(f);
		began = weft_now_ns();
		up = accepted(f, 0);
		UNTIL(f, f->over);
		took = weft_now_ns() - began;
		longest = took > longest ? took : longest;
		close(up);
		assert_true(f->flags & 1ull << WEFT_FLAG_DT);
	}
	assert_true(longest > 23000000);
}

static bool passes(struct fix *f)
{
	int fd = -1, i;

	client(f);
	for (i = 0; i < 300 && fd < 0 && !f->over; i++) {
		turn(f);
		fd = accept4(f->host[0], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	}
	if (fd < 0)
		return false;
	leave(f, fd);
	return true;
}

static void limits(void **state)
{
	struct fix *f = *state;
	static const char rate[] = "  token_bucket: {max_tokens: 1, fill_interval: 600s}\n";
	static const char off[] = "  runtime_enabled: {default_value: false, runtime_key: x}\n",
			  on[] = "  runtime_enabled: {default_value: true, runtime_key: x}\n";
	char conf[300];

	snprintf(conf, sizeof(conf), "%s%s", rate, on);
	configure_after(f, "local_ratelimit.v3.LocalRateLimit", conf, "  cluster: a\n");
	assert_true(passes(f));
	assert_false(passes(f));
	snprintf(conf, sizeof(conf), "%s%s", rate, off);
	configure_after(f, "local_ratelimit.v3.LocalRateLimit", conf, "  cluster: a\n");
	assert_true(passes(f));
	assert_true(passes(f));
	/* one bucket for both */
	snprintf(conf, sizeof(conf), "%s  share_key: both\n", rate);
	configure_after(f, "local_ratelimit.v3.LocalRateLimit", conf, "  cluster: a\n");
	assert_true(passes(f));
	configure_after(f, "local_ratelimit.v3.LocalRateLimit", conf, "  cluster: a\n");
	assert_false(passes(f));
}

static void connection_limit(void **state)
{
	static const char *const how[] = {"true", "false"};
	struct fix *f = *state;
	char conf[300];
	int up, first, k;

	for (k = 0; k < 2; k++) {
		snprintf(conf, sizeof(conf),
			 "  max_connections: 1\n  runtime_enabled: {default_value: %s, "
			 "runtime_key: x}\n",
			 how[k]);
		configure_after(f, "connection_limit.v3.ConnectionLimit", conf, "  cluster: a\n");
		client(f);
		up = accepted(f, 0);
		first = f->client;
		f->client = -1;
		assert_int_equal(passes(f), k);
		close(up);
		close(first);
		f->over = false;
		UNTIL(f, f->over);
	}
}

#define T(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(relay),  T(weights), T(attempts),
		T(times),  T(resets),  T(logs_while_it_goes_on),
		T(jitter), T(limits),  T(connection_limit),
	};

	return cmocka_run_group_tests_name("tcp_proxy", tests, NULL, NULL);
}
