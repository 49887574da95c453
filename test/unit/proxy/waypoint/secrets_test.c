/* Secrets by SDS from a file, whose certificates are files too: read again when these are moved. */
#include "proxy/core/scope.h"
#include "proxy/core/worker.h"
#include "proxy/waypoint/waypoint.h"
#include "test/unit/xds/tls_env.h"

#include <event2/event.h>
#include <sys/stat.h>
#include <unistd.h>

static struct tcert ca, one, two;

struct env {
	struct event_base *base;
	struct weft_xds_sources *sources;
	struct secrets *s;
	struct tconf t;
	unsigned changed;
	char dir[64], mount[80], sds[80];
};

static int all_up(void **state)
{
	ca = tcert_new(NULL, (struct tcert_want){.cn = "root", .ca = true});
	one = tcert_new(&ca, (struct tcert_want){.cn = "one"});
	two = tcert_new(&ca, (struct tcert_want){.cn = "two"});
	return 0;
}

static int all_down(void **state)
{
	tcert_free(&ca);
	tcert_free(&one);
	tcert_free(&two);
	return 0;
}

static void changed(void *owner, const char *name)
{
	((struct env *)owner)->changed++;
}

static void put(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

/* As Kubernetes: ..data is a link to the folder of one moment. */
static void mount(struct env *e, const char *folder, const char *cert, const char *key)
{
	char path[120], tmp[120], data[120];

	snprintf(path, sizeof(path), "%s/%s", e->mount, folder);
	mkdir(path, 0755);
	snprintf(path, sizeof(path), "%s/%s/crt", e->mount, folder);
	put(path, cert);
	snprintf(path, sizeof(path), "%s/%s/key", e->mount, folder);
	put(path, key);
	snprintf(tmp, sizeof(tmp), "%s/tmp", e->mount);
	snprintf(data, sizeof(data), "%s/..data", e->mount);
	assert_int_equal(symlink(folder, tmp), 0);
	assert_int_equal(rename(tmp, data), 0);
}

static void spin(struct env *e)
{
	struct timeval tv = {0, 2000};

	event_base_loopexit(e->base, &tv);
	event_base_dispatch(e->base);
}

#define UNTIL(e, cond)                                                                             \
	for (int turns = 0; !(cond); turns++) {                                                    \
		assert_true(turns < 5000);                                                         \
		spin(e);                                                                           \
	}

static int setup(void **state)
{
	struct weft_xds_sources_conf xc = {0};
	struct secrets_conf sc = {0};
	struct env *e = weft_xcalloc(1, sizeof(*e));

	strcpy(e->dir, "/tmp/weft-secrets-XXXXXX");
	assert_non_null(mkdtemp(e->dir));
	snprintf(e->mount, sizeof(e->mount), "%s/mount", e->dir);
	snprintf(e->sds, sizeof(e->sds), "%s/sds.yaml", e->dir);
	mkdir(e->mount, 0755);
	e->base = event_base_new();
	xc.owner = e;
	e->sources = weft_xds_sources_new(e->base, &xc);
	sc = (struct secrets_conf){
		.base = e->base, .sources = e->sources, .changed = changed, .owner = e};
	e->s = secrets_new(&sc);
	tconf_init(&e->t);
	mount(e, "1", one.pem, one.key_pem);
	*state = e;
	return 0;
}

static int teardown(void **state)
{
	struct env *e = *state;
	char cmd[100];

	secrets_free(e->s);
	weft_xds_sources_free(e->sources);
	event_base_free(e->base);
	weft_arena_free(e->t.a);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", e->dir);
	assert_int_equal(system(cmd), 0);
	free(e);
	return 0;
}

/* more: of the certificate; empty: the folders of the files are watched. */
static void want(struct env *e, const char *more)
{
	char y[800];
	const Envoy__Config__Core__V3__ConfigSource *cs;

	snprintf(y, sizeof(y),
		 "version_info: '1'\nresources:\n- '@type': "
		 "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n"
		 "  name: s\n  tls_certificate:\n    certificate_chain: {filename: %s/..data/crt}\n"
		 "    private_key: {filename: %s/..data/key}\n%s",
		 e->mount, e->mount, more);
	put(e->sds, y);
	snprintf(y, sizeof(y), "{path_config_source: {path: %s}}", e->sds);
	cs = (const void *)tmsg(&e->t, &envoy__config__core__v3__config_source__descriptor, y, NULL,
				0);
	secrets_want(e->s, cs, "s", true);
}

static const char *chain(struct env *e)
{
	const Envoy__Extensions__TransportSockets__Tls__V3__Secret *m = secrets_get(e->s, "s");

	return m ? (const char *)m->tls_certificate->certificate_chain->inline_bytes.data : "";
}

static char *watched(struct env *e)
{
	static char y[200];

	snprintf(y, sizeof(y), "    watched_directory: {path: %s}\n", e->mount);
	return y;
}

static void test_moved(void **state)
{
	struct env *e = *state;

	want(e, watched(e));
	UNTIL(e, e->changed == 1);
	assert_string_equal(chain(e), one.pem);
	mount(e, "2", two.pem, two.key_pem);
	UNTIL(e, e->changed == 2);
	assert_string_equal(chain(e), two.pem);
	/* the same once more is no news */
	mount(e, "3", two.pem, two.key_pem);
	for (int i = 0; i < 50; i++)
		spin(e);
	assert_int_equal(e->changed, 2);
	/* what does not fit is counted, and changes nothing */
	mount(e, "4", one.pem, two.key_pem);
	for (int i = 0; i < 50; i++)
		spin(e);
	assert_int_equal(e->changed, 2);
	assert_string_equal(chain(e), two.pem);
	mount(e, "5", one.pem, one.key_pem);
	UNTIL(e, e->changed == 3);
	assert_string_equal(chain(e), one.pem);
	secrets_want(e->s, NULL, "s", false);
	mount(e, "6", two.pem, two.key_pem);
	for (int i = 0; i < 20; i++)
		spin(e);
	assert_int_equal(e->changed, 3);
}

/* Without it the folders of the files: here those that ..data leads to, where nothing moves. */
static void test_parents(void **state)
{
	struct env *e = *state;
	char tmp[120], crt[120];

	want(e, "");
	UNTIL(e, e->changed == 1);
	mount(e, "2", two.pem, two.key_pem);
	for (int i = 0; i < 50; i++)
		spin(e);
	assert_int_equal(e->changed, 1);
	/* a file moved into the folder that is watched: 1, which ..data no longer leads to */
	snprintf(tmp, sizeof(tmp), "%s/new", e->dir);
	snprintf(crt, sizeof(crt), "%s/1/crt", e->mount);
	put(tmp, two.pem);
	assert_int_equal(rename(tmp, crt), 0);
	UNTIL(e, e->changed == 2);
	assert_string_equal(chain(e), two.pem);
}

static void test_no_folder(void **state)
{
	struct env *e = *state;

	want(e, "    watched_directory: {path: /nonexistent/folder}\n");
	for (int i = 0; i < 50; i++)
		spin(e);
	assert_int_equal(e->changed, 0);
	assert_string_equal(chain(e), "");
}

static void test_static(void **state)
{
	struct env *e = *state;
	const Envoy__Extensions__TransportSockets__Tls__V3__Secret *m;
	struct tval v[] = {{"crt", one.pem}, {"key", one.key_pem}};

	m = (const void *)tmsg(&e->t,
			       &envoy__extensions__transport_sockets__tls__v3__secret__descriptor,
			       "{name: x, tls_certificate: {certificate_chain: {inline_string: "
			       "@crt@}, private_key: {inline_string: @key@}, watched_directory: "
			       "{path: /tmp}}}",
			       v, 2);
	assert_int_equal(secrets_add_static(e->s, &e->t.cfg, NULL, m), 0);
	assert_int_equal(e->t.warns.n, 1);
	assert_non_null(strstr(e->t.warns.v[0].msg, "has no effect here"));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_moved), T(test_parents), T(test_no_folder),
					   T(test_static)};

	return cmocka_run_group_tests(tests, all_up, all_down);
}
