/* Files as sources: read, rewritten, moved into place, swapped by a symlink as Kubernetes does it.
 */
#include "source_env.h"

__attribute__((format(printf, 2, 3))) static void write_to(const char *path, const char *fmt, ...)
{
	FILE *f = fopen(path, "w");
	va_list ap;

	assert_non_null(f);
	va_start(ap, fmt);
	assert_true(vfprintf(f, fmt, ap) > 0);
	va_end(ap);
	assert_int_equal(fclose(f), 0);
}

static const char yaml[] =
	"version_info: %s\nresources:\n"
	"- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n"
	"  cluster_name: a\n"
	"- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n"
	"  cluster_name: %s\n";
static const char json[] =
	"{\"version_info\":\"%s\",\"resources\":[{\"@type\":\"type.googleapis.com/"
	"envoy.config.cluster.v3.Cluster\",\"name\":\"%s\"}]}";

static void from_file(struct env *e, const char *path)
{
	struct weft_xds_sources_conf conf = {
		.node = &e->node, .dial = dial, .lost = lost, .owner = e};

	e->cs.config_source_specifier_case = CS(PATH);
	e->cs.path = (char *)path;
	e->sources = weft_xds_sources_new(e->base, &conf);
}

static void by_name(void **st)
{
	struct env *e = *st;
	struct seen a = {0}, b = {0}, late = {0};

	write_to(e->file, yaml, "v1", "b");
	from_file(e, e->file);
	watch(e, &a, &weft_xds_type_endpoint, "a");
	watch(e, &b, &weft_xds_type_endpoint, "c");
	UNTIL(e, a.completes);
	assert_int_equal(a.updates, 1);
	assert_string_equal(a.version, "v1");
	assert_string_equal(weft_xds_watch_stat(a.w).version_text, "v1");
	assert_int_equal(b.updates, 0);
	write_to(e->file, yaml, "v2", "c"); /* in place */
	UNTIL(e, b.completes);
	assert_int_equal(b.updates, 1);
	assert_int_equal(a.updates, 1); /* the same */
	watch(e, &late, &weft_xds_type_endpoint, "c");
	UNTIL(e, late.completes);
	assert_int_equal(late.updates, 1);
	done(&a), done(&b), done(&late);
}

static void moved_and_broken(void **st)
{
	struct env *e = *st;
	struct seen all = {0};
	char other[128];

	snprintf(other, sizeof(other), "%s/new", e->dir);
	write_to(e->file, json, "1", "one");
	from_file(e, e->file);
	watch(e, &all, &weft_xds_type_cluster, NULL);
	UNTIL(e, all.completes);
	write_to(other, json, "2", "two");
	assert_int_equal(rename(other, e->file), 0);
	UNTIL(e, all.updates == 2 && all.removals == 1);
	assert_string_equal(all.last, "two");
	assert_string_equal(all.gone, "one");
	write_to(e->file, "resources: [{");
	UNTIL(e, e->lost == 1);
	assert_non_null(strstr(e->lost_why, "f.yaml:"));
	assert_int_equal(weft_xds_watch_stat(all.w).update_failure, 1);
	assert_int_equal(unlink(e->file), 0);
	UNTIL(e, e->lost == 2);
	write_to(e->file, json, "3", "three");
	UNTIL(e, all.updates == 3 && all.removals == 2);
	assert_int_equal(all.completes, 1);
	done(&all);
}

/* f.yaml -> data/f.yaml, data -> one; then data is replaced by a link to two. */
static void symlinks(void **st)
{
	struct env *e = *st;
	struct seen all = {0};
	char one[96], two[96], path[160], data[128], tmp[128];

	snprintf(one, sizeof(one), "%s/one", e->dir);
	snprintf(two, sizeof(two), "%s/two", e->dir);
	snprintf(data, sizeof(data), "%s/data", e->dir);
	snprintf(tmp, sizeof(tmp), "%s/tmp", e->dir);
	assert_int_equal(mkdir(one, 0700) | mkdir(two, 0700), 0);
	snprintf(path, sizeof(path), "%s/f.yaml", one);
	write_to(path, json, "1", "one");
	snprintf(path, sizeof(path), "%s/f.yaml", two);
	write_to(path, json, "2", "two");
	assert_int_equal(symlink("one", data) | symlink("data/f.yaml", e->file), 0);
	from_file(e, e->file);
	watch(e, &all, &weft_xds_type_cluster, NULL);
	UNTIL(e, all.completes);
	assert_string_equal(all.last, "one");
	assert_int_equal(symlink("two", tmp) | rename(tmp, data), 0);
	UNTIL(e, all.updates == 2);
	assert_string_equal(all.last, "two");
	done(&all);
}

/* The file stands elsewhere; a change is told in watched_directory alone. */
static void watched_directory(void **st)
{
	struct env *e = *st;
	struct seen all = {0};
	Envoy__Config__Core__V3__PathConfigSource p =
		ENVOY__CONFIG__CORE__V3__PATH_CONFIG_SOURCE__INIT;
	Envoy__Config__Core__V3__WatchedDirectory dir =
		ENVOY__CONFIG__CORE__V3__WATCHED_DIRECTORY__INIT;
	char one[96], two[96], link[96], tmp[96], path[160], through[160];

	snprintf(one, sizeof(one), "%s/one", e->dir);
	snprintf(two, sizeof(two), "%s/two", e->dir);
	snprintf(link, sizeof(link), "%s/now", e->dir);
	snprintf(tmp, sizeof(tmp), "%s/tmp", e->dir);
	assert_int_equal(mkdir(one, 0700) | mkdir(two, 0700) | symlink("one", link), 0);
	snprintf(path, sizeof(path), "%s/f", one);
	write_to(path, json, "1", "one");
	snprintf(path, sizeof(path), "%s/f", two);
	write_to(path, json, "2", "two");
	snprintf(through, sizeof(through), "%s/f", link);
	from_file(e, "");
	p.path = through;
	p.watched_directory = &dir;
	dir.path = e->dir;
	e->cs.config_source_specifier_case = CS(PATH_CONFIG_SOURCE);
	e->cs.path_config_source = &p;
	watch(e, &all, &weft_xds_type_cluster, NULL);
	UNTIL(e, all.completes);
	assert_int_equal(symlink("two", tmp) | rename(tmp, link), 0);
	UNTIL(e, all.updates == 2);
	assert_string_equal(all.last, "two");
	weft_xds_unwatch(all.w);
	spin(e, 5);
	done(&all);
}

static void not_there(void **st)
{
	struct env *e = *st;
	struct weft_err err = {0};

	from_file(e, "/nowhere/f.yaml");
	assert_null(weft_xds_watch(e->sources, &e->cs, &weft_xds_type_cluster, NULL, &sink, NULL,
				   &err));
	assert_non_null(strstr(err.msg, "/nowhere/f.yaml"));
	assert_null(
		weft_xds_watch(e->sources, NULL, &weft_xds_type_cluster, NULL, &sink, NULL, &err));
	assert_non_null(strstr(err.msg, "ads_config"));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest t[] = {
		T(by_name), T(moved_and_broken), T(symlinks), T(watched_directory), T(not_there),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
