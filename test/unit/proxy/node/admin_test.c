#include "fake_bytes.h"
#include "fake_cert.h"
#include "fake_xds.h"
#include "proxy/node/admin.h"
#include "proxy/node/drain.h"
#include "proxy/node/metrics.h"
#include "proxy/node/podtab.h"
#include "proxy/node/state.h"

#include <errno.h>
#include <jansson.h>
#include <sys/stat.h>

static struct weft_node *node;
static struct weft_options opt = {.log_level = WEFT_LOG_INFO};
static struct weft_admin admin;
static int quits;

static void quit(void *owner)
{
	quits++;
}

static int want(void *owner, const struct weft_npod *p, enum weft_sock_kind k, unsigned count)
{
	return -ENOTCONN;
}

static int ask(weft_http_handler *h, void *owner, const char *method, const char *path,
	       const char *query, char **ret_body, const char **ret_type)
{
	struct weft_http_req r = {.method = method, .path = path, .query = query, .body = ""};
	struct evbuffer *b = evbuffer_new();
	const char *type = "text/plain";
	int rc = h(owner, &r, b, &type);

	if (ret_type)
		*ret_type = type;
	if (ret_body) {
		evbuffer_add(b, "", 1);
		*ret_body = strdup((char *)evbuffer_pullup(b, -1));
	}
	evbuffer_free(b);
	return rc;
}

static void test_status(void **state)
{
	const char *type;
	char *body;
	json_t *j;

	assert_int_equal(ask(weft_admin_handler, &admin, "GET", "/status", "", &body, &type), 200);
	assert_string_equal(type, "application/json");
	j = json_loads(body, 0, NULL);
	assert_non_null(j);
	assert_string_equal(json_string_value(json_object_get(j, "phase")), "starting");
	assert_true(json_is_false(json_object_get(json_object_get(j, "broker"), "connected")));
	assert_true(json_array_size(json_object_get(j, "missing")) == 2);
	assert_int_equal(json_array_size(json_object_get(j, "workers")), 2);
	json_decref(j);
	free(body);
	assert_int_equal(ask(weft_admin_handler, &admin, "POST", "/status", "", NULL, NULL), 405);
}

static void test_ready(void **state)
{
	char *body;

	assert_int_equal(ask(weft_ready_handler, node, "GET", "/healthz/ready", "", &body, NULL),
			 500);
	assert_string_equal(body, "pods of this node (broker: not connected yet)\n"
				  "configuration (xds: not connected)\n");
	free(body);
	assert_int_equal(ask(weft_ready_handler, node, "GET", "/other", "", NULL, NULL), 404);
	assert_int_equal(ask(weft_ready_handler, node, "POST", "/healthz/ready", "", NULL, NULL),
			 405);
}

static void test_logging(void **state)
{
	assert_int_equal(
		ask(weft_admin_handler, &admin, "POST", "/logging", "level=debug", NULL, NULL),
		200);
	assert_true(weft_log_on(WEFT_LOG_DEBUG));
	assert_int_equal(
		ask(weft_admin_handler, &admin, "POST", "/logging", "level=loud", NULL, NULL), 400);
	assert_int_equal(ask(weft_admin_handler, &admin, "POST", "/logging", "", NULL, NULL), 400);
	assert_int_equal(
		ask(weft_admin_handler, &admin, "POST", "/logging", "level=reset", NULL, NULL),
		200);
	assert_false(weft_log_on(WEFT_LOG_DEBUG));
	assert_int_equal(
		ask(weft_admin_handler, &admin, "GET", "/logging", "level=debug", NULL, NULL), 405);
}

static void test_quit_and_metrics(void **state)
{
	const char *type;

	assert_int_equal(ask(weft_admin_handler, &admin, "GET", "/quitquitquit", "", NULL, NULL),
			 405);
	assert_int_equal(quits, 0);
	assert_int_equal(ask(weft_admin_handler, &admin, "POST", "/quitquitquit", "", NULL, NULL),
			 200);
	assert_int_equal(quits, 1);
	assert_int_equal(ask(weft_admin_handler, &admin, "GET", "/metrics", "", NULL, NULL), 200);
	assert_int_equal(ask(weft_metrics_handler, node, "GET", "/stats/prometheus",
			     "format=openmetrics", NULL, &type),
			 200);
	assert_non_null(strstr(type, "openmetrics"));
	assert_int_equal(ask(weft_admin_handler, &admin, "GET", "/nothing", "", NULL, NULL), 404);
}

