#include "proxy/node/options.h"

#include "proxy/core/version.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Numbers: one line an option. Parsed, checked and shown in the help from here. */
struct number {
	const char *name;
	size_t offset;
	unsigned def, min, max;
	const char *help;
};
#define CONF(field) offsetof(struct weft_options, conf.field)
static const struct number numbers[] = {
	{"workers", CONF(workers), 0, 0, 256, "threads that carry traffic; 0: one a CPU"},
	{"connect-ms", CONF(connect_ms), 10000, 1, 600000,
	 "wait for a TCP connect or for a socket of the pod"},
	{"tls-ms", CONF(tls_ms), 10000, 1, 600000, "wait for a TLS handshake"},
	{"preface-ms", CONF(preface_ms), 10000, 1, 600000,
	 "wait for the peer's HTTP/2 preface and SETTINGS"},
	{"answer-ms", CONF(answer_ms), 10000, 1, 600000, "wait for the answer to CONNECT"},
	{"workload-wait-ms", CONF(workload_wait_ms), 5000, 0, 600000,
	 "wait for a pod's workload to be configured"},
	{"drain-ms", CONF(drain_ms), 25000, 0, 86400000,
	 "SIGTERM: wait for live connections to end"},
	{"pool-idle-ms", CONF(pool_idle_ms), 300000, 100, 86400000, "an unused tunnel is closed"},
	{"ping-ms", CONF(ping_ms), 10000, 100, 86400000, "HTTP/2 PING on a tunnel"},
	{"ping-timeout-ms", CONF(ping_timeout_ms), 20000, 100, 86400000,
	 "no answer to PING: the tunnel is lost"},
	{"max-conns", CONF(max_conns), 200000, 1, 100000000, "users' connections in all"},
	{"max-handshakes", CONF(max_handshakes), 4096, 1, 1000000,
	 "tunnels that are being set up, a worker; the oldest makes room"},
	{"stream-window", CONF(stream_window), 262144, 65535, 16777216,
	 "bytes a stream may have under way"},
	{"max-streams", CONF(max_streams), 200, 1, 100000, "streams a peer may have on a tunnel"},
	{"stock-min", offsetof(struct weft_options, stock_min), 4, 0, 1024,
	 "sockets kept ahead of need, a pod and kind, when idle"},
	{"stock-max", offsetof(struct weft_options, stock_max), 1024, 1, 65536,
	 "... and when busy"},
};
enum { N_NUMBERS = sizeof(numbers) / sizeof(numbers[0]) };

enum {
	OPT_RUN_DIR = 1000,
	OPT_USER,
	OPT_METRICS,
	OPT_READY,
	OPT_ACCESS_LOG,
	OPT_ACCESS_FORMAT,
	OPT_LOG_LEVEL,
	OPT_LOG_JSON,
	OPT_NO_SECCOMP,
	OPT_VERSION,
	OPT_HELP,
	N_WORDS = OPT_HELP - OPT_RUN_DIR + 1
};
static const struct option words[N_WORDS] = {
	{"run-dir", required_argument, NULL, OPT_RUN_DIR},
	{"user", required_argument, NULL, OPT_USER},
	{"metrics", required_argument, NULL, OPT_METRICS},
	{"ready", required_argument, NULL, OPT_READY},
	{"access-log", required_argument, NULL, OPT_ACCESS_LOG},
	{"access-log-format", required_argument, NULL, OPT_ACCESS_FORMAT},
	{"log-level", required_argument, NULL, OPT_LOG_LEVEL},
	{"log-json", no_argument, NULL, OPT_LOG_JSON},
	{"no-seccomp", no_argument, NULL, OPT_NO_SECCOMP},
	{"version", no_argument, NULL, OPT_VERSION},
	{"help", no_argument, NULL, OPT_HELP},
};

static void print_help(void)
{
	puts("weft-proxy: carries the traffic of this node's pods over mTLS.\n"
	     "\n"
	     "  weft-proxy --run-dir DIR [OPTIONS]\n"
	     "\n"
	     "  --run-dir DIR            sockets of the agent (/run/weft)\n"
	     "  --user USER|UID          switched to when started as root (weft)\n"
	     "  --metrics ADDR:PORT|off  /metrics, /stats/prometheus ([::]:15020)\n"
	     "  --ready ADDR:PORT|off    /healthz/ready ([::]:15021)\n"
	     "  --access-log -|FILE|off  one line a connection (-)\n"
	     "  --access-log-format text|json\n"
	     "  --log-level error|warn|info|debug (info)   --log-json\n"
	     "  --no-seccomp             for tests under sanitizers only\n"
	     "  --version  --help\n");
	for (int i = 0; i < N_NUMBERS; i++)
		printf("  --%-18s %s (%u)\n", numbers[i].name, numbers[i].help, numbers[i].def);
}

