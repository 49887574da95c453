#include "agent/options.h"
#include "proxy/core/err.h"
#include "proxy/core/seal.h"
#include "proxy/core/version.h"
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	OPT_CONFIG = 1000,
	OPT_NODE,
	OPT_RUN_DIR,
	OPT_STATE_DIR,
	OPT_PIN_DIR,
	OPT_CGROUP,
	OPT_PROXY_CGROUP,
	OPT_PROXY_USER,
	OPT_WAYPOINT_USER,
	OPT_INSTANCE,
	OPT_ADOPT,
	OPT_RETRY,
	OPT_HALF_OPEN,
	OPT_ROOT_TTL,
	OPT_LOG_LEVEL,
	OPT_LOG_JSON,
	OPT_CHECK,
	OPT_UNLOAD,
	OPT_VERSION,
	OPT_HELP,
};
static const struct option longs[] = {
	{"config", required_argument, NULL, OPT_CONFIG},
	{"node", required_argument, NULL, OPT_NODE},
	{"run-dir", required_argument, NULL, OPT_RUN_DIR},
	{"state-dir", required_argument, NULL, OPT_STATE_DIR},
	{"pin-dir", required_argument, NULL, OPT_PIN_DIR},
	{"cgroup", required_argument, NULL, OPT_CGROUP},
	{"proxy-cgroup", required_argument, NULL, OPT_PROXY_CGROUP},
	{"proxy-user", required_argument, NULL, OPT_PROXY_USER},
	{"waypoint-user", required_argument, NULL, OPT_WAYPOINT_USER},
	{"instance", required_argument, NULL, OPT_INSTANCE},
	{"adopt-wait-ms", required_argument, NULL, OPT_ADOPT},
	{"retry-ms", required_argument, NULL, OPT_RETRY},
	{"half-open-max", required_argument, NULL, OPT_HALF_OPEN},
	{"root-ttl-s", required_argument, NULL, OPT_ROOT_TTL},
	{"log-level", required_argument, NULL, OPT_LOG_LEVEL},
	{"log-json", no_argument, NULL, OPT_LOG_JSON},
	{"check", no_argument, NULL, OPT_CHECK},
	{"unload", no_argument, NULL, OPT_UNLOAD},
	{"version", no_argument, NULL, OPT_VERSION},
	{"help", no_argument, NULL, OPT_HELP},
	{0},
};

static void print_help(void)
{
	puts("weft-agent: reads the configuration, enrols this node's pods, hands out "
	     "certificates.\n"
	     "\n"
	     "  weft-agent --config DIR --node NAME [OPTIONS]\n"
	     "  weft-agent --check [--config DIR]      what this kernel can do, whether the folder "
	     "is good\n"
	     "  weft-agent --unload [--pin-dir DIR]    ends all capture of an agent that is gone\n"
	     "\n"
	     "  --config DIR           folder of YAML objects, watched\n"
	     "  --node NAME            this node: pods with this spec.nodeName are enrolled\n"
	     "  --run-dir DIR          sockets (/run/weft)\n"
	     "  --state-dir DIR        CA key, roots, last good configuration (/var/lib/weft)\n"
	     "  --pin-dir DIR          on a bpffs (/sys/fs/bpf/weft)\n"
	     "  --cgroup DIR           cgroup v2 mount to attach at (found in /proc/mounts)\n"
	     "  --proxy-cgroup MODE    move: make a cgroup for the proxy; own: it runs in one of "
	     "its own\n"
	     "                         (move where cgroup v1 is mounted too, else own)\n"
	     "  --proxy-user USER      user or uid that weft-proxy runs as (weft)\n"
	     "  --waypoint-user USER   user or uid that weft-waypoint runs as (the agent's own)\n"
	     "  --instance NAME        tells agents of one machine apart (0)\n"
	     "  --adopt-wait-ms N      after start: wait for a live proxy to hand listeners back "
	     "(2000)\n"
	     "  --retry-ms N           pods that failed are tried again (5000)\n"
	     "  --half-open-max N      captured connects not yet accepted, a pod (8192)\n"
	     "  --root-ttl-s N         life of a root certificate that is made (ten years)\n"
	     "  --log-level LEVEL      error, warn, info, debug (info)\n"
	     "  --log-json             log lines as JSON\n"
	     "  --version, --help\n"
	     "\n"
	     "SIGHUP reads the folder again. SIGTERM ends the agent and leaves capture in place.");
}

/* The first cgroup2 mount; whether v1 controllers are mounted beside it. */
static void find_cgroup(struct weft_agent_options *o)
{
	char line[1024], dir[512], type[64];
	bool v1 = false;
	FILE *f = fopen("/proc/mounts", "re");

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %511s %63s", dir, type) != 2)
			continue;
		if (!strcmp(type, "cgroup"))
			v1 = true;
		else if (!strcmp(type, "cgroup2") && !o->cgroup[0])
			snprintf(o->cgroup, sizeof(o->cgroup), "%.255s", dir);
	}
	if (f)
		fclose(f);
	if (!o->move_set)
		o->move_cgroup = v1;
}

static int bad(const char *what, const char *rule, const char *value)
{
	fprintf(stderr, "weft-agent: --%s: %s, is \"%s\"\n", what, rule, value);
	return -EINVAL;
}

