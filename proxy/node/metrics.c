#include "proxy/node/metrics.h"

#include "proxy/core/version.h"

#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

void weft_metrics_setup(void)
{
	static const char *const labels[] = {"component", "tag", NULL};
	static const char *const values[] = {"weft-proxy", WEFT_VERSION};
	struct weft_stat_family *f = weft_stat_family_new("istio_build", "Version of the program",
							  WEFT_STAT_GAUGE, labels);

	/* the reference is kept: the series never expires */
	weft_stat_set(weft_stat_get(f, values), 1);
}

static long resident_bytes(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	long size, pages = 0;

	if (!f)
		return 0;
	if (fscanf(f, "%ld %ld", &size, &pages) != 2)
		pages = 0;
	fclose(f);
	return pages * sysconf(_SC_PAGESIZE);
}

static long open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	long n = -1; /* the folder's own */

	if (!d)
		return 0;
	for (struct dirent *e; (e = readdir(d));)
		if (e->d_name[0] != '.')
			n++;
	closedir(d);
	return n;
}

static void process_gauge(struct evbuffer *out, const char *name, const char *help, long v)
{
	evbuffer_add_printf(out, "# HELP %s %s\n# TYPE %s gauge\n%s %ld\n", name, help, name, name,
			    v);
}

static void print_process(struct evbuffer *out, bool openmetrics)
{
	struct rusage ru;
	struct rlimit rl = {0};

	getrusage(RUSAGE_SELF, &ru);
	evbuffer_add_printf(out,
			    "# HELP process_cpu_seconds%s User and system time used\n"
			    "# TYPE process_cpu_seconds%s counter\n"
			    "process_cpu_seconds_total %.6f\n",
			    openmetrics ? "" : "_total", openmetrics ? "" : "_total",
			    (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) +
				    (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6);
	process_gauge(out, "process_resident_memory_bytes", "Resident memory", resident_bytes());
	process_gauge(out, "process_open_fds", "Open descriptors", open_fds());
	if (!getrlimit(RLIMIT_NOFILE, &rl))
		process_gauge(out, "process_max_fds", "Most descriptors allowed",
			      (long)rl.rlim_cur);
}

void weft_metrics_print(struct evbuffer *out, bool openmetrics)
{
	print_process(out, openmetrics);
	weft_stat_print(out, openmetrics);
}

int weft_metrics_handler(void *owner, const struct weft_http_req *r, struct evbuffer *out,
			 const char **ret_type)
{
	char format[32] = "";
	bool openmetrics;

	if (strcmp(r->path, "/metrics") != 0 && strcmp(r->path, "/stats/prometheus") != 0)
		return 404;
	if (strcmp(r->method, "GET") != 0)
		return 405;
	openmetrics = !weft_http_query(r->query, "format", format, sizeof(format)) &&
		      strcmp(format, "openmetrics") == 0;
	weft_metrics_print(out, openmetrics);
	*ret_type = openmetrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
				: "text/plain; version=0.0.4; charset=utf-8";
	return 200;
}

int weft_metrics_listen(const struct weft_sockaddr *at, struct weft_err *reterr)
{
	char text[WEFT_SOCKADDR_TEXT];
	struct weft_sockaddr use = *at;
	struct sockaddr_storage ss;
	int fd, on = 1, off = 0, err;
	socklen_t n;

	fd = socket(use.ip.family == 6 ? AF_INET6 : AF_INET,
		    SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 && errno == EAFNOSUPPORT && weft_ip_is_any(&use.ip)) {
		use.ip = (struct weft_ip){.family = 4};
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	}
	n = weft_sockaddr_to_kernel(&use, 0, &ss);
	/* a successor listens while we drain */
	if (fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) &&
	    !setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) &&
	    (use.ip.family == 4 || !setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off))) &&
	    !bind(fd, (struct sockaddr *)&ss, n) && !listen(fd, 128))
		return fd;
	err = errno;
	if (fd >= 0)
		close(fd);
	weft_sockaddr_text(&use, text, sizeof(text));
	return weft_fail(reterr, NULL, err, "listen on %s: %s", text, strerror(err));
}