static int bad(const char *name, const char *rule, const char *found)
{
	fprintf(stderr, "weft-proxy: --%s: %s, is \"%s\"\n", name, rule, found);
	return -EINVAL;
}

static int set_number(struct weft_options *o, const struct number *n, const char *s)
{
	char rule[64], *end;
	unsigned long v;

	errno = 0;
	v = strtoul(s, &end, 10);
	if (errno || *end || s[0] < '0' || s[0] > '9' || v < n->min || v > n->max) {
		snprintf(rule, sizeof(rule), "must be %u..%u", n->min, n->max);
		return bad(n->name, rule, s);
	}
	*(unsigned *)((char *)o + n->offset) = (unsigned)v;
	return 0;
}

static int set_address(const char *name, const char *s, struct weft_sockaddr *ret)
{
	*ret = (struct weft_sockaddr){0};
	if (strcmp(s, "off") != 0 && weft_sockaddr_parse(s, ret))
		return bad(name, "must be ADDR:PORT or off", s);
	return 0;
}

static int set_word(struct weft_options *o, int opt, const char *s)
{
	switch (opt) {
	case OPT_RUN_DIR:
		o->run_dir = s;
		return s[0] == '/' ? 0 : bad("run-dir", "must be an absolute path", s);
	case OPT_USER:
		o->user = s;
		return 0;
	case OPT_METRICS:
		return set_address("metrics", s, &o->metrics);
	case OPT_READY:
		return set_address("ready", s, &o->ready);
	case OPT_ACCESS_LOG:
		o->access_log = strcmp(s, "off") == 0 ? NULL : s;
		return 0;
	case OPT_ACCESS_FORMAT:
		o->access_format = strcmp(s, "json") == 0 ? WEFT_LOG_JSON : WEFT_LOG_TEXT;
		if (o->access_format == WEFT_LOG_TEXT && strcmp(s, "text") != 0)
			return bad("access-log-format", "must be text or json", s);
		return 0;
	case OPT_LOG_LEVEL:
		if (weft_log_level_parse(s, &o->log_level))
			return bad("log-level", "must be error, warn, info or debug", s);
		return 0;
	case OPT_LOG_JSON:
		o->log_json = true;
		return 0;
	case OPT_NO_SECCOMP:
		o->no_seccomp = true;
		return 0;
	case OPT_VERSION:
		puts("weft-proxy " WEFT_VERSION);
		return 1;
	case OPT_HELP:
		print_help();
		return 1;
	default: /* getopt said what is wrong */
		return -EINVAL;
	}
}

static void defaults(struct weft_options *o)
{
	*o = (struct weft_options){.run_dir = "/run/weft",
				   .user = "weft",
				   .access_log = "-",
				   .log_level = WEFT_LOG_INFO};
	(void)weft_sockaddr_parse("[::]:15020", &o->metrics);
	(void)weft_sockaddr_parse("[::]:15021", &o->ready);
	for (int i = 0; i < N_NUMBERS; i++)
		*(unsigned *)((char *)o + numbers[i].offset) = numbers[i].def;
}

int weft_options_parse(int argc, char **argv, struct weft_options *ret)
{
	struct option all[N_NUMBERS + N_WORDS + 1] = {0};
	int opt, err;

	for (int i = 0; i < N_NUMBERS; i++)
		all[i] = (struct option){numbers[i].name, required_argument, NULL, i};
	memcpy(all + N_NUMBERS, words, sizeof(words));
	defaults(ret);
	if (argc < 2) {
		print_help();
		return 1;
	}
	optind = 0;
	while ((opt = getopt_long(argc, argv, "", all, NULL)) != -1) {
		err = opt < N_NUMBERS ? set_number(ret, &numbers[opt], optarg)
				      : set_word(ret, opt, optarg);
		if (err)
			return err;
	}
	if (optind < argc) {
		fprintf(stderr, "weft-proxy: only options are taken, not \"%s\"\n", argv[optind]);
		return -EINVAL;
	}
	if (ret->stock_max < ret->stock_min) {
		fprintf(stderr, "weft-proxy: --stock-max: must not be below --stock-min, is %u\n",
			ret->stock_max);
		return -EINVAL;
	}
	return 0;
}