static int number(const char *name, const char *s, unsigned long min, unsigned long max,
		  unsigned long *ret)
{
	char *end, rule[64];

	errno = 0;
	*ret = strtoul(s, &end, 10);
	if (!errno && *s >= '0' && *s <= '9' && !*end && *ret >= min && *ret <= max)
		return 0;
	snprintf(rule, sizeof(rule), "must be %lu..%lu", min, max);
	return bad(name, rule, s);
}

static int name_ok(const char *opt, const char *s, size_t max)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.");

	return n && !s[n] && n <= max && s[0] != '.'
		       ? 0
		       : bad(opt, "must be letters, digits, - and .", s);
}

static int set(struct weft_agent_options *o, int c, const char *v)
{
	unsigned long n = 0;
	int r = 0;

	switch (c) {
	case OPT_CONFIG:
		o->config = v;
		break;
	case OPT_NODE:
		o->node = v;
		return name_ok("node", v, 253);
	case OPT_RUN_DIR:
		o->run_dir = v;
		break;
	case OPT_STATE_DIR:
		o->state_dir = v;
		break;
	case OPT_PIN_DIR:
		o->pin_dir = v;
		break;
	case OPT_CGROUP:
		if (strlen(v) >= sizeof(o->cgroup))
			return bad("cgroup", "is too long", v);
		strcpy(o->cgroup, v);
		break;
	case OPT_PROXY_CGROUP:
		o->move_set = true;
		o->move_cgroup = !strcmp(v, "move");
		return o->move_cgroup || !strcmp(v, "own")
			       ? 0
			       : bad("proxy-cgroup", "must be move or own", v);
	case OPT_PROXY_USER:
		o->proxy_user = v;
		break;
	case OPT_WAYPOINT_USER:
		o->waypoint_user = v;
		break;
	case OPT_INSTANCE:
		o->instance = v;
		return name_ok("instance", v, 63);
	case OPT_ADOPT:
		r = number("adopt-wait-ms", v, 0, 600000, &n);
		o->adopt_wait_ms = (unsigned)n;
		break;
	case OPT_RETRY:
		r = number("retry-ms", v, 100, 600000, &n);
		o->retry_ms = (unsigned)n;
		break;
	case OPT_HALF_OPEN:
		r = number("half-open-max", v, 1, 1000000, &n);
		o->half_open_max = (unsigned)n;
		break;
	case OPT_ROOT_TTL:
		r = number("root-ttl-s", v, 10, 3153600000UL, &n);
		o->root_ttl_s = (int64_t)n;
		break;
	case OPT_LOG_LEVEL:
		return weft_log_level_parse(v, &o->log_level)
			       ? bad("log-level", "must be error, warn, info or debug", v)
			       : 0;
	case OPT_LOG_JSON:
		o->log_json = true;
		break;
	case OPT_CHECK:
		o->check = true;
		break;
	case OPT_UNLOAD:
		o->unload = true;
		break;
	case OPT_VERSION:
		puts("weft-agent " WEFT_VERSION);
		return 1;
	case OPT_HELP:
		print_help();
		return 1;
	default:
		return -EINVAL; /* getopt said why */
	}
	return r;
}

int weft_agent_options(int argc, char **argv, struct weft_agent_options *ret)
{
	struct weft_agent_options o = {.run_dir = "/run/weft",
				       .state_dir = "/var/lib/weft",
				       .pin_dir = "/sys/fs/bpf/weft",
				       .proxy_user = "weft",
				       .instance = "0",
				       .adopt_wait_ms = 2000,
				       .retry_ms = 5000,
				       .log_level = WEFT_LOG_INFO};
	struct weft_err e = {0};
	gid_t gid;
	int c, r;

	if (argc == 1) {
		print_help();
		return 1;
	}
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		r = set(&o, c, optarg);
		if (r)
			return r;
	}
	if (optind < argc) {
		fprintf(stderr, "weft-agent: \"%s\": not an option\n", argv[optind]);
		return -EINVAL;
	}
	find_cgroup(&o);
	*ret = o;
	if (o.check || o.unload)
		return 0;
	if (!o.config || !o.node) {
		fprintf(stderr, "weft-agent: --%s is needed\n", o.config ? "node" : "config");
		return -EINVAL;
	}
	if (!o.cgroup[0]) {
		fprintf(stderr, "weft-agent: no cgroup v2 is mounted; --cgroup DIR names one\n");
		return -EINVAL;
	}
	if (weft_user_lookup(o.proxy_user, &ret->proxy_uid, &ret->proxy_gid, &e) < 0) {
		fprintf(stderr, "weft-agent: --proxy-user: %s\n", e.msg);
		return -EINVAL;
	}
	ret->waypoint_uid = geteuid();
	if (o.waypoint_user &&
	    weft_user_lookup(o.waypoint_user, &ret->waypoint_uid, &gid, &e) < 0) {
		fprintf(stderr, "weft-agent: --waypoint-user: %s\n", e.msg);
		return -EINVAL;
	}
	if (o.waypoint_user && ret->waypoint_uid == ret->proxy_uid) {
		fprintf(stderr,
			"weft-agent: --waypoint-user: must not be --proxy-user, which could "
			"then have the waypoints' keys\n");
		return -EINVAL;
	}
	return 0;
}