static void test_socket(void **state)
{
	char dir[] = "/tmp/weft-admin-XXXXXX", path[64];
	struct weft_err err = {0};
	struct stat st;
	int fd, again;

	assert_non_null(mkdtemp(dir));
	fd = weft_admin_listen(dir, getuid(), getgid(), &err);
	assert_true(fd >= 0);
	snprintf(path, sizeof(path), "%s/proxy/admin.sock", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	close(fd);
	/* left by one who was killed: taken over */
	again = weft_admin_listen(dir, getuid(), getgid(), &err);
	assert_true(again >= 0);
	close(again);
	unlink(path);
	snprintf(path, sizeof(path), "%s/proxy", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	rmdir(path);
	rmdir(dir);
	assert_true(weft_admin_listen("/nonexistent/x", getuid(), getgid(), &err) < 0);
}

static int drained;
static void on_drained(void *owner)
{
	drained = 1;
}

static void test_drain_waits(void **state)
{
	struct weft_drain *d = weft_drain_new(node, on_drained, NULL);
	char *body;

	fake.live = 3;
	weft_drain_start(d);
	pump(node);
	assert_int_equal(fake.n_drain, 2);
	assert_int_equal(node->phase, WEFT_PHASE_DRAIN);
	assert_int_equal(ask(weft_ready_handler, node, "GET", "/healthz/ready", "", &body, NULL),
			 500);
	assert_non_null(strstr(body, "draining"));
	free(body);
	usleep(60000);
	pump(node);
	assert_int_equal(drained, 0);
	fake.live = 0;
	assert_true(pump_until(node, &drained));
	assert_int_equal(fake.n_force, 0);
	weft_drain_free(d);
}

static void test_drain_forces(void **state)
{
	struct weft_drain *d = weft_drain_new(node, on_drained, NULL);
	uint64_t t0 = weft_now_ns();

	drained = 0;
	fake.live = 3;
	weft_drain_start(d);
	assert_true(pump_until(node, &drained));
	assert_true(weft_now_ns() - t0 >= 200000000u); /* drain_ms */
	assert_int_equal(fake.n_force, 2);
	weft_drain_free(d);
	/* the second signal does not wait */
	fake.n_force = drained = 0;
	fake.live = 3;
	d = weft_drain_new(node, on_drained, NULL);
	weft_drain_start(d);
	weft_drain_start(d);
	pump(node);
	assert_int_equal(fake.n_force, 2);
	assert_true(pump_until(node, &drained));
	weft_drain_free(d);
}

static int setup(void **state)
{
	struct weft_reserve_conf conf = {.min = 1, .max = 2, .total = 10, .want = want};
	struct weft_podtab_conf pt = {.path = "/nonexistent", .version = "t"};

	node = fake_node(2);
	node->reserve = weft_reserve_new(node, &conf);
	node->state = weft_state_new(node, "/nonexistent");
	node->podtab = weft_podtab_new(node, &pt);
	weft_metrics_setup();
	admin = (struct weft_admin){node, &opt, quit, NULL};
	return 0;
}

static int teardown(void **state)
{
	struct weft_state *s = node->state;

	weft_podtab_free(node->podtab);
	node->state = NULL;
	weft_state_free(s);
	weft_reserve_free(node->reserve);
	node->reserve = NULL;
	fake_node_free(node);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_status),	     cmocka_unit_test(test_ready),
		cmocka_unit_test(test_logging),	     cmocka_unit_test(test_quit_and_metrics),
		cmocka_unit_test(test_socket),	     cmocka_unit_test(test_drain_waits),
		cmocka_unit_test(test_drain_forces),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
