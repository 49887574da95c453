/* weftctl: one line a subcommand; everything else is in the file of its name. */
#include "agent/ctl/ctl.h"
#include "proxy/core/version.h"
#include <getopt.h>
#include <stdio.h>
#include <string.h>

enum { F_JSON = 1, F_POD = 2, F_UNENROLL = 4, F_CHECK = 8, F_EXPLAIN = 16 };
static const struct {
	const char *name, *args, *help;
	unsigned flags;
	int (*fn)(struct weft_ctl *c);
} commands[] = {
	{"check", "", "what this machine can do, and whether agent and proxy answer",
	 F_JSON | F_CHECK, weft_ctl_check},
	{"status", "[gateways|routes|policies]",
	 "agent, proxy, configuration, pods, certificates, counters; conditions of Gateways, of "
	 "routes, of BackendTLSPolicies",
	 F_JSON, weft_ctl_status},
	{"pod",
	 "add NS/NAME --netns PATH [--ip IP]... [--sa SA] [--label K=V]... | remove NS/NAME | list",
	 "enrolled pods of this node", F_JSON | F_POD, weft_ctl_pod},
	{"dump", "[workloads|services|policies|certs|config|proxy]", "what the mesh is made of",
	 F_JSON, weft_ctl_dump},
	{"validate", "FILE|FOLDER...",
	 "every check that the agent makes, no agent needed; of an Envoy bootstrap, those of "
	 "weft-waypoint",
	 F_JSON, weft_ctl_validate},
	{"explain", "SRC DST:PORT [--method M] [--path P] [--header N:V]...",
	 "what would become of a connection, or of a request through a waypoint, and which object "
	 "decides",
	 F_JSON | F_EXPLAIN, weft_ctl_explain},
	{"unenroll", "--all [--yes] [--pin-dir DIR]",
	 "ends all capture on this node; the agent ends too", F_UNENROLL, weft_ctl_unenroll},
};
enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

enum {
	O_RUN_DIR = 1000,
	O_PIN_DIR,
	O_CGROUP,
	O_NETNS,
	O_IP,
	O_SA,
	O_LABEL,
	O_METHOD,
	O_PATH,
	O_HEADER,
	O_ALL,
	O_YES,
	O_HELP,
	O_VERSION
};
static const struct option longs[] = {
	{"run-dir", required_argument, NULL, O_RUN_DIR},
	{"output", required_argument, NULL, 'o'},
	{"pin-dir", required_argument, NULL, O_PIN_DIR},
	{"cgroup", required_argument, NULL, O_CGROUP},
	{"netns", required_argument, NULL, O_NETNS},
	{"ip", required_argument, NULL, O_IP},
	{"sa", required_argument, NULL, O_SA},
	{"label", required_argument, NULL, O_LABEL},
	{"method", required_argument, NULL, O_METHOD},
	{"path", required_argument, NULL, O_PATH},
	{"header", required_argument, NULL, O_HEADER},
	{"all", no_argument, NULL, O_ALL},
	{"yes", no_argument, NULL, O_YES},
	{"help", no_argument, NULL, O_HELP},
	{"version", no_argument, NULL, O_VERSION},
	{0},
};

static void print_help(void)
{
	int i;

	puts("weftctl: asks and tells weft-agent and weft-proxy of this node.\n\n  weftctl "
	     "[--run-dir DIR] [-o json] COMMAND ...\n");
	for (i = 0; i < N_COMMANDS; i++)
		printf("  %-9s %s\n%s%s%s", commands[i].name, commands[i].help,
		       *commands[i].args ? "            " : "", commands[i].args,
		       *commands[i].args ? "\n" : "");
	puts("\n  --run-dir DIR  sockets of agent and proxy (/run/weft)\n"
	     "  -o json        the whole answer instead of tables (check, status, pod, dump, "
	     "explain)\n"
	     "  SRC            NS/POD or an address;  DST  NS/POD, NS/SERVICE, a host name or an "
	     "address\n"
	     "  exit           0 good; 1 a problem, or refused; 2 wrong usage");
}

/* Which commands an option belongs to; 0: every one. */
static unsigned needs(int c)
{
	switch (c) {
	case 'o':
		return F_JSON;
	case O_NETNS:
	case O_IP:
	case O_SA:
	case O_LABEL:
		return F_POD;
	case O_METHOD:
	case O_PATH:
	case O_HEADER:
		return F_EXPLAIN;
	case O_ALL:
	case O_YES:
		return F_UNENROLL;
	case O_PIN_DIR:
		return F_UNENROLL | F_CHECK;
	case O_CGROUP:
		return F_CHECK;
	default:
		return 0;
	}
}

static int usage(const char *what, const char *value)
{
	fprintf(stderr, "weftctl: %s%s%s\n", what, *value ? ": " : "", value);
	return 2;
}

static int add(const char **v, int *n, const char *item, const char *name)
{
	if (*n >= CTL_ITEMS_MAX)
		return usage("too many", name);
	v[(*n)++] = item;
	return 0;
}

static int set(struct weft_ctl *c, int o, const char *v)
{
	switch (o) {
	case O_RUN_DIR:
		c->run_dir = v;
		return 0;
	case 'o':
		c->json = true;
		return strcmp(v, "json") ? usage("-o: must be json, is", v) : 0;
	case O_PIN_DIR:
		c->pin_dir = v;
		return 0;
	case O_CGROUP:
		c->cgroup = v;
		return 0;
	case O_NETNS:
		c->netns = v;
		return 0;
	case O_SA:
		c->sa = v;
		return 0;
	case O_IP:
		return add(c->ips, &c->n_ips, v, "--ip");
	case O_LABEL:
		return add(c->labels, &c->n_labels, v, "--label");
	case O_METHOD:
		c->method = v;
		return 0;
	case O_PATH:
		c->path = v;
		return *v == '/' ? 0 : usage("--path: must begin with /, is", v);
	case O_HEADER:
		return strchr(v, ':') ? add(c->headers, &c->n_headers, v, "--header")
				      : usage("--header: must be NAME:VALUE, is", v);
	case O_ALL:
		c->all = true;
		return 0;
	case O_YES:
		c->yes = true;
		return 0;
	default:
		return 2; /* getopt said why */
	}
}

int main(int argc, char **argv)
{
	struct weft_ctl c = {.run_dir = "/run/weft", .pin_dir = "/sys/fs/bpf/weft"};
	unsigned used[16];
	int n_used = 0, o, i, j;

	if (argc == 1) {
		print_help();
		return 0;
	}
	while ((o = getopt_long(argc, argv, "o:", longs, NULL)) != -1) {
		if (o == O_HELP) {
			print_help();
			return 0;
		}
		if (o == O_VERSION) {
			puts("weftctl " WEFT_VERSION);
			return 0;
		}
		if (set(&c, o, optarg))
			return 2;
		if (needs(o) && n_used < 16)
			used[n_used++] = needs(o);
	}
	if (optind == argc)
		return usage("a command is needed; weftctl --help lists them", "");
	for (i = 0; i < N_COMMANDS && strcmp(commands[i].name, argv[optind]); i++)
		;
	if (i == N_COMMANDS)
		return usage("no such command; weftctl --help lists them", argv[optind]);
	for (j = 0; j < n_used; j++)
		if (!(used[j] & commands[i].flags))
			return usage("an option that this command does not have; it takes",
				     commands[i].args);
	c.args = argv + optind + 1;
	c.n_args = argc - optind - 1;
	return commands[i].fn(&c);
}
