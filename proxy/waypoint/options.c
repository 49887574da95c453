/* The command line: Envoy's names where Envoy has the option. */
#include "proxy/core/log.h"
#include "proxy/core/version.h"
#include "proxy/waypoint/waypoint.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
	OPT_YAML = 1000,
	OPT_MODE,
	OPT_CONCURRENCY,
	OPT_NODE,
	OPT_CLUSTER,
	OPT_ZONE,
	OPT_ADMIN,
	OPT_ADMIN_FILE,
	OPT_ADMIN_TOKEN,
	OPT_DRAIN,
	OPT_DRAIN_STRATEGY,
	OPT_USER,
	OPT_LOG_JSON,
	OPT_NO_SECCOMP,
	OPT_LOW_PORTS,
	OPT_VERSION,
	OPT_HELP,
	OPT_NONE, /* Envoy's, accepted where ours behaves so anyway */
	OPT_REFUSED,
};
static const struct option words[] = {
	{"config-path", required_argument, NULL, 'c'},
	{"config-yaml", required_argument, NULL, OPT_YAML},
	{"mode", required_argument, NULL, OPT_MODE},
	{"concurrency", required_argument, NULL, OPT_CONCURRENCY},
	{"service-node", required_argument, NULL, OPT_NODE},
	{"service-cluster", required_argument, NULL, OPT_CLUSTER},
	{"service-zone", required_argument, NULL, OPT_ZONE},
	{"admin-socket", required_argument, NULL, OPT_ADMIN},
	{"admin-address-path", required_argument, NULL, OPT_ADMIN_FILE},
	{"admin-token-file", required_argument, NULL, OPT_ADMIN_TOKEN},
	{"drain-time-s", required_argument, NULL, OPT_DRAIN},
	{"drain-strategy", required_argument, NULL, OPT_DRAIN_STRATEGY},
	{"user", required_argument, NULL, OPT_USER},
	{"log-level", required_argument, NULL, 'l'},
	{"log-json", no_argument, NULL, OPT_LOG_JSON},
	{"no-seccomp", no_argument, NULL, OPT_NO_SECCOMP},
	{"low-ports", no_argument, NULL, OPT_LOW_PORTS},
	{"output", required_argument, NULL, 'o'},
	{"version", no_argument, NULL, OPT_VERSION},
	{"help", no_argument, NULL, OPT_HELP},
	{"disable-hot-restart", no_argument, NULL, OPT_NONE},
	{"base-id", required_argument, NULL, OPT_REFUSED},
	{"use-dynamic-base-id", no_argument, NULL, OPT_REFUSED},
	{"restart-epoch", required_argument, NULL, OPT_REFUSED},
	{"allow-unknown-fields", no_argument, NULL, OPT_REFUSED},
	{"allow-unknown-static-fields", no_argument, NULL, OPT_REFUSED},
	{"ignore-unknown-dynamic-fields", no_argument, NULL, OPT_REFUSED},
	{"log-path", required_argument, NULL, OPT_REFUSED},
	{"component-log-level", required_argument, NULL, OPT_REFUSED},
	{NULL, 0, NULL, 0},
};

static void print_help(void)
{
	puts("weft-waypoint: an HTTP proxy for a mesh's services, and edge, egress or sidecar "
	     "alone.\n"
	     "Takes an Envoy v3 bootstrap.\n"
	     "\n"
	     "  weft-waypoint -c FILE [OPTIONS]\n"
	     "  weft-waypoint --mode validate -c FILE    every error of the file, with its place\n"
	     "\n"
	     "  -o, --output text|json    of --mode validate (text)\n"
	     "  -c, --config-path FILE    bootstrap, YAML or JSON\n"
	     "  --config-yaml TEXT        bootstrap, or what is merged over the file\n"
	     "  --mode serve|validate     (serve)\n"
	     "  --concurrency N           threads that carry traffic; 0: one a CPU (0)\n"
	     "  --service-node ID --service-cluster NAME --service-zone ZONE\n"
	     "                            the node, over what the bootstrap says\n"
	     "  --admin-socket PATH       admin on a unix socket (or admin.address of the "
	     "bootstrap)\n"
	     "  --admin-address-path FILE where the admin's address is written\n"
	     "  --admin-token-file FILE   bearer token that is asked for; needed where admin is "
	     "TCP\n"
	     "  --drain-time-s N          how long old connections of a listener may go on (600)\n"
	     "  --drain-strategy gradual|immediate\n"
	     "  --user USER|UID           switched to when started as root\n"
	     "  --low-ports               keep the right to ports under 1024 for listeners that "
	     "come later\n"
	     "  --no-seccomp              no system call filter (sanitizers need more calls)\n"
	     "  -l, --log-level error|warn|info|debug (info)   --log-json\n"
	     "  --version  --help");
}

static int bad(const char *name, const char *rule, const char *found)
{
	fprintf(stderr, "weft-waypoint: --%s: %s, is \"%s\"\n", name, rule, found);
	return -EINVAL;
}

static int number(const char *name, const char *s, unsigned max, unsigned *ret)
{
	char rule[64], *end;
	unsigned long v;

	errno = 0;
	v = strtoul(s, &end, 10);
	if (errno || *end || s[0] < '0' || s[0] > '9' || v > max) {
		snprintf(rule, sizeof(rule), "must be 0..%u", max);
		return bad(name, rule, s);
	}
	*ret = (unsigned)v;
	return 0;
}

/* Envoy's names of levels mean ours. */
static int level(const char *s, int *ret)
{
	enum weft_log_level l;

	if (!strcasecmp(s, "trace"))
		s = "debug";
	else if (!strcasecmp(s, "warning"))
		s = "warn";
	else if (!strcasecmp(s, "critical") || !strcasecmp(s, "off"))
		s = "error";
	if (weft_log_level_parse(s, &l))
		return bad("log-level", "must be error, warn, info or debug", s);
	*ret = l;
	return 0;
}

static int one(struct waypoint_options *o, int opt, const char *s, const char *name)
{
	switch (opt) {
	case 'c':
		o->config_path = s;
		return 0;
	case OPT_YAML:
		o->config_yaml = s;
		return 0;
	case OPT_MODE:
		if (strcmp(s, "serve") && strcmp(s, "validate"))
			return bad("mode", "must be serve or validate", s);
		o->mode = *s == 's' ? MODE_SERVE : MODE_VALIDATE;
		return 0;
	case OPT_CONCURRENCY:
		return number("concurrency", s, 256, &o->concurrency);
	case OPT_NODE:
		o->node_id = s;
		return 0;
	case OPT_CLUSTER:
		o->node_cluster = s;
		return 0;
	case OPT_ZONE:
		o->node_zone = s;
		return 0;
	case OPT_ADMIN:
		o->admin_path = s;
		return 0;
	case OPT_ADMIN_FILE:
		o->admin_address_file = s;
		return 0;
	case OPT_ADMIN_TOKEN:
		o->admin_token_file = s;
		return 0;
	case OPT_DRAIN:
		return number("drain-time-s", s, 86400, &o->drain_s);
	case OPT_DRAIN_STRATEGY:
		if (strcmp(s, "gradual") && strcmp(s, "immediate"))
			return bad("drain-strategy", "must be gradual or immediate", s);
		o->drain_immediate = *s == 'i';
		return 0;
	case OPT_USER:
		o->user = s;
		return 0;
	case 'l':
		return level(s, &o->log_level);
	case OPT_LOG_JSON:
		o->log_json = true;
		return 0;
	case OPT_NO_SECCOMP:
		o->no_seccomp = true;
		return 0;
	case OPT_LOW_PORTS:
		o->low_ports = true;
		return 0;
	case 'o':
		if (strcmp(s, "text") && strcmp(s, "json"))
			return bad("output", "must be text or json", s);
		o->output_json = *s == 'j';
		return 0;
	case OPT_VERSION:
		puts("weft-waypoint " WEFT_VERSION);
		return 1;
	case OPT_HELP:
		print_help();
		return 1;
	case OPT_NONE:
		return 0;
	case OPT_REFUSED:
		fprintf(stderr, "weft-waypoint: --%s: an option of Envoy that is not supported\n",
			name);
		return -EINVAL;
	default: /* getopt said what is wrong */
		return -EINVAL;
	}
}

int waypoint_options(int argc, char **argv, struct waypoint_options *ret)
{
	int opt, at = 0, err;

	*ret = (struct waypoint_options){.drain_s = 600, .log_level = WEFT_LOG_INFO};
	if (argc < 2) {
		print_help();
		return 1;
	}
	optind = 0;
	while ((opt = getopt_long(argc, argv, "c:l:o:", words, &at)) != -1) {
		err = one(ret, opt, optarg,
			  opt >= OPT_YAML && opt <= OPT_REFUSED ? words[at].name : "");
		if (err)
			return err;
	}
	if (optind < argc) {
		fprintf(stderr, "weft-waypoint: only options are taken, not \"%s\"\n",
			argv[optind]);
		return -EINVAL;
	}
	if (!ret->config_path && !ret->config_yaml) {
		fprintf(stderr, "weft-waypoint: -c FILE or --config-yaml TEXT must be given\n");
		return -EINVAL;
	}
	return 0;
}
